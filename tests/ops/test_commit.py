"""commit: which candidates are written, for every rule, with ties, empty sets and a mask that wins."""

import numpy as np
import pytest

from tests.reference.commit import RULES, commit

MASK = 99
RULE = {
    "top_k": (0, 0.0),
    "threshold": (0, 0.6),
    "factor": (0, 1.0),
    "frechet": (0, -1.5),
    "local_leap": (0, 0.6),
    "entropy_bound": (0, 0.6),
}


def both(ops, canvas, positions, tokens, confidence, rule, *, count=0, value=0.0, alternatives=None, **more):
    """The op's (canvas, committed), checked against the reference. more: near_value, radius, entropy."""
    canvas, positions, tokens = (np.asarray(a, np.int32) for a in (canvas, positions, tokens))
    confidence = np.asarray(confidence, np.float64)
    others = alternatives and (np.asarray(alternatives[0], np.int32), np.asarray(alternatives[1], np.float64))
    more = {"near_value": 0.3, "radius": 2, "entropy": 1 - confidence, **more}
    before = canvas.copy()
    got = ops.commit(canvas, positions, tokens, confidence, RULES.index(rule), count, value, MASK, others, **more)
    want = commit(
        canvas, positions, tokens, confidence, rule, count=count, value=value, mask_id=MASK, alternatives=others, **more
    )
    assert np.array_equal(canvas, before)
    assert np.array_equal(got[0], want[0])
    told = got[1][got[0][got[1]] != MASK]  # the op tells of masks too; the loop leaves them out
    assert np.array_equal(told, want[1])
    return got[0], told


@pytest.mark.parametrize("n", [0, 1, 2, 7, 64, 65, 1000])
@pytest.mark.parametrize("count", [0, 1, 3, 64, 2000])
def test_commit_top_k(ops, n, count):
    rng = np.random.default_rng(n + count)
    positions = np.sort(rng.choice(2 * n + 1, n, replace=False))
    both(ops, np.full(2 * n + 1, MASK), positions, rng.integers(0, 90, n), rng.random(n), "top_k", count=count)


@pytest.mark.parametrize("n", [1, 2, 9, 65])
@pytest.mark.parametrize("tau", [1e-9, 0.3, 0.9, 1.0])
def test_commit_threshold(ops, n, tau):
    rng = np.random.default_rng(n)
    canvas, committed = both(
        ops, np.full(n, MASK), np.arange(n), rng.integers(0, 90, n), rng.random(n), "threshold", value=tau
    )
    assert len(committed) >= 1
    assert (canvas != MASK).sum() == len(committed)


def test_commit_threshold_includes_equality(ops):
    _, committed = both(ops, [MASK] * 3, [0, 1, 2], [4, 5, 6], [0.5, 0.9, 0.7], "threshold", value=0.7)
    assert committed.tolist() == [1, 2]


@pytest.mark.parametrize("n", [1, 2, 9, 65])
@pytest.mark.parametrize("factor", [1e-9, 0.5, 1.0, 3.0, 1e9])
def test_commit_factor(ops, n, factor):
    rng = np.random.default_rng(n)
    confidence = 1 - 0.3 * rng.random(n) ** 3
    both(ops, np.full(n, MASK), np.arange(n), rng.integers(0, 90, n), confidence, "factor", value=factor)


def test_commit_factor_takes_the_largest_n(ops):
    """(n + 1)(1 - c_n): 0.2, 0.6, 1.0 -> with f = 1 the third is just outside."""
    _, committed = both(ops, [MASK] * 4, [0, 1, 2, 3], [1, 2, 3, 4], [0.75, 0.9, 0.8, 0.0], "factor", value=1.0)
    assert committed.tolist() == [1, 2]


