"""score: the published estimator, replayed and drawn."""

import math
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from llada_rt import Engine, RequestCancelledError, SamplingParams
from llada_rt.runtime import intake
from llada_rt.runtime.score import Estimate, draw_noise
from tests.data.make_goldens import IDS
from tests.engine.conftest import check_idle


def estimate(draws, log_probs):
    found = Estimate(len(draws))
    for index, (draw, row) in enumerate(zip(draws, log_probs, strict=True)):
        found.take(index, draw, row)
    return found.result()


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


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
def test_draws_are_made_as_they_are_admitted(engine: Engine, monkeypatch, cfg_scale):
    """A hundred thousand of them take no memory before their turn, and an abort leaves none."""
    tracemalloc.start()
    job = engine._intake.score_job(
        [3] * 60, [4] * 60, mc_num=100_000, seed=0, noise=None, cfg_scale=cfg_scale, request_id="long"
    )
    assert len(job.members) == 1
    num_live, denoise = [], engine._runner.denoise

    def watched(plan):
        num_live.append(len(job.members))
        if len(num_live) == 300:
            engine.abort("long")
        return denoise(plan)

    monkeypatch.setattr(engine._runner, "denoise", watched)
    engine._dispatcher.run([job])
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(job.error, RequestCancelledError)
    assert taken < 8 << 20, taken
    assert 1 < max(num_live) <= 1 + 4096 // 120
    check_idle(engine)
    assert engine.score([3, 1], [4], mc_num=2).num_samples == 2


def test_a_draw_that_cannot_be_made_ends_its_score(engine: Engine, monkeypatch):
    made = iter(range(5))
    draw = intake.guide_of

    def scarce(*args):
        if next(made, None) is None:
            raise MemoryError("planted")
        return draw(*args)

    with monkeypatch.context() as patch:
        patch.setattr(intake, "guide_of", scarce)
        with pytest.raises(MemoryError, match="planted"):
            engine.score([1], [2, 3], mc_num=40, cfg_scale=0.5)
    check_idle(engine)
    assert engine.score([1], [2, 3], mc_num=4).num_samples == 4


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


@pytest.mark.parametrize(("length", "mc_num"), [(8, 64), (24, 32), (5, 80)])
def test_the_standard_error_is_the_deviation_of_the_estimate(length, mc_num):
    """Over many seeds, with made-up log-probabilities that depend on how much is masked, as a model's do. Draws taken
    for independent would claim far too much: the mask counts are spread, not drawn.
    """
    answer, made_up = list(range(10, 10 + length)), np.random.default_rng(0).normal(-2, 0.1, length)
    estimates, errors, naive = [], [], []
    for seed in range(400):
        draws = list(draw_noise([1], answer, mc_num=mc_num, seed=seed, mask_id=IDS.mask))
        rows = [made_up[draw.targets[1:] >= 0] * (1 + 3 * draw.mask_ratio) for draw in draws]
        score = estimate(draws, rows)
        values = [row.sum() / draw.mask_ratio for row, draw in zip(rows, draws, strict=True)]
        estimates.append(score.log_likelihood)
        errors.append(score.standard_error)
        naive.append(np.std(values, ddof=1) / math.sqrt(mc_num))
    true = np.std(estimates)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(true, rel=0.15)
    assert np.mean(naive) > 1.5 * true


def test_a_single_group_has_an_error_too():
    draws = list(draw_noise([1], list(range(40)), mc_num=16, seed=3, mask_id=IDS.mask))
    smooth = estimate(draws, [[-draw.mask_ratio * (1 + draw.mask_ratio)] for draw in draws])
    independent = estimate(
        [replace(draw, group=None) for draw in draws], [[-d.mask_ratio * (1 + d.mask_ratio)] for d in draws]
    )
    assert smooth.log_likelihood == independent.log_likelihood
    assert 0 < smooth.standard_error < independent.standard_error


def test_many_scores_at_once_are_as_alone(engine: Engine):
    """Beside each other and beside a generation; in whatever order their draws run."""
    calls = [([n, n + 1], list(range(n, n + 1 + n % 7)), n % 2 / 2) for n in range(24)]
    alone = [engine.score(prompt, answer, mc_num=20, cfg_scale=scale) for prompt, answer, scale in calls]
    params = SamplingParams(gen_length=32, block_length=4, preset="quality", eos_early_stop=False)
    expected = engine.generate([[1]], params)[0].outputs[0].token_ids

    def ask(index):
        if index == len(calls):
            return engine.generate([[1]], params)[0].outputs[0].token_ids
        prompt, answer, scale = calls[index]
        return engine.score(prompt, answer, mc_num=20, cfg_scale=scale)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(len(calls) + 1))) == [*alone, expected]
