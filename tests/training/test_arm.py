"""The ARM with its cache against the same model without one, and its likelihood by hand."""

import math

import pytest
import torch

from tests.tolerance import ROUNDING
from tests.training.conftest import small_model
from training.arm import ArmCache, generate, log_likelihoods, perplexity, ratio

EOS = 1


def arm(**changes):
    """A causal model whose answers vary: larger weights than a fresh model's."""
    model = small_model(seed=5, causal=True, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model.eval()


@torch.no_grad()
def cache_free(model, prompt, max_new_tokens, stop_ids=()):
    """The whole text again for each token."""
    tokens = list(prompt)
    for _ in range(max_new_tokens):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        if tokens[-1] in stop_ids:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 1}, {"weight_tying": True}])
def test_cached_generation_is_the_cache_free_loop(changes):
    model = arm(**changes)
    torch.manual_seed(1)
    prompts = [torch.randint(3, 60, (length,)).tolist() for length in (1, 7, 3, 12, 3, 5, 9)]
    expected = [cache_free(model, prompt, 20) for prompt in prompts]
    assert len({tuple(answer) for answer in expected}) > 3  # not one token for ever
    assert generate(model, prompts, max_new_tokens=20) == expected
    assert generate(model, prompts, max_new_tokens=20, batch=3) == expected


def test_an_answer_ends_with_the_first_stop_token():
    model, prompts = arm(), [[5, 6], [7, 8, 9]]
    free = generate(model, prompts, max_new_tokens=12)
    stop = free[0][4]
    stopped = generate(model, prompts, max_new_tokens=12, stop_ids=[stop])
    assert stopped == [cache_free(model, prompt, 12, [stop]) for prompt in prompts]
    assert stopped[0] == free[0][: free[0].index(stop) + 1]


def test_cached_logits_are_those_of_the_whole_text():
    model = arm()
    tokens = torch.tensor([[5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    cache = ArmCache(model, 2, 8)
    # Row 1 has a prompt of three tokens, row 0 of four: what fills row 1 up must not matter.
    positions = torch.arange(4).expand(2, 4)
    first = torch.where(positions < torch.tensor([[4], [3]]), tokens[:, :4], 0)
    logits = cache.forward(first, positions, torch.tensor([3, 2]))
    with torch.no_grad():
        whole = model(tokens)
        tolerance = 64 * ROUNDING["float32"] * whole.abs().max().item()
        torch.testing.assert_close(logits[0], whole[0, 3], rtol=0, atol=tolerance)
        torch.testing.assert_close(logits[1], whole[1, 2], rtol=0, atol=tolerance)
        step = cache.forward(
            tokens[[0, 1], [4, 3]][:, None], torch.tensor([[4], [3]]), torch.zeros(2, dtype=torch.long)
        )
        torch.testing.assert_close(step[1], whole[1, 3], rtol=0, atol=tolerance)
        torch.testing.assert_close(step[0], whole[0, 4], rtol=0, atol=tolerance)


def test_drawing_follows_the_softmax():
    model, rng = arm(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        expected = model(torch.tensor([[5, 6, 7]]))[0, -1].double().softmax(-1)
    drawn = generate(model, [[5, 6, 7]] * 4000, max_new_tokens=1, temperature=1.0, generator=rng, batch=1000)
    shares = torch.bincount(torch.tensor(drawn).flatten(), minlength=len(expected)) / 4000
    # A share's deviation is sqrt(p (1 - p) / n); 64 shares stay within five of them.
    assert ((shares - expected).abs() <= 5 * (expected * (1 - expected) / 4000).sqrt() + 1 / 4000).all()


def test_likelihood_is_the_sum_over_the_answer():
    model = arm()
    rows = [([5, 6, 7], [8, 9, EOS]), ([4], [5, EOS]), ([], [5, 6, 7, EOS])]
    with torch.no_grad():
        for (prompt, answer), found in zip(rows, log_likelihoods(model, rows), strict=True):
            text = [*prompt, *answer]
            table = model(torch.tensor([text])).double().log_softmax(-1)[0]
            by_hand = sum(table[i - 1, text[i]].item() for i in range(max(len(prompt), 1), len(text)))
            assert found == pytest.approx(by_hand, rel=64 * ROUNDING["float32"])
    small_batches = log_likelihoods(model, rows, batch_tokens=4)
    assert small_batches == pytest.approx(log_likelihoods(model, rows), rel=64 * ROUNDING["float32"])
    result = perplexity(model, rows)
    assert result.num_tokens == 3 + 2 + 3
    assert result.nats_per_token == pytest.approx(-sum(log_likelihoods(model, rows)) / 8)
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token))


def test_the_error_of_a_ratio():
    assert ratio([4.0, 2.0], [2, 1]) == (2.0, 0.0)  # every row at the mean
    mean, error = ratio([1.0, 3.0], [1, 1])
    assert (mean, error) == (2.0, pytest.approx(1.0))  # deviation sqrt(2) over sqrt(2) rows
    assert math.isnan(ratio([1.0], [1])[1])


def test_wrong_uses_are_refused():
    with pytest.raises(ValueError, match="causal"):
        generate(small_model(), [[5]], max_new_tokens=2)
    with pytest.raises(ValueError, match="causal"):
        log_likelihoods(small_model(), [([5], [6])])
    with pytest.raises(ValueError, match="empty"):
        generate(arm(), [[]], max_new_tokens=2)
    with pytest.raises(ValueError, match="600 positions, the context has 512"):
        generate(arm(), [[5] * 500], max_new_tokens=100)
