"""score: the published estimator, replayed and drawn."""

import math

import numpy as np
import pytest

from llada_rt import Engine
from llada_rt.score import draw_noise
from tests.data.make_goldens import IDS


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


@pytest.mark.parametrize("cfg_scale", [0.0, 0.7])
def test_against_forward_passes(engine: Engine, cfg_scale):
    prompt, answer = [3, 1, 4], [15, 92, 65, 35]
    noise, expected = [], []
    for holes in ([0], [1, 3], [0, 1, 2, 3], [2]):
        noisy = [*prompt, *(IDS.mask if i in holes else token for i, token in enumerate(answer))]
        logits = engine.forward(noisy)
        if cfg_scale:
            guide = engine.forward([*[IDS.mask] * 3, *noisy[3:]])
            logits = guide + (cfg_scale + 1) * (logits - guide)
        rows = log_softmax(logits)
        noise.append({"tokens": noisy, "mask_ratio": len(holes) / 4})
        expected.append(sum(rows[3 + i, answer[i]] for i in holes) / (len(holes) / 4))
    score = engine.score(prompt, answer, noise=noise, cfg_scale=cfg_scale)
    assert score.log_likelihood == pytest.approx(np.mean(expected), rel=1e-5)
    assert score.standard_error == pytest.approx(np.std(expected, ddof=1) / 2, rel=1e-4)
    assert score.num_samples == 4
    log_likelihood, standard_error = score
    assert (log_likelihood, standard_error) == (score.log_likelihood, score.standard_error)


def test_a_drawn_score_can_be_replayed(engine: Engine):
    prompt, answer = [3, 1, 4], [15, 92, 65, 35, 89]
    drawn = engine.score(prompt, answer, mc_num=40, seed=3)
    draws = draw_noise(prompt, answer, mc_num=40, seed=3, mask_id=IDS.mask)
    noise = [{"tokens": d.tokens.tolist(), "mask_ratio": d.mask_ratio, "group": d.group} for d in draws]
    assert engine.score(prompt, answer, noise=noise) == drawn
    unrelated = engine.score(
        prompt, answer, noise=[{name: d[name] for name in ("tokens", "mask_ratio")} for d in noise]
    )
    assert unrelated.log_likelihood == drawn.log_likelihood
    assert unrelated.standard_error != drawn.standard_error
    assert engine.score(prompt, answer, mc_num=40, seed=3) == drawn
    assert engine.score(prompt, answer, mc_num=40, seed=4) != drawn


def test_one_token_needs_one_draw(engine: Engine):
    score = engine.score([3, 1, 4], [15], mc_num=1)
    exact = log_softmax(engine.forward([3, 1, 4, IDS.mask]))[3, 15]
    assert score.log_likelihood == pytest.approx(exact, rel=1e-5)
    assert math.isnan(score.standard_error)


def test_an_unconditional_score_and_text(speaker: Engine):
    assert speaker.score("", "床前", mc_num=2).log_likelihood < 0
    assert speaker.score("ab", "cd", mc_num=8) == speaker.score([65, 66], [67, 68], mc_num=8)


@pytest.mark.parametrize("length", [1, 2, 5, 16, 40])
def test_noise_is_the_published_draw(length):
    prompt, answer = [1, 2, 3], list(range(10, 10 + length))
    draws = draw_noise(prompt, answer, mc_num=480, seed=7, mask_id=IDS.mask)
    counts = []
    for draw in draws:
        masked = draw.tokens == IDS.mask
        assert not masked[:3].any()
        assert np.array_equal(masked, draw.targets >= 0)
        assert np.array_equal(np.where(masked, draw.targets, draw.tokens), [*prompt, *answer])
        assert draw.mask_ratio == masked.sum() / length
        counts.append(int(masked.sum()))
    # Every mask count is equally likely.
    histogram = np.bincount(counts, minlength=length + 1)
    assert histogram[0] == 0
    assert abs(histogram[1:] - 480 / length).max() <= 0.5 * 480 / length + 12
    # Within sixteen draws the counts are spread evenly, from a random start, as by the published formula.
    for begin in range(0, 480, 16):
        group = counts[begin : begin + 16]
        start = group[0]
        spread = [(round(start + i * (length / 16) * 16 / 15 * 15 / 16 * 16 / 16) - 1) % length + 1 for i in range(1)]
        assert spread[0] == start
        assert max(np.bincount(group, minlength=length + 1)[1:]) <= math.ceil(16 / length) + 1
