"""Adapters: the model is unchanged when they are put in, only they learn, and merging them changes nothing."""

import sys

import pytest
import torch

from tests.tolerance import FORWARD_FLOOR
from tests.training.conftest import small_config, small_model
from training.lora import TARGETS, LoraConfig, adapter_layers, adapters_off, add_adapters, has_adapters, merge_adapters
from training.model import LLaDA

pytest.importorskip("peft", reason="peft is an extra: llada-rt[lora]")
TOKENS = torch.arange(3, 17).reshape(2, 7)


RANK_4 = LoraConfig(rank=4)


def adapted(config=RANK_4, **options):
    """A model with adapters that say something."""
    model = small_model(**options)
    add_adapters(model, config, seed=5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


def assert_close(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=4 * FORWARD_FLOOR["float32"] * want.abs().max().item())


def test_new_adapters_change_nothing_and_depend_on_the_seed_alone():
    plain, model = small_model(), small_model()
    state = torch.get_rng_state()
    add_adapters(model, LoraConfig(), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(TOKENS), plain(TOKENS))
    again, other = small_model(), small_model()
    add_adapters(again, LoraConfig(), seed=5)
    add_adapters(other, LoraConfig(), seed=6)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)]
    differ = [not torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)]
    assert all(same)
    assert sum(differ) == 2 * len(TARGETS)  # the A of every matrix


@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 1, "weight_tying": True}, {"causal": True}])
def test_the_merged_model_is_the_adapted_one(options):
    model = adapted(**options)
    expected = model(TOKENS)
    assert not torch.equal(expected, small_model(**options)(TOKENS))
    merge_adapters(model)
    assert_close(model(TOKENS), expected)
    plain = LLaDA(small_config(**options))
    plain.load_state_dict(model.state_dict(), strict=True)  # the published names, none besides
    assert_close(plain(TOKENS), expected)
    assert not has_adapters(model)


def test_adapters_off_is_the_model_before_and_on_again_after():
    model = adapted()
    expected = model(TOKENS)
    with adapters_off(model):
        assert torch.equal(model(TOKENS), small_model()(TOKENS))
    assert torch.equal(model(TOKENS), expected)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in model.named_parameters() if ".lora_" in name
    }


def test_only_adapters_learn():
    model = adapted(LoraConfig(rank=2, targets=("q_proj", "ff_out")))
    assert {name.rsplit(".", 1)[1] for name, _ in adapter_layers(model)} == {"q_proj", "ff_out"}
    assert len(adapter_layers(model)) == 4  # two layers; the head, which is an ff_out too, has none
    model(TOKENS).square().mean().backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, _ in model.named_parameters() if ".lora_" in name}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"targets": ("q_proj", "wte")}, r"got \['wte'\]"),
        ({"targets": ()}, "got none"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LoraConfig(**options)


def test_adapters_on_adapters_are_refused():
    with pytest.raises(ValueError, match="already"):
        add_adapters(adapted(), LoraConfig(), seed=0)


def test_without_peft_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"llada-rt\[lora\]"):
        add_adapters(small_model(), LoraConfig(), seed=0)
