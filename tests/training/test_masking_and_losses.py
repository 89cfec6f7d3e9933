"""The forward process and the losses, against recorded values where they are, and by their properties."""

import json

import pytest
import torch

from tests.golden import folder_params
from tests.training.conftest import small_model
from training.losses import arm_loss, pretrain_loss, sft_loss
from training.masking import (
    EPS,
    Noised,
    forward_process,
    forward_process_counted,
    low_discrepancy_times,
    mask_probability,
)
from training.model import LLaDA

MASK = 2


@pytest.mark.parametrize("folder", folder_params())
def test_losses_equal_the_recorded_ones(folder):
    model = LLaDA.from_folder(folder)
    for case in json.loads((folder / "losses.json").read_text()):
        tokens = torch.tensor(case["input_ids"])
        p = mask_probability(torch.tensor(case["t"]))[:, None].expand(tokens.shape)
        torch.testing.assert_close(p[:, 0], torch.tensor(case["p_mask"]))
        answer = torch.arange(tokens.shape[1]) >= torch.tensor(case["prompt_lengths"])[:, None]

        def loss_of(name, function, *rest, tokens=tokens, p=p, case=case):
            noisy = torch.tensor(case[name])
            noised = Noised(noisy, noisy == model.config.mask_token_id, 1 / p)
            with torch.no_grad():
                return function(model(noised.tokens, noised.masked).double(), tokens, noised, *rest).item()

        assert loss_of("noisy_pretrain", pretrain_loss) == pytest.approx(case["pretrain_loss"], rel=1e-6)
        assert loss_of("noisy_sft", sft_loss, answer) == pytest.approx(case["sft_loss"], rel=1e-6)


def noised_rows(process, batch=400, length=10, prompt=3):
    tokens = torch.randint(3, 60, (batch, length))
    maskable = (torch.arange(length) >= prompt).expand(batch, length)
    draws = torch.rand(batch, length)
    t = low_discrepancy_times(0.37, batch)
    return tokens, maskable, t, draws, process(tokens, t, draws, mask_id=MASK, maskable=maskable)


@pytest.mark.parametrize("process", [forward_process, forward_process_counted])
def test_only_maskable_tokens_are_hidden_and_the_rest_is_untouched(process):
    tokens, maskable, _, _, noised = noised_rows(process)
    assert not (noised.masked & ~maskable).any()
    assert (noised.tokens == torch.where(noised.masked, MASK, tokens)).all()


@pytest.mark.parametrize("process", [forward_process, forward_process_counted])
def test_the_weighted_mask_is_unbiased(process):
    """Each maskable token's expected weight is one: the loss is a fair estimate of the sum over the answer."""
    torch.manual_seed(0)
    means = torch.stack([(n.weight * n.masked)[:, 3:].mean() for *_, n in (noised_rows(process) for _ in range(60))])
    assert means.mean().item() == pytest.approx(1, abs=0.06)


def test_each_token_is_hidden_with_probability_p():
    tokens, _, t, draws, noised = noised_rows(forward_process)
    p = (1 - EPS) * t + EPS
    assert (noised.masked[:, 3:] == (draws < p[:, None])[:, 3:]).all()
    torch.testing.assert_close(noised.weight, (1 / p)[:, None].expand(tokens.shape))


def test_counted_rows_hide_between_one_and_all():
    _, maskable, _, _, noised = noised_rows(forward_process_counted)
    counts = noised.masked.sum(1)
    assert counts.min() == 1
    assert counts.max() == 7
    assert torch.bincount(counts)[1:].tolist() == pytest.approx([400 / 7] * 7, abs=1)  # low discrepancy: even
    torch.testing.assert_close(noised.weight[:, 0], maskable.sum(1) / counts)


def test_times_are_even_and_in_the_unit_interval():
    t = low_discrepancy_times(0.9999, 8)
    assert ((t >= 0) & (t < 1)).all()
    torch.testing.assert_close(t.sort().values.diff(), torch.full((7,), 1 / 8))


def test_sft_loss_of_fully_maskable_rows_is_the_pretraining_loss():
    tokens, _, t, draws, _ = noised_rows(forward_process, batch=6)
    noised = forward_process(tokens, t, draws, mask_id=MASK)
    logits = small_model()(noised.tokens, noised.masked)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    torch.testing.assert_close(sft_loss(logits, tokens, noised, everything), pretrain_loss(logits, tokens, noised))


def test_a_batch_without_a_hidden_token_has_loss_zero():
    tokens = torch.tensor([[5, 6, 7]])
    noised = forward_process(tokens, torch.zeros(1), torch.ones(1, 3) * 0.5, mask_id=MASK)
    loss = pretrain_loss(small_model()(noised.tokens, noised.masked), tokens, noised)
    assert loss.item() == 0
    loss.backward()


def test_arm_loss_is_next_token_cross_entropy():
    model, tokens = small_model(causal=True), torch.tensor([[5, 6, 7, 8]])
    logits = model(tokens)
    log_p = logits.log_softmax(-1)
    by_hand = -torch.stack([log_p[0, i, tokens[0, i + 1]] for i in range(3)])
    torch.testing.assert_close(arm_loss(logits, tokens), by_hand.mean())
    counted = torch.tensor([[False, False, False, True]])
    torch.testing.assert_close(arm_loss(logits, tokens, counted), by_hand[2])
