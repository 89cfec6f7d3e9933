"""candidates: head, guidance, noise, argmax and softmax figures in one pass, against whole float64 logits."""

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.errors import LladaRtError
from tests.ops.precision import normal
from tests.reference.candidates import SCORES, candidates, guide
from tests.reference.matmul import matmul
from tests.tolerance import assert_accurate

FIGURES = ("confidence", "probability", "log_prob", "entropy", "margin")


def make(seed: int, rows: int, vocab: int, d: int, dtype: str, scale: float = 4.0):
    """Hidden rows and a head whose logits have a deviation of about `scale`; positions like those of a canvas."""
    rng = np.random.default_rng(seed)
    hidden, head = normal(rng, rows, d, dtype=dtype), normal(rng, vocab, d, dtype=dtype, scale=scale / np.sqrt(d))
    return hidden, head, np.sort(rng.choice(4 * rows + 1, rows, replace=False)).astype(np.int32)


def as_sets(allowed: np.ndarray) -> np.ndarray:
    """(n, vocab) bool -> (n, words): token t is bit t % 32 of word t // 32."""
    padded = np.pad(allowed, ((0, 0), (0, -allowed.shape[1] % 32)))
    return np.packbits(padded, axis=-1, bitorder="little").view("<u4")


def check(ops, hidden, head, positions, dtype, guide_hidden=None, allowed=None, **rule) -> dict:
    """Runs the op and compares every figure with float64; returns what the op gave. allowed: (n, vocab) bool."""
    names = ("suppressed_token", "unconfident_token_0", "unconfident_token_1", "mask_id", "propose_mask")
    suppressed, un0, un1, mask_id, propose_mask = (rule.get(name, -1) for name in names)
    w, score = rule.get("guidance_scale", 0.0), rule.pop("score", "low_confidence")
    own = {k: v for k, v in rule.items() if k in ("step", "seed", "temperature")}
    keep = {
        "suppressed": [t for t in (suppressed,) if t >= 0],
        "unconfident": [t for t in (un0, un1) if t >= 0],
        "never": [mask_id] if propose_mask == 0 and mask_id >= 0 else [],
        "allowed": allowed,
    }
    got = ops.candidates(
        hidden,
        head,
        dtype,
        guide_hidden=guide_hidden,
        positions=positions,
        score=SCORES.index(score),
        allowed=None if allowed is None else as_sets(allowed),
        **{"step": 0, **rule},
    )
    wide, narrow = matmul(hidden, head), hidden @ head.T
    if guide_hidden is not None:
        wide, narrow = guide(wide, matmul(guide_hidden, head), w), guide(narrow, guide_hidden @ head.T, np.float32(w))
    want, plain = (candidates(logits, positions, score=score, **own, **keep) for logits in (wide, narrow))
    assert np.array_equal(got["token"], want.token)
    terms = (np.abs(hidden) @ np.abs(head).T).max(initial=0) * (1 + 2 * w)
    for name in FIGURES:
        figure = (getattr(result, name) for result in (want, plain))
        assert_accurate(got[name], *figure, "float32", magnitude=max(terms, 1.0))
    return got


@pytest.mark.parametrize("vocab", [2, 15, 16, 17, 63, 64, 65, 512, 1023, 1024, 1025, 2049])
@pytest.mark.parametrize("rows", [1, 7])
def test_candidates(ops, dtype, rows, vocab):
    check(ops, *make(vocab + rows, rows, vocab, 48, dtype), dtype)


@pytest.mark.parametrize("d", [8, 24, 34, 64, 1026])
@pytest.mark.parametrize("rows", [5, 6, 65])
def test_candidates_sizes(ops, dtype, rows, d):
    check(ops, *make(d + rows, rows, 130, d, dtype), dtype)


@pytest.mark.parametrize("score", SCORES)
def test_candidates_scores(ops, dtype, score):
    check(ops, *make(1, 9, 300, 32, dtype), dtype, score=score, seed=123, step=4)


@pytest.mark.parametrize("scale", [0.01, 30.0], ids=["flat", "peaked"])
def test_candidates_of_flat_and_peaked_rows(ops, dtype, scale):
    check(ops, *make(2, 9, 700, 32, dtype, scale), dtype)


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**64 - 1])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.5])
def test_candidates_noise(ops, dtype, temperature, seed):
    """Keyed Gumbel noise: the very draws of the reference, whatever the table and the batch."""
    got = check(ops, *make(3, 12, 257, 32, dtype), dtype, temperature=temperature, seed=seed, step=11)
    greedy = check(ops, *make(3, 12, 257, 32, dtype), dtype)
    assert temperature < 1 or (got["token"] != greedy["token"]).any()


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_candidates_guidance(ops, dtype, w, temperature):
    hidden, head, positions = make(4, 10, 200, 40, dtype)
    other = normal(np.random.default_rng(5), 10, 40, dtype=dtype)
    rule = {"guidance_scale": w, "temperature": temperature, "seed": 9}
    check(ops, hidden, head, positions, dtype, guide_hidden=other, **rule)


