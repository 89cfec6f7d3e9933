"""candidates: the most probable tokens of a row beside its candidate, against whole float64 logits."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import _core
from llada_rt.errors import InvalidRequestError
from tests.ops.precision import normal
from tests.ops.test_candidates import FIGURES, make
from tests.reference.candidates import alternatives, guide
from tests.reference.matmul import matmul
from tests.tolerance import ROUNDING, assert_accurate

MOST = 20
EVERY_FIGURE = ("token", "other_token", "other_confidence", *FIGURES)


def check(ops, hidden, head, positions, dtype, count, guide_hidden=None, **rule) -> dict:
    """Runs the op, compares its alternatives with float64 and with its own candidates; returns what the op gave."""
    suppressed = [token for token in (rule.get("suppressed_token", -1),) if token >= 0]
    unconfident = [rule[f"unconfident_token_{i}"] for i in (0, 1) if rule.get(f"unconfident_token_{i}", -1) >= 0]
    got = ops.candidates(
        hidden, head, dtype, guide_hidden=guide_hidden, positions=positions, num_alternatives=count, **rule
    )
    tokens, log_probs = got["alternatives"]
    assert tokens.shape == log_probs.shape == (len(hidden), count)
    w = rule.get("guidance_scale", 0.0)
    wide, narrow = matmul(hidden, head), hidden @ head.T
    if guide_hidden is not None:
        wide, narrow = guide(wide, matmul(guide_hidden, head), w), guide(narrow, guide_hidden @ head.T, np.float32(w))
    want_tokens, want = alternatives(wide, count, suppressed=suppressed, unconfident=unconfident)
    _, plain = alternatives(narrow, count, suppressed=suppressed, unconfident=unconfident)
    terms = (np.abs(hidden) @ np.abs(head).T).max(initial=0) * (1 + 2 * w)
    assert_accurate(log_probs, want, plain, "float32", magnitude=max(terms, 1.0))
    # Two tokens whose logits differ by less than their rounding may change places: then both are as probable.
    there = tokens >= 0
    assert np.array_equal(there, want_tokens >= 0)
    for row in np.flatnonzero((tokens != want_tokens).any(-1)):
        own = alternatives(wide[row : row + 1], wide.shape[1], suppressed=suppressed, unconfident=unconfident)
        by_token = dict(zip(own[0][0].tolist(), own[1][0].tolist(), strict=True))
        found = np.array([by_token[token] for token in tokens[row][there[row]].tolist()])
        assert_accurate(found, want[row][there[row]], plain[row][there[row]], "float32", magnitude=max(terms, 1.0))
    for row in range(len(hidden)):
        ids = tokens[row][there[row]].tolist()
        assert len(set(ids)) == len(ids)
        assert not {*suppressed, *unconfident} & set(ids)
        assert (np.diff(log_probs[row][there[row]]) <= 0).all()
        assert np.exp(log_probs[row][there[row]]).sum() <= 1 + ROUNDING["float32"]
        if got["token"][row] in ids:
            assert log_probs[row][ids.index(got["token"][row])] == got["log_prob"][row]
    return got


@pytest.mark.parametrize("vocab", [2, 15, 20, 21, 63, 64, 65, 1023, 1025, 2049])
@pytest.mark.parametrize("count", [1, 5, MOST])
def test_sizes(ops, dtype, vocab, count):
    check(ops, *make(vocab + count, 7, vocab, 48, dtype), dtype, count)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("w", [0.5, 2.0])
def test_guidance_and_noise(ops, dtype, temperature, w):
    """The list is of the guided logits without noise, so the candidate need not lead it, or be in it."""
    hidden, head, positions = make(4, 10, 200, 40, dtype)
    other = normal(np.random.default_rng(5), 10, 40, dtype=dtype)
    rule = {"guidance_scale": w, "temperature": temperature, "seed": 9}
    got = check(ops, hidden, head, positions, dtype, 7, guide_hidden=other, **rule)
    assert (got["alternatives"][0][:, 0] == got["token"]).all() == (temperature == 0)


@pytest.mark.parametrize("first", [0, 60, 63, 127, 196])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_special_tokens(ops, dtype, first, temperature):
    """Suppressed and unconfident tokens are not listed; the mask id is, whether or not it may win."""
    names = ("mask_id", "suppressed_token", "unconfident_token_0", "unconfident_token_1")
    for shift in range(4):
        hidden, head, positions = make(first, 6, 200, 32, dtype)
        rule = {name: first + (i + shift) % 4 for i, name in enumerate(names)}
        head[list(rule.values())] = hidden[:4]  # so that each of them matters in some row
        got = check(ops, hidden, head, positions, dtype, MOST, propose_mask=shift % 2, temperature=temperature, **rule)
        assert rule["mask_id"] in got["alternatives"][0][:4]


def test_a_vocabulary_with_fewer_tokens_than_asked_for(ops, dtype):
    hidden, head, positions = make(1, 3, 9, 32, dtype)
    tokens, log_probs = check(ops, hidden, head, positions, dtype, MOST, suppressed_token=4)["alternatives"]
    assert (np.sort(tokens[:, :8]) == [0, 1, 2, 3, 5, 6, 7, 8]).all()
    assert (tokens[:, 8:] == -1).all()
    assert (log_probs[:, 8:] == 0).all()
    assert np.exp(log_probs[:, :8]).sum(-1) == pytest.approx(1)


def test_ties_are_listed_from_the_lower_token_on(table, dtype):
    """Equal logits in one tile, in two, across the chunks that threads share, and all of them."""
    d, vocab = 16, 2500
    hidden = np.ones((2, d), np.float32)
    for tied in ([3, 5], [20, 84], [100, 2400], [63, 64, 2047, 2048], [0, 2499], list(range(1, 2500, 90)), []):
        head = np.zeros((vocab, d), np.float32)
        head[tied] = 0.5
        rest = [token for token in range(MOST + len(tied)) if token not in tied]
        for threads in (1, 3):
            ops = _core.Ops(table, threads)
            got = ops.candidates(hidden, head, dtype, positions=np.arange(2, dtype=np.int32), num_alternatives=MOST)
            assert got["alternatives"][0].tolist() == [[*tied, *rest][:MOST]] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neither_threads_nor_neighbours_nor_the_list_itself_are_felt(table, dtype, temperature):
    """The same bits with 1, 2 and 3 threads, alone, in a shorter list; and the candidates are those without a list."""
    hidden, head, positions = make(11, 13, 1700, 40, dtype)

    def run(threads: int, rows: slice, count: int) -> dict:
        rule = {"step": 2, "seed": 4, "temperature": temperature, "mask_id": 1699, "suppressed_token": 64}
        ops = _core.Ops(table, threads)
        return ops.candidates(hidden[rows], head, dtype, positions=positions[rows], num_alternatives=count, **rule)

    whole = run(1, slice(None), MOST)
    for other in (run(2, slice(None), MOST), run(3, slice(None), MOST)):
        assert all(map(np.array_equal, whole["alternatives"], other["alternatives"]))
    part, shorter = run(2, slice(5, 6), MOST), run(2, slice(None), 3)
    for mine, of_part, of_shorter in zip(*(got["alternatives"] for got in (whole, part, shorter)), strict=True):
        assert np.array_equal(mine[5:6], of_part)
        assert np.array_equal(mine[:, :3], of_shorter)
    without = run(2, slice(None), 0)
    assert "alternatives" not in without
    assert all(np.array_equal(whole[name], without[name]) for name in EVERY_FIGURE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_rows(table, data):
    """Few values, so that ties are everywhere; the list is that of a stable sort of the op's own logits."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vocab = data.draw(st.sampled_from([1, 5, 64, 100, 513, 1100]))
    levels = draw.normal(size=data.draw(st.integers(1, 6))).astype(np.float32)
    head = np.repeat(draw.choice(levels, (vocab, 1)), 8, 1).astype(np.float32)
    hidden = np.repeat(draw.choice(np.float32([-1, 0, 0.5, 2]), (data.draw(st.integers(1, 5)), 1)), 8, 1)
    count = data.draw(st.integers(1, MOST))
    left_out = data.draw(st.integers(-1, vocab - 1))
    ops = _core.Ops(table, data.draw(st.sampled_from([1, 2])))
    got = ops.candidates(
        hidden,
        head,
        "float32",
        positions=np.arange(len(hidden), dtype=np.int32),
        num_alternatives=count,
        unconfident_token_0=left_out,
    )
    want, _ = alternatives(ops.matmul(hidden, head, "float32"), count, unconfident=[left_out] if left_out >= 0 else [])
    assert np.array_equal(got["alternatives"][0], want)


@pytest.mark.parametrize("count", [-1, 21])
def test_more_than_the_list_holds_is_refused(ops, dtype, count):
    with pytest.raises(InvalidRequestError, match=f"0 to 20 alternatives, got {count}"):
        ops.candidates(*make(1, 2, 30, 8, dtype)[:2], dtype, positions=np.arange(2), num_alternatives=count)