@pytest.mark.parametrize("n", [1, 2, 9, 65, 300])
@pytest.mark.parametrize("delta", [-3.0, 0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("doubt", [1.0, 0.1, 0.001])
def test_commit_frechet(ops, n, delta, doubt):
    rng = np.random.default_rng(n)
    confidence = 1 - doubt * rng.random(n) ** 3
    both(ops, np.full(n, MASK), np.arange(n), rng.integers(0, 90, n), confidence, "frechet", value=delta)


def test_commit_frechet_takes_the_largest_n(ops):
    """Scores 0.75, 0.625, 0.25, -0.5; one that equals delta is just outside."""
    confidence = [0.75, 0.875, 0.875, 0.5]
    for delta, expected in ((-0.5, [1, 2, 0]), (0.25, [1, 2]), (0.625, [1]), (0.75, [1]), (1.0, [1])):
        _, committed = both(ops, [MASK] * 4, range(4), [1, 2, 3, 4], confidence, "frechet", value=delta)
        assert committed.tolist() == expected


@pytest.mark.parametrize("delta", [0.0, 0.25, 0.5])
def test_commit_frechet_of_equal_confidences_is_factor(ops, delta):
    """(n + 1)(1 - c) < 1 - delta, the corollary of the paper."""
    for confidence in (0.5, 0.75, 0.875, 0.96875):
        args = (ops, [MASK] * 20, range(20), [3] * 20, [confidence] * 20)
        frechet, factor = both(*args, "frechet", value=delta)[1], both(*args, "factor", value=1 - delta)[1]
        assert frechet.tolist() == factor.tolist()


@pytest.mark.parametrize("n", [1, 2, 9, 65, 300])
@pytest.mark.parametrize("kappa", [0.2, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("radius", [1, 4, 10**6, 2**40])
def test_commit_local_leap(ops, n, kappa, radius):
    rng = np.random.default_rng(n)
    positions = np.sort(rng.choice(3 * n, n, replace=False))
    own = {"near_value": 0.7 * kappa, "radius": radius}
    tokens = rng.integers(0, 90, n)
    both(ops, np.full(3 * n, MASK), positions, tokens, rng.random(n), "local_leap", value=kappa, **own)


def test_commit_local_leap_measures_in_the_canvas(ops):
    """Positions 3 and 9 are anchors. 1, 5 and 11 are two from one; 6 is not, though it is next to 5 and 9 in line."""
    positions, confidence = [1, 3, 5, 6, 9, 11, 12], [0.7, 0.9, 0.75, 0.89, 0.95, 0.6, 0.8]
    own = {"value": 0.9, "near_value": 0.7, "radius": 2}
    _, committed = both(ops, [MASK] * 13, positions, range(1, 8), confidence, "local_leap", **own)
    assert committed.tolist() == [9, 3, 5, 1]
    _, committed = both(ops, [MASK] * 13, positions, range(1, 8), confidence, "local_leap", count=6, **own)
    assert committed.tolist() == [9, 3, 5, 1, 6, 12]


def test_commit_local_leap_without_an_anchor_takes_the_best(ops):
    own = {"value": 0.9, "near_value": 0.1, "radius": 9}
    _, committed = both(ops, [MASK] * 3, range(3), [1, 2, 3], [0.5, 0.89, 0.6], "local_leap", **own)
    assert committed.tolist() == [1]


@pytest.mark.parametrize("n", [1, 2, 9, 65, 300])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 9.0, 1e9])
@pytest.mark.parametrize("by_entropy", [True, False])
def test_commit_entropy_bound(ops, n, gamma, by_entropy):
    rng = np.random.default_rng(n)
    entropy = 3 * rng.random(n) ** 3
    confidence = -entropy if by_entropy else rng.random(n)
    args = (ops, np.full(n, MASK), np.arange(n), rng.integers(0, 90, n), confidence, "entropy_bound")
    _, committed = both(*args, value=gamma, entropy=entropy)
    assert gamma > 0 or committed.tolist() == [np.argmax(confidence)]
    assert gamma < 1e9 or len(committed) == n


def test_commit_entropy_bound_leaves_the_largest_out(ops):
    """Sums without the largest: 0, 0.25, 0.75; one that equals gamma is inside."""
    entropy = np.array([0.5, 0.25, 0.75, 2.0])
    for gamma, expected in ((0.0, [1]), (0.25, [1, 0]), (0.7, [1, 0]), (0.75, [1, 0, 2])):
        args = (ops, [MASK] * 4, range(4), [1, 2, 3, 4], -entropy, "entropy_bound")
        assert both(*args, value=gamma, entropy=entropy)[1].tolist() == expected


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        *[("threshold", 0.8), ("threshold", 0.2), ("factor", 0.5), ("factor", 6.0)],
        *[("frechet", 0.5), ("frechet", -20.0), ("entropy_bound", 0.1), ("entropy_bound", 5.0)],
    ],
)
@pytest.mark.parametrize("n", [1, 2, 9, 65, 300])
def test_commit_at_least(ops, rule, value, n):
    """With a minimum: the better of what the rule takes alone and so many."""
    rng = np.random.default_rng(n)
    confidence, tokens = rng.random(n), rng.integers(0, 90, n)

    def committed(count: int) -> list[int]:
        return both(ops, np.full(n, MASK), np.arange(n), tokens, confidence, rule, count=count, value=value)[1].tolist()

    alone = committed(0)
    order = sorted(range(n), key=lambda i: -confidence[i])
    for count in (1, 2, 5, n, n + 1, 2**40):
        assert committed(count) == order[: max(len(alone), min(count, n))]