@pytest.mark.parametrize("score", ["low_confidence", "margin", "entropy"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_candidates_suppression_and_exclusion(ops, dtype, score, temperature):
    """The best token of row 0 suppressed; that of row 1 chosen but left out of its softmax."""
    hidden, head, positions = make(6, 8, 190, 32, dtype)
    best = check(ops, hidden, head, positions, dtype)["token"].tolist()
    rule = {"score": score, "temperature": temperature, "seed": 2}
    got = check(ops, hidden, head, positions, dtype, suppressed_token=best[0], **rule)
    assert best[0] not in got["token"]
    got = check(ops, hidden, head, positions, dtype, unconfident_token_0=best[1], unconfident_token_1=best[2], **rule)
    if temperature == 0:
        assert got["token"][1] == best[1]
        assert got["probability"][1] == 0
    check(ops, hidden, head, positions, dtype, suppressed_token=best[0], unconfident_token_0=best[0], **rule)


@pytest.mark.parametrize("propose_mask", [0, 1])
def test_candidates_mask_may_win_or_may_not(ops, dtype, propose_mask):
    hidden, head, positions = make(7, 8, 190, 32, dtype)
    mask_id = int(check(ops, hidden, head, positions, dtype)["token"][3])
    got = check(ops, hidden, head, positions, dtype, mask_id=mask_id, propose_mask=propose_mask)
    assert (got["token"][3] == mask_id) == bool(propose_mask)


def test_candidates_tie_goes_to_the_lower_token(ops, dtype):
    """Equal logits in one tile, in two tiles, across the chunks that threads share, and with the mask id."""
    d, vocab = 16, 2500
    hidden = np.ones((1, d), np.float32)
    for tied in ([3, 5], [20, 84], [100, 2400], [63, 64], [0, 2499]):
        head = np.zeros((vocab, d), np.float32)
        head[tied] = 0.5
        for rule in ({}, {"mask_id": tied[0], "propose_mask": 1}, {"mask_id": tied[1], "propose_mask": 1}):
            got = ops.candidates(hidden, head, dtype, step=0, positions=np.zeros(1, np.int32), score=0, **rule)
            assert got["token"].tolist() == tied[:1]
            assert got["margin"][0] == 0


def test_candidates_near_one_do_not_tie(ops):
    """Confidences that float32 would call 1 keep their order: the sum of the other terms is kept in double."""
    head = np.zeros((70, 8), np.float32)
    head[0] = 1.0
    hidden = np.outer([3.0, 3.5, 4.0], np.ones(8)).astype(np.float32)  # logits 24, 28, 32 against 69 zeros
    got = check(ops, hidden, head, np.arange(3, dtype=np.int32), "float32")
    assert got["confidence"][0] < got["confidence"][1] < got["confidence"][2] < 1


def test_candidates_target_log_prob(ops, dtype):
    hidden, head, positions = make(8, 30, 333, 32, dtype)
    targets = np.random.default_rng(9).integers(0, 333, 30).astype(np.int32)
    got = ops.candidates(hidden, head, dtype, step=0, positions=positions, score=0, targets=targets)
    want, plain = (
        logits[np.arange(30), targets] - np.log(np.exp(logits.astype(np.float64)).sum(-1))
        for logits in (matmul(hidden, head), hidden @ head.T)
    )
    assert_accurate(
        got["target_log_prob"], want, plain, "float32", magnitude=float((np.abs(hidden) @ np.abs(head).T).max())
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "inf"])
def test_candidates_name_the_row_that_is_not_finite(ops, dtype, bad):
    hidden, head, positions = make(10, 5, 130, 32, dtype)
    hidden[3, 7] = bad
    with pytest.raises(LladaRtError, match="3"):
        ops.candidates(hidden, head, dtype, step=0, positions=positions, score=0)


def test_candidates_of_no_rows(ops, dtype):
    got = ops.candidates(
        np.zeros((0, 8), np.float32),
        np.ones((20, 8), np.float32),
        dtype,
        step=0,
        positions=np.zeros(0, np.int32),
        score=0,
    )
    assert got["token"].shape == got["confidence"].shape == (0,)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_candidates_feel_neither_threads_nor_neighbours(table, dtype, temperature):
    hidden, head, positions = make(11, 13, 1700, 40, dtype)

    def run(threads: int, rows: slice) -> dict:
        rule = {"step": 2, "seed": 4, "temperature": temperature, "score": 0, "mask_id": 1699, "suppressed_token": 64}
        return _core.Ops(table, threads).candidates(hidden[rows], head, dtype, positions=positions[rows], **rule)

    whole = [run(threads, slice(None)) for threads in (1, 2, 3)]
    for name in ("token", *FIGURES):
        assert np.array_equal(whole[0][name], whole[1][name])
        assert np.array_equal(whole[0][name], whole[2][name])
        assert np.array_equal(whole[0][name][5:6], run(2, slice(5, 6))[name])
