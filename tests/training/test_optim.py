"""Schedules and optimisers: the published steps, torch's Muon, and what is left alone."""

import pytest
import torch

from tests.training.conftest import small_model
from training.config import TrainConfig
from training.optim import Muon, learning_rate_factor, make_optimizers


def factors(**options) -> list[float]:
    config = TrainConfig(**{"seed": 0, "steps": 100, "lr": 1.0, "warmup_steps": 10, **options})
    return [learning_rate_factor(config, step) for step in range(config.steps)]


def test_wsd_warms_up_stays_and_decays_to_zero():
    values = factors(decay_share=0.4)
    assert values[0] == pytest.approx(0.1)
    assert values[9:61] == pytest.approx([1.0] * 52)
    assert values[99] == pytest.approx(1 / 40)
    assert values == sorted(values[:10]) + sorted(values[10:], reverse=True)


def test_wsd_llada_takes_the_published_steps():
    """arXiv 2502.09992: 4e-4, 1e-4 from 1.2 T of 2.3 T tokens on, 1e-4 to 1e-5 over the last 0.3 T."""
    share = {"drop_at": 1.2 / 2.3, "drop": 0.25, "decay_share": 0.3 / 2.3, "final": 0.025}
    values = [4e-4 * factor for factor in factors(schedule="wsd_llada", steps=2300, warmup_steps=20, **share)]
    assert values[0] == pytest.approx(2e-5)
    assert values[19:1200] == pytest.approx([4e-4] * 1181)
    assert values[1201:2000] == pytest.approx([1e-4] * 799)
    assert values[2150] == pytest.approx(5.5e-5)
    assert values[2299] == pytest.approx(1e-5 + 9e-5 / 300)


def test_cosine_ends_at_its_final_value():
    values = factors(schedule="cosine", steps=1000, final=0.1)
    assert values[10] == 1.0
    assert values[505] == pytest.approx(0.55)
    assert values[999] == pytest.approx(0.1, abs=1e-4)
    assert values[10:] == sorted(values[10:], reverse=True)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16), (1, 5)])
def test_muon_is_torchs_to_the_bit(shape):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.full(shape, 0.5)) for _ in range(2))
    optimizers = [
        Muon([ours], lr=0.02, weight_decay=0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1),
    ]
    for _ in range(5):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_matrices_vectors_and_frozen_weights_are_kept_apart():
    model = small_model()
    model.transformer["wte"].weight.requires_grad_(False)
    config = TrainConfig(seed=0, steps=1, lr=0.1, matrix_lr=0.2, weight_decay=0.3)
    adamw, muon = make_optimizers(model, config)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, kept = adamw.param_groups
    assert [names[p] for p in decayed["params"]] == ["transformer.ff_out.weight"]
    assert decayed["weight_decay"] == 0.3
    assert all(p.dim() == 1 for p in kept["params"])
    assert kept["weight_decay"] == 0
    assert all(p.dim() == 2 and ".blocks." in names[p] for p in muon.param_groups[0]["params"])
    total = sum(len(group["params"]) for optimizer in (adamw, muon) for group in optimizer.param_groups)
    assert total == len(names) - 1


def test_nothing_to_train_is_said():
    model = small_model().requires_grad_(False)
    with pytest.raises(ValueError, match="all frozen"):
        make_optimizers(model, TrainConfig(seed=0, steps=1, lr=0.1))