def test_commit_counts_a_winning_mask_into_the_minimum(ops):
    canvas, committed = both(
        ops, [MASK] * 4, range(4), [MASK, 5, 6, 7], [0.9, 0.5, 0.4, 0.3], "threshold", count=3, value=0.8
    )
    assert canvas.tolist() == [MASK, 5, 6, MASK]
    assert committed.tolist() == [1, 2]


@pytest.mark.parametrize("rule", RULES)
def test_commit_ties_go_to_the_lower_position(ops, rule):
    count, value = RULE[rule]
    _, committed = both(
        ops,
        [MASK] * 9,
        [1, 2, 5, 7, 8],
        [1, 2, 3, 4, 5],
        [0.5, 0.7, 0.7, 0.5, 0.7],
        rule,
        count=count or 4,
        value=value,
    )
    assert committed.tolist()[:3] == [2, 5, 8][: len(committed)]


@pytest.mark.parametrize("rule", RULES)
def test_commit_of_nothing(ops, rule):
    canvas, committed = both(ops, [1, 2, 3], [], [], [], rule, count=3, value=0.5)
    assert canvas.tolist() == [1, 2, 3]
    assert committed.size == 0


@pytest.mark.parametrize("rule", RULES)
def test_commit_leaves_a_winning_mask_as_it_is(ops, rule):
    """The mask takes its place among the selected, changes nothing and is not reported."""
    value = {"entropy_bound": 0.06}.get(rule, 0.8)
    canvas, committed = both(ops, [MASK] * 3, [0, 1, 2], [MASK, 5, 6], [0.99, 0.9, 0.1], rule, count=2, value=value)
    assert canvas.tolist() == [MASK, 5, MASK]
    assert committed.tolist() == [1]


@pytest.mark.parametrize("rule", RULES[1:])
def test_commit_makes_progress_when_only_masks_are_selected(ops, rule):
    tokens, confidence = [MASK, MASK, 7], [0.95, 0.9, 0.1]
    alternatives = ([4, 5, 7], [0.02, 0.3, 0.3])
    value = {"entropy_bound": 0.06}.get(rule, 0.8)
    own = {"value": value, "alternatives": alternatives}
    canvas, committed = both(ops, [MASK] * 3, [0, 1, 2], tokens, confidence, rule, **own)
    assert committed.tolist() == [1]
    assert canvas.tolist() == [MASK, 5, MASK]


def test_commit_top_k_lets_a_mask_use_up_the_schedule(ops):
    """The published loop's habit: the step is spent, the position stays masked."""
    canvas, committed = both(
        ops, [MASK] * 2, [0, 1], [MASK, 3], [0.9, 0.5], "top_k", count=1, alternatives=([2, 3], [0.1, 0.5])
    )
    assert committed.size == 0
    assert canvas.tolist() == [MASK, MASK]


@pytest.mark.parametrize("rule", RULES)
def test_commit_of_low_scores(ops, rule):
    """Negative entropies and zero confidences are ordinary values."""
    both(ops, [MASK] * 4, [0, 1, 2, 3], [1, 2, 3, 4], [-3.0, -0.5, -0.5, -2.0], rule, count=2, value=0.5)
    both(ops, [MASK] * 4, [0, 1, 2, 3], [1, 2, 3, 4], [0.0, 0.0, 0.0, 0.0], rule, count=2, value=0.5)
