"""Sets of allowed tokens: they narrow the choice of the candidate, and nothing else."""

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.errors import LladaRtError
from tests.ops.precision import normal
from tests.ops.test_candidates import FIGURES, as_sets, check, make


def some(seed: int, rows: int, vocab: int, share: float) -> np.ndarray:
    """(rows, vocab) bool: about that share of the tokens, at least one of each row."""
    rng = np.random.default_rng(seed)
    allowed = rng.random((rows, vocab)) < share
    allowed[np.arange(rows), rng.integers(vocab, size=rows)] = True
    return allowed


@pytest.mark.parametrize("vocab", [2, 31, 32, 33, 63, 64, 65, 512, 1025, 2049])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_the_best_allowed_token(ops, dtype, vocab, share):
    allowed = some(vocab, 5, vocab, share)
    got = check(ops, *make(vocab, 5, vocab, 48, dtype), dtype, allowed=allowed)
    assert allowed[np.arange(5), got["token"]].all()


@pytest.mark.parametrize("score", ["low_confidence", "random", "margin", "entropy"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_beside_every_other_rule(ops, dtype, score, temperature):
    vocab, rows = 1100, 6
    hidden, head, positions = make(3, rows, vocab, 40, dtype)
    allowed = some(4, rows, vocab, 0.1)
    allowed[:, [7, 64, 65]] = True
    guide_hidden = normal(np.random.default_rng(5), rows, 40, dtype=dtype)
    rule = {"temperature": temperature, "seed": 9, "step": 3, "score": score, "mask_id": 1099, "suppressed_token": 7}
    rule |= {"unconfident_token_0": 64, "unconfident_token_1": 65, "guidance_scale": 0.5, "propose_mask": False}
    check(ops, hidden, head, positions, dtype, guide_hidden=guide_hidden, allowed=allowed, **rule)


def test_a_set_of_everything_changes_no_bit(ops, dtype):
    hidden, head, positions = make(6, 9, 1500, 40, dtype)
    everything = as_sets(np.ones((9, 1500), bool))
    plain = ops.candidates(hidden, head, dtype, positions=positions)
    got = ops.candidates(hidden, head, dtype, positions=positions, allowed=everything)
    for name in ("token", "other_token", *FIGURES):
        assert np.array_equal(got[name], plain[name])


def test_the_mask_id_wins_only_where_it_is_allowed(ops, dtype):
    hidden, head, positions = make(7, 8, 300, 40, dtype)
    head[5] = 3 * hidden[0] / np.abs(hidden[0]).max()  # the favourite of row 0 at least
    allowed = np.ones((8, 300), bool)
    free = ops.candidates(hidden, head, dtype, positions=positions, mask_id=5, allowed=as_sets(allowed))
    assert free["token"][0] == 5 != free["other_token"][0]
    allowed[:, 5] = False
    got = ops.candidates(hidden, head, dtype, positions=positions, mask_id=5, allowed=as_sets(allowed))
    assert got["token"].tolist() == free["other_token"].tolist()


def test_equal_logits_give_the_lowest_allowed_token(ops, dtype):
    hidden, head = np.ones((3, 8), np.float32), np.ones((200, 8), np.float32)
    allowed = np.zeros((3, 200), bool)
    for row, token in enumerate((3, 77, 199)):
        allowed[row, token:] = True
    got = ops.candidates(hidden, head, dtype, positions=np.arange(3, dtype=np.int32), allowed=as_sets(allowed))
    assert got["token"].tolist() == [3, 77, 199]


def test_a_set_without_a_token_is_an_error(ops, dtype):
    hidden, head, positions = make(8, 2, 100, 16, dtype)
    allowed = np.ones((2, 100), bool)
    allowed[1] = False
    with pytest.raises(LladaRtError, match="row 1"):
        ops.candidates(hidden, head, dtype, positions=positions, allowed=as_sets(allowed))


def test_sets_of_another_size_are_an_error(ops, dtype):
    hidden, head, positions = make(8, 2, 100, 16, dtype)
    for shape in ((2, 3), (1, 4), (2, 5)):
        with pytest.raises(LladaRtError, match="a set of 4 words for each of 2 rows"):
            ops.candidates(hidden, head, dtype, positions=positions, allowed=np.ones(shape, np.uint32))


def test_threads_and_neighbours_change_no_bit(table, dtype):
    hidden, head, positions = make(11, 13, 1700, 40, dtype)
    sets = as_sets(some(12, 13, 1700, 0.2))

    def run(threads: int, rows: slice) -> dict:
        ops = _core.Ops(table, threads)
        return ops.candidates(hidden[rows], head, dtype, positions=positions[rows], allowed=sets[rows])

    whole = [run(threads, slice(None)) for threads in (1, 3)]
    for name in ("token", *FIGURES):
        assert np.array_equal(whole[0][name], whole[1][name])
        assert np.array_equal(whole[0][name][5:6], run(2, slice(5, 6))[name])
