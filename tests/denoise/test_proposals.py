"""Plans that propose: every candidate is told, nothing is written, and sets of allowed tokens narrow the choice."""

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.errors import InvalidRequestError
from llada_rt.runtime.records import put
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.denoise.test_runtime import CANVAS, LENGTH, plan, runtime  # noqa: F401  (a fixture)
from tests.ops.test_candidates import as_sets
from tests.reference.candidates import candidates
from tests.reference.forward import Model
from tests.tolerance import CONFIDENCE

PROPOSE = _core.SELECT_KINDS.index("propose")
VOCAB = _core.Runtime(str(CHECKPOINT), compute_type="float32").config["vocab_size"]
MASKED = np.flatnonzero(IDS.mask == CANVAS).astype(np.int32)


def sets_of(rows: int, seed: int = 1) -> np.ndarray:
    """(rows, vocabulary) bool, without the mask id."""
    allowed = np.random.default_rng(seed).random((rows, VOCAB)) < 0.05
    allowed[:, IDS.mask] = False
    return allowed


def proposed(runtime, slot: int, positions=(), allowed=None, **changes):  # noqa: F811
    sequences, spans = plan(slot, kind=PROPOSE, allowed_end=len(positions), **changes)
    return runtime.denoise(
        sequences,
        spans,
        5,
        alternatives=True,
        allowed_positions=np.array(positions, np.int32),
        allowed=np.empty((0, -(-VOCAB // 32)), np.uint32) if allowed is None else as_sets(allowed),
    )


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_proposals_are_the_candidates_of_the_reference(runtime, temperature):  # noqa: F811
    slot = runtime.open_slot(CANVAS)
    positions = MASKED[[0, 3, 4, 9]]
    allowed = np.ones((len(MASKED), VOCAB), bool)
    allowed[[0, 3, 4, 9]] = sets_of(4)
    rule = {"temperature": temperature, "seed": 4, "step": 2}
    outcomes, commits, _, _ = proposed(runtime, slot, positions, allowed[[0, 3, 4, 9]], propose_mask=0, **rule)
    logits = Model(CHECKPOINT).forward(CANVAS)[MASKED]
    want = candidates(logits, MASKED, never=(IDS.mask,), allowed=allowed, **rule)
    assert outcomes[["num_steps", "num_masked", "block_done"]].tolist() == [(1, len(MASKED), 1)]
    assert commits["position"].tolist() == MASKED.tolist()
    assert commits["token"].tolist() == want.token.tolist()
    assert commits["confidence"] == pytest.approx(want.confidence, rel=CONFIDENCE)
    assert commits["log_prob"] == pytest.approx(want.log_prob, rel=CONFIDENCE)
    assert np.array_equal(runtime.canvas(slot), CANVAS)


def test_a_mask_may_be_proposed_where_no_set_is(runtime):  # noqa: F811
    slot = runtime.open_slot(np.full(LENGTH, IDS.mask, np.int32))
    logits = Model(CHECKPOINT).forward(np.full(LENGTH, IDS.mask))
    wanted = np.flatnonzero(logits.argmax(-1) == IDS.mask)
    _, commits, _, _ = proposed(runtime, slot, propose_mask=1)
    assert set(commits["position"][commits["token"] == IDS.mask]) == set(wanted[wanted >= 3])


def test_alternatives_are_of_the_whole_softmax(runtime):  # noqa: F811
    slot = runtime.open_slot(CANVAS)
    _, free, _, ranked = proposed(runtime, slot, num_alternatives=3)
    _, bound, _, same = proposed(runtime, slot, MASKED[:2], sets_of(2), num_alternatives=3)
    assert len(ranked) == 3 * len(free) == 3 * len(bound)
    assert np.array_equal(ranked, same)
    assert (free["token"] != bound["token"]).any()


def test_beside_a_sequence_that_commits(runtime):  # noqa: F811
    """A call with both runs one step, and each gets what it gets alone."""
    alone = runtime.denoise(*plan(runtime.open_slot(CANVAS)), 1)[1]
    _, one, _, _ = proposed(runtime, runtime.open_slot(CANVAS), MASKED[:1], sets_of(1))
    slots = [runtime.open_slot(CANVAS), runtime.open_slot(CANVAS)]
    sequences, spans = plan(*slots)
    put(sequences[1:], kind=PROPOSE, allowed_end=1)
    sets = {"allowed_positions": MASKED[:1], "allowed": as_sets(sets_of(1))}
    outcomes, commits, _, _ = runtime.denoise(sequences, spans, 9, alternatives=True, **sets)
    assert outcomes["num_steps"].tolist() == [1, 1]
    for index, want in enumerate((alone, one)):
        assert commits[commits["sequence"] == index]["token"].tolist() == want["token"].tolist()
    assert np.count_nonzero(runtime.canvas(slots[0]) != CANVAS) == len(alone)


def test_a_block_without_masks_runs_no_step(runtime):  # noqa: F811
    slot = runtime.open_slot(np.where(IDS.mask == CANVAS, 5, CANVAS).astype(np.int32))
    outcomes, commits, _, _ = proposed(runtime, slot)
    assert outcomes[["num_steps", "block_done"]].tolist() == [(0, 1)]
    assert len(commits) == 0


ONE = np.zeros((1, VOCAB), bool)
REFUSED = {
    "an empty set": ((3,), ONE, {}, "neither the mask id nor suppressed"),
    "a set of the mask": ((3,), np.eye(1, VOCAB, IDS.mask, dtype=bool), {}, "neither the mask id nor suppressed"),
    "a set of what is suppressed": ((3,), np.eye(1, VOCAB, 9, dtype=bool), {"suppressed_token": 9}, "suppressed"),
    "a position before the block": ((2,), sets_of(1), {}, "at ascending positions"),
    "a position after the block": ((LENGTH,), sets_of(1), {}, "at ascending positions"),
    "positions that descend": ((5, 4), sets_of(2), {}, "at ascending positions"),
    "a position twice": ((5, 5), sets_of(2), {}, "at ascending positions"),
    "a range beyond the sets": ((5,), sets_of(1), {"allowed_end": 2}, "a range of the sets"),
    "a range that ends before it begins": ((5,), sets_of(1), {"allowed_begin": 1, "allowed_end": 0}, "a range of"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_sets_that_are_refused(runtime, case):  # noqa: F811
    positions, allowed, changes, words = REFUSED[case]
    slot = runtime.open_slot(CANVAS)
    sequences, spans = plan(slot, kind=PROPOSE, **{"allowed_end": len(positions), **changes})
    with pytest.raises(InvalidRequestError, match=words):
        runtime.denoise(
            sequences,
            spans,
            1,
            alternatives=True,
            allowed_positions=np.array(positions, np.int32),
            allowed=as_sets(allowed),
        )
    assert np.array_equal(runtime.canvas(slot), CANVAS)


def test_arrays_that_do_not_fit_are_refused(runtime):  # noqa: F811
    sequences, spans = plan(runtime.open_slot(CANVAS), kind=PROPOSE)
    two = {"allowed_positions": np.array([3, 4], np.int32), "allowed": as_sets(sets_of(1))}
    with pytest.raises(InvalidRequestError, match="words for each position"):
        runtime.denoise(sequences, spans, 1, alternatives=True, **two)
    with pytest.raises(InvalidRequestError, match="together"):
        runtime.denoise(sequences, spans, 1, alternatives=True, allowed=two["allowed"])
