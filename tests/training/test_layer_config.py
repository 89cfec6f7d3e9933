"""Layers that are not LLaDA's: torch against numpy, the same names as in the runtime, and what is refused."""

import json
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.reference.forward import Model
from tests.tolerance import LAYER_LOGITS, error
from tests.training.conftest import small_config
from training.arm import ArmCache
from training.layer_config import CHOICES, LayerConfig
from training.model import LLaDA, ModelConfig
from training.weights import save_weights

CSRC = Path(__file__).resolve().parents[2] / "csrc" / "model"
PLAIN = {"head_dim": 16, "rotary_dim": 16, "mlp_hidden_size": 48}
NORMED = {"qk_norm": "per_head"}
# What each of the two layers has beside PLAIN.
KINDS = {
    "plain": ({}, {}),
    "biases": ({"qkv_bias": True},) * 2,
    "norm of heads": (NORMED,) * 2,
    "norm of heads after rope": ({**NORMED, "qk_norm_place": "after_rope"},) * 2,
    "norm of all": ({"qk_norm": "whole"},) * 2,
    "norm of all after rope": ({"qk_norm": "whole", "qk_norm_place": "after_rope"},) * 2,
    "wide heads": ({"head_dim": 24, "rotary_dim": 24},) * 2,
    "partial rotation": ({"rotary_dim": 8},) * 2,
    "all at once": ({"head_dim": 24, "rotary_dim": 8, "qkv_bias": True, **NORMED},) * 2,
    "layers that differ": ({"qkv_bias": True, "mlp_hidden_size": 40}, {"qk_norm": "whole"}),
}
TOKENS = torch.arange(3, 16)


def layered(kind: str, **changes) -> LLaDA:
    """A model of two such layers; vectors are random too, so that each of them counts."""
    layers = tuple(LayerConfig(**{**PLAIN, **own}) for own in KINDS[kind])
    model = LLaDA(small_config(n_kv_heads=1, layers=layers, **changes))
    generator = torch.Generator().manual_seed(0)
    model.initialize(generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(name.endswith("weight") + torch.randn(parameter.shape, generator=generator) / 4)
            elif "q_proj" in name or "k_proj" in name:
                parameter.mul_(20)  # scores that matter: else all keys count alike, whatever was done to them
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_torch_and_numpy_agree(tmp_path, kind):
    model = layered(kind)
    (tmp_path / "config.json").write_text(model.config.to_json("float32"))
    save_weights(model.state_dict(), tmp_path, torch.float32)
    with torch.no_grad():
        logits = model(TOKENS[None])[0].numpy()
    assert error(logits, Model(tmp_path).forward(TOKENS.numpy())) <= LAYER_LOGITS
    loaded = LLaDA.from_folder(tmp_path)
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS[None]), model(TOKENS[None]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plain"])
def test_each_kind_is_another_network(tmp_path, kind):
    """The numpy twin without the field gives other logits, or has no place for the weights."""
    model = layered(kind)
    config = json.loads(model.config.to_json("float32"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers": [PLAIN] * 2}))
    save_weights(model.state_dict(), tmp_path, torch.float32)
    with torch.no_grad():
        logits = model(TOKENS[None])[0].numpy()
    if model.config.head_dim != PLAIN["head_dim"]:
        with pytest.raises(ValueError, match=r"shapes|mismatch|reshape"):
            Model(tmp_path).forward(TOKENS.numpy())
    else:
        assert error(logits, Model(tmp_path).forward(TOKENS.numpy())) > 100 * LAYER_LOGITS


@pytest.mark.parametrize("kind", KINDS)
def test_an_arm_with_a_cache_is_its_whole_forward(kind):
    model = layered(kind, causal=True)
    cache, length = ArmCache(model, 1, len(TOKENS)), len(TOKENS)
    with torch.no_grad():
        whole = model(TOKENS[None])[0]
    for begin, end in ((0, 5), (5, length)):
        rows = cache.forward(TOKENS[None, begin:end], torch.arange(begin, end)[None], torch.tensor([end - begin - 1]))
        assert error(rows[0].numpy(), whole[end - 1].numpy()) <= LAYER_LOGITS


def test_fields_and_values_are_those_of_the_runtime():
    header, source = (CSRC / "layer_config.h").read_text(), (CSRC / "layer_config.cc").read_text()
    record = header.split("struct LayerConfig {")[1].split("};")[0]
    members = re.findall(r"^\s*([\w:]+) (\w+) = [\w:]+;", record, re.MULTILINE)
    assert [name for _, name in members] == [field.name for field in fields(LayerConfig)]
    names = {
        kind: tuple(re.findall(r'"(\w+)"', listed)) for kind, listed in re.findall(r"\((\w+) value\) {([^}]*)}", source)
    }
    assert {name: names[kind] for kind, name in members if kind in names} == CHOICES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp": "moe"}, "mlp: expected dense, got moe"),
        ({"num_experts": 4}, "num_experts: expected 0, got 4"),
        ({"top_k": 2}, "top_k: expected 0, got 2"),
        ({"num_shared_experts": 1}, "num_shared_experts: expected 0, got 1"),
        ({"router": "softmax"}, "router: expected none, got softmax"),
        ({"attention": "block_causal"}, "layer 1: attention: expected full, got block_causal"),
        ({"rotary_dim": 8}, "layer 1: rotary_dim: expected 16, got 8"),
        ({"head_dim": 24}, "layer 1: head_dim: expected 16, got 24"),
        ({"qk_norm": "layer"}, "qk_norm: expected one of none, per_head, whole, got 'layer'"),
        ({"rotary_dim": 18}, "rotary_dim: expected at most head_dim 16, got 18"),
        ({"head_dim": 15}, "head_dim: expected a positive even number, got 15"),
    ],
)
def test_what_is_not_trained_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        small_config(layers=(LayerConfig(**PLAIN), LayerConfig(**{**PLAIN, **change})))


def test_a_list_of_another_length_and_an_unknown_field_are_refused(tmp_path):
    with pytest.raises(ValueError, match="layers: expected 2 entries, one for each layer, got 1"):
        small_config(layers=(LayerConfig(**PLAIN),))
    config = json.loads(small_config(layers=(LayerConfig(**PLAIN),) * 2).to_json("float32"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers": [PLAIN, {**PLAIN, "wobble": 1}]}))
    with pytest.raises(ValueError, match="got wobble"):
        ModelConfig.from_json(tmp_path / "config.json")


def test_layers_of_llada_are_llada():
    """A list that says what the sizes say anyway changes no logit."""
    plain = small_config()
    twins = [LLaDA(plain), LLaDA(small_config(layers=plain.layer_configs))]
    for twin in twins:
        twin.initialize(torch.Generator().manual_seed(0))
    first, second = (twin(TOKENS[None]).detach().numpy() for twin in twins)
    assert np.array_equal(first, second)
