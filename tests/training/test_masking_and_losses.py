"""The forward process and the losses by their properties; test_objectives.py holds them to recorded values."""

import pytest
import torch

from tests.training.conftest import small_model
from training.losses import next_token_losses, token_losses
from training.masking import (
    EPS,
    forward_process,
    forward_process_counted,
    low_discrepancy_times,
)

MASK = 2


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


def test_a_token_loss_is_its_cross_entropy_times_its_weight():
    tokens, _, _, _, noised = noised_rows(forward_process, batch=6)
    logits = small_model()(noised.tokens, noised.masked)
    rows, places = noised.masked.nonzero(as_tuple=True)
    log_p = logits.log_softmax(-1)
    by_hand = [
        -log_p[index, tokens[row, place]] * noised.weight[row, place]
        for index, (row, place) in enumerate(zip(rows, places, strict=True))
    ]
    torch.testing.assert_close(token_losses(logits, tokens, noised), torch.stack(by_hand))


def test_a_batch_without_a_hidden_token_has_loss_zero():
    tokens = torch.tensor([[5, 6, 7]])
    noised = forward_process(tokens, torch.zeros(1), torch.ones(1, 3) * 0.5, mask_id=MASK)
    loss = token_losses(small_model()(noised.tokens, noised.masked), tokens, noised).sum()
    assert loss.item() == 0
    loss.backward()


def test_a_next_token_loss_is_the_cross_entropy_under_the_logits_before():
    model, tokens = small_model(causal=True), torch.tensor([[5, 6, 7, 8]])
    logits = model(tokens)
    log_p = logits.log_softmax(-1)
    by_hand = -torch.stack([log_p[0, i, tokens[0, i + 1]] for i in range(3)])
    targets = torch.tensor([[False, True, True, True]])
    torch.testing.assert_close(next_token_losses(logits[0, :-1], tokens, targets), by_hand)
    last = torch.tensor([[False, False, False, True]])
    torch.testing.assert_close(next_token_losses(logits[0, 2:3], tokens, last), by_hand[2:])
