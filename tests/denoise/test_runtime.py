"""The border of the compiled loop: one call or many, slots, and plans that must be refused."""

import threading

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.errors import ContextLengthError, InvalidRequestError, LladaRtError, OutOfMemoryError
from llada_rt.runtime.records import put
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.reference.denoise import Params, denoise
from tests.reference.forward import Model

CANVAS = np.array([7, 99, 23, *[IDS.mask] * 16], np.int32)
LENGTH = len(CANVAS)
RULE = {
    "guide_slot": -1,
    "first_end": 1,
    "next_begin": 1,
    "next_end": 2,
    "block_start": 3,
    "block_stop": LENGTH,
    "num_masked": 16,
    "num_steps": 8,
    "mask_id": IDS.mask,
    "suppressed_token": -1,
    "unconfident_tokens": -1,
}


@pytest.fixture
def runtime():
    runtime = _core.Runtime(str(CHECKPOINT), compute_type="float32", num_threads=2)
    yield runtime
    runtime.close()


def plan(*slots: int, spans=((0, LENGTH, LENGTH), (3, LENGTH, LENGTH)), **changes) -> tuple[np.ndarray, np.ndarray]:
    """One row per slot: whole canvas first, then the block (dual cache)."""
    sequences = np.zeros(len(slots), _core.SEQUENCE_DTYPE)
    put(sequences, **{**RULE, **changes})
    sequences["slot"] = slots
    return sequences, np.array(list(spans), np.int32).view(_core.SPAN_DTYPE)[:, 0]


def expected(**changes) -> np.ndarray:
    params = Params(**{"steps": 8, "gen_length": 16, "block_length": 16, "cache": "dual", **changes})
    return denoise(Model(CHECKPOINT), CANVAS, (3, LENGTH), params, IDS).canvas


def test_one_call_runs_a_block(runtime):
    slot = runtime.open_slot(CANVAS)
    outcomes, commits = runtime.denoise(*plan(slot, propose_mask=1), 100)
    assert outcomes["num_steps"].tolist() == [8]
    assert outcomes["block_done"].tolist() == [1]
    assert np.array_equal(runtime.canvas(slot), expected())
    assert sorted(commits["position"]) == [p for p in range(3, LENGTH) if expected()[p] != IDS.mask]


@pytest.mark.parametrize("max_steps", [1, 3, 7])
def test_many_calls_run_the_same_block(runtime, max_steps):
    """The step-by-step view: next_step and step say what a call continues, and its first query is a later one."""
    slot, done, steps = runtime.open_slot(CANVAS), False, 0
    while not done:
        changes = {"first_begin": 1, "first_end": 2} if steps else {}
        sequences, spans = plan(slot, next_step=steps, step=steps, temperature=0.7, seed=3, propose_mask=1, **changes)
        outcomes, _ = runtime.denoise(sequences, spans, max_steps)
        steps, done = steps + int(outcomes["num_steps"][0]), bool(outcomes["block_done"][0])
    assert steps == 8
    assert np.array_equal(runtime.canvas(slot), expected(temperature=0.7, seed=3))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("propose_mask", [0, 1])
def test_a_compact_plan_recomputes_the_candidates_of_the_step_before(runtime, propose_mask, guided):
    """The same block in one call, and step by step with single positions for spans."""
    block = {"compact": 1, "propose_mask": propose_mask, "temperature": 0.7, "seed": 5, "guidance_scale": 0.5 * guided}
    whole, guides = runtime.open_slot(CANVAS), [runtime.open_slot(np.full_like(CANVAS, IDS.mask)) for _ in range(2)]
    pairs = [{**block, "guide_slot": guide} if guided else block for guide in guides]
    outcomes, commits = runtime.denoise(*plan(whole, **pairs[0]), 100)

    slot, candidates, num_rows = runtime.open_slot(CANVAS), range(LENGTH), 0
    for step in range(8):
        spans = [(p, p + 1, LENGTH) for p in candidates]
        candidates = [p for p in candidates if runtime.canvas(slot)[p] == IDS.mask]
        ranges = {"first_end": len(spans), "next_begin": 0, "next_end": len(spans)}
        sequences, packed = plan(slot, spans=spans, next_step=step, step=step, **pairs[1], **ranges)
        (outcome,), one = runtime.denoise(sequences, packed, 1)
        num_rows += outcome["num_query_rows"]
        assert one["position"].tolist() == commits["position"][commits["step"] == step].tolist()
    assert np.array_equal(runtime.canvas(slot), runtime.canvas(whole))
    assert (outcomes["num_query_rows"].tolist(), outcomes["num_refreshes"].tolist()) == ([num_rows], [1])
    if not propose_mask:
        assert num_rows == LENGTH + sum(range(4, 17, 2))


def test_a_step_without_rows(runtime):
    """A compact plan leaves nothing of a span without candidates: such steps commit nothing, and the schedule ends."""
    slot = runtime.open_slot(CANVAS)
    outcomes, commits = runtime.denoise(*plan(slot, spans=((0, LENGTH, LENGTH), (0, 3, LENGTH)), compact=1), 100)
    assert outcomes[["num_query_rows", "num_steps", "num_masked", "block_done"]].tolist() == [(LENGTH, 8, 14, 1)]
    assert len(commits) == 2


def test_a_call_ends_when_one_sequence_is_done(runtime):
    slots = [runtime.open_slot(CANVAS) for _ in range(2)]
    sequences, spans = plan(*slots)
    put(sequences, num_steps=[16, 2])
    outcomes, commits = runtime.denoise(sequences, spans, 100)
    assert outcomes["num_steps"].tolist() == [2, 2]
    assert outcomes["block_done"].tolist() == [0, 1]
    assert outcomes["num_masked"].tolist() == [14, 0]
    assert sorted(set(commits["step"])) == [0, 1]


def test_a_block_without_masks_is_done_at_once(runtime):
    slot = runtime.open_slot(np.arange(LENGTH, dtype=np.int32))
    outcomes, commits = runtime.denoise(*plan(slot), 100)
    assert outcomes["num_steps"].tolist() == [0]
    assert outcomes["block_done"].tolist() == [1]
    assert len(commits) == 0


def test_no_sequences(runtime):
    outcomes, commits = runtime.denoise(*plan(), 5)
    assert len(outcomes) == len(commits) == 0


def test_a_mask_that_wins_does_not_make_the_loop_endless(runtime):
    """Each rule, with the token that wins most positions declared to be the mask."""
    favourite = int(np.bincount(expected()[3:]).argmax())
    canvas = np.where(IDS.mask == CANVAS, favourite, CANVAS).astype(np.int32)
    for select, value in ((0, 0.0), (1, 0.9), (2, 0.5)):
        for propose_mask in (0, 1):
            slot = runtime.open_slot(canvas)
            rule = {"mask_id": favourite, "kind": select, "value": value, "propose_mask": propose_mask}
            outcomes, _ = runtime.denoise(*plan(slot, num_steps=16, **rule), 1000)
            assert outcomes["num_steps"][0] <= 16
            assert outcomes["block_done"][0] == 1
            left = (runtime.canvas(slot) == favourite).sum()
            assert left == outcomes["num_masked"][0]
            assert left == 0 or (select == 0 and propose_mask)
            runtime.close_slot(slot)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(1, 2.0), (2, 0.0), (3, 1.0), (5, -1.0)],
    ids=["threshold", "factor", "frechet", "entropy_bound"],
)
@pytest.mark.parametrize(
    ("count", "schedule", "commits"),
    [
        (0, (0, 0), [1] * 16),
        (1, (0, 0), [1] * 16),
        (5, (0, 0), [5, 5, 5, 1]),
        (2**40, (0, 0), [16]),
        (0, (10, 4), [3, 3, 2, 2]),
        (3, (9, 4), [3, 3, 3, 3]),
        (1, (2, 5), [1] * 5),
        (4, (16, 1), [16]),
    ],
)
@pytest.mark.parametrize("max_steps", [1, 3, 100])
def test_a_step_commits_at_least_so_many(runtime, kind, value, count, schedule, commits, max_steps):
    """No confidence passes the value. A schedule is a minimum too, and the block ends with it."""
    slot, counted, done = runtime.open_slot(CANVAS), [], False
    while not done:
        rule = {"kind": kind, "value": value, "count": count, "next_step": len(counted)}
        sequences, spans = plan(slot, num_masked=schedule[0], num_steps=schedule[1], **rule)
        (outcome,), told = runtime.denoise(sequences, spans, max_steps)
        assert outcome["num_steps"] > 0
        counted += np.bincount(told["step"], minlength=outcome["num_steps"]).tolist()
        done = bool(outcome["block_done"])
    assert counted == commits
    assert outcome["num_masked"] == 16 - sum(commits)


def test_slots_are_given_back(runtime):
    assert runtime.num_open_slots == 0
    slots = [runtime.open_slot(CANVAS) for _ in range(5)]
    assert runtime.num_open_slots == len(set(slots)) == 5
    for slot in slots:
        runtime.close_slot(slot)
    assert runtime.num_open_slots == 0


def test_a_slot_forgets_its_last_owner(runtime):
    """K/V that an earlier, longer request left behind must not be seen."""
    long = runtime.open_slot(np.arange(120, dtype=np.int32))
    runtime.denoise(*plan(long, spans=((0, 120, 120), (3, 19, 120))), 1)
    runtime.close_slot(long)
    slot = runtime.open_slot(CANVAS)
    runtime.denoise(*plan(slot, propose_mask=1), 100)
    assert np.array_equal(runtime.canvas(slot), expected())


@pytest.mark.parametrize("tokens", [[], [-1], [160], [2**31 - 1], [3, -(2**31)]], ids=str)
def test_tokens_that_are_none(runtime, tokens):
    for call in (runtime.open_slot, runtime.forward):
        with pytest.raises(InvalidRequestError, match="expected"):
            call(np.array(tokens, np.int32))
    assert runtime.num_open_slots == 0


def test_canvas_beyond_the_context(runtime):
    for call in (runtime.open_slot, runtime.forward):
        with pytest.raises(ContextLengthError, match=r"128[^0-9].*129|129[^0-9].*128"):
            call(np.zeros(129, np.int32))
    runtime.close_slot(runtime.open_slot(np.zeros(128, np.int32)))


@pytest.mark.parametrize("slot", [-1, 1, 77, 2**31 - 1])
def test_slot_that_is_not_open(runtime, slot):
    runtime.open_slot(CANVAS)
    for call in (runtime.close_slot, runtime.canvas, lambda s: runtime.denoise(*plan(s), 1)):
        with pytest.raises(LladaRtError, match="slot"):
            call(slot)


BAD_PLANS = {
    "span past the canvas": {"spans": ((0, LENGTH + 1, LENGTH + 1), (3, LENGTH, LENGTH))},
    "span that is empty": {"spans": ((5, 5, LENGTH), (3, LENGTH, LENGTH))},
    "span backwards": {"spans": ((9, 5, LENGTH), (3, LENGTH, LENGTH))},
    "span before the canvas": {"spans": ((-1, 5, LENGTH), (3, LENGTH, LENGTH))},
    "blind span": {"spans": ((0, LENGTH, 0), (3, LENGTH, LENGTH))},
    "spans that are not there": {"next_end": 9},
    "negative spans": {"first_begin": -1},
    "no spans": {"first_end": 0},
    "block past the canvas": {"block_stop": LENGTH + 1},
    "block backwards": {"block_start": 9, "block_stop": 4},
    "commit after the block": {"commit_start": LENGTH},
    "negative commit": {"commit_start": -1},
    "unknown rule": {"kind": len(_core.SELECT_KINDS)},
    "unknown score": {"score": 9},
    "no steps": {"num_steps": 0},
    "negative schedule": {"num_masked": -5},
    "negative count": {"count": -1},
    "edits that are not there": {"editable_end": 9},
    "negative edits": {"editable_begin": -1},
    "edits backwards": {"editable_begin": 2, "editable_end": 1},
    "edits before the block": {"editable_end": 1, "commit_start": 3},
    "edits past the block": {"editable_begin": 1, "editable_end": 2, "block_stop": LENGTH - 1},
    "negative post-steps": {"post_steps": -1},
    "negative most post-steps": {"max_post_steps": -1},
    "negative schedule of a threshold": {"kind": 1, "num_steps": -1},
    "anchor without a confidence": {"kind": 4, "value": 0.0, "near_value": 0.5},
    "nearness without a confidence": {"kind": 4, "value": 0.9, "near_value": float("nan")},
    "negative radius": {"kind": 4, "value": 0.9, "near_value": 0.5, "radius": -1},
    "alpha of another rule": {"kind": 2, "value": 1.0, "alpha": 0.5},
    "alpha above 1": {"kind": 1, "value": 0.9, "alpha": 1.5},
    "alpha that is no number": {"kind": 1, "value": 0.9, "alpha": float("nan")},
    "border before the block": {"border_stop": 2, "block_start": 4, "commit_start": 4},
    "border past the canvas": {"border_stop": LENGTH + 1},
    "border of several steps": {"border_stop": 9, "border_token": 5, "border_probability": 0.5},
    "guide that is not open": {"guide_slot": 9},
    "too many alternatives": {"num_alternatives": 21},
    "negative alternatives": {"num_alternatives": -1},
}


@pytest.mark.parametrize("case", BAD_PLANS)
def test_plan_that_is_refused(runtime, case):
    slot = runtime.open_slot(CANVAS)
    with pytest.raises(LladaRtError, match="expected"):
        runtime.denoise(*plan(slot, **BAD_PLANS[case]), 10)
    assert np.array_equal(runtime.canvas(slot), CANVAS)
    runtime.denoise(*plan(slot, propose_mask=1), 100)
    assert np.array_equal(runtime.canvas(slot), expected())


@pytest.mark.parametrize(
    "beside",
    [{"kind": 6}, {"editable_end": 1}, {"border_probability": 0.0}, {"border_probability": float("nan")}],
    ids=str,
)
def test_what_may_not_stand_beside_a_border(runtime, beside):
    slot = runtime.open_slot(CANVAS)
    border = {"border_stop": 9, "border_token": 5, "border_probability": 0.5}
    with pytest.raises(LladaRtError, match="border"):
        runtime.denoise(*plan(slot, **border | beside), 1)
    runtime.denoise(*plan(slot, **border), 1)


def test_a_slot_may_not_be_planned_twice(runtime):
    slot = runtime.open_slot(CANVAS)
    with pytest.raises(LladaRtError, match="slot"):
        runtime.denoise(*plan(slot, slot), 1)


@pytest.mark.parametrize("max_steps", [0, -1])
def test_call_of_no_steps(runtime, max_steps):
    slot = runtime.open_slot(CANVAS)
    with pytest.raises(LladaRtError, match="max_steps"):
        runtime.denoise(*plan(slot), max_steps)


def test_closed_runtime(runtime):
    runtime.close()
    runtime.close()
    with pytest.raises(LladaRtError):
        runtime.forward(CANVAS)
    with pytest.raises(LladaRtError):
        runtime.open_slot(CANVAS)


def test_calls_from_many_threads_take_turns(runtime):
    """Each of four threads runs its own sequence, and gets what it would have got alone."""
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        slot = runtime.open_slot(CANVAS)
        runtime.denoise(*plan(slot, propose_mask=1, seed=index, temperature=0.5), 100)
        results[index] = runtime.canvas(slot)
        runtime.close_slot(slot)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, canvas in results.items():
        assert np.array_equal(canvas, expected(seed=index, temperature=0.5))
    assert len(results) == 4


@pytest.mark.parametrize("name", ["table", "compute_type"])
def test_option_that_is_unknown(name):
    with pytest.raises(LladaRtError, match="expected"):
        _core.Runtime(str(CHECKPOINT), **{name: "int3"})


def test_logits_of_a_slot_are_those_of_its_keys_and_values(runtime):
    """Whole canvas: as forward. A part of it: as a step sees it, with what the slot holds of the rest."""
    slot, twin = runtime.open_slot(CANVAS), runtime.open_slot(CANVAS)
    everywhere, block = spans_of((0, LENGTH)), spans_of((3, LENGTH))
    masked = np.arange(3, LENGTH, dtype=np.int32)
    assert np.array_equal(runtime.logits(slot, everywhere, masked), runtime.forward(CANVAS)[3:])
    filled = CANVAS.copy()
    filled[5] = 42
    for one in (slot, twin):
        runtime.write_slot(one, filled)
        assert np.array_equal(runtime.canvas(one), filled)
    # Once all is recomputed, a part of it sees the same keys; before, it sees those of a mask at position 5.
    exact = runtime.forward(filled)
    assert np.array_equal(runtime.logits(slot, everywhere, masked), exact[3:])
    assert np.array_equal(runtime.logits(slot, block, masked), exact[3:])
    assert np.array_equal(runtime.logits(slot, spans_of((6, 9)), np.array([7], np.int32)), exact[[7]])
    runtime.logits(twin, spans_of((0, 5), (6, LENGTH)), np.array([4, 9], np.int32))
    assert not np.array_equal(runtime.logits(twin, spans_of((6, 9)), np.array([7], np.int32)), exact[[7]])


def test_hidden_rows_give_their_logits_in_pieces_and_later(runtime):
    slot = runtime.open_slot(CANVAS)
    masked = np.arange(3, LENGTH, dtype=np.int32)
    expected = runtime.logits(slot, spans_of((0, LENGTH)), masked)
    rows = runtime.hidden(slot, spans_of((0, LENGTH)), masked)
    assert len(rows) == len(masked)
    runtime.forward(CANVAS[::-1].copy())  # what the rows were copied from is another forward's now
    for step in (1, 2, len(rows)):
        pieces = [rows.logits(begin, min(begin + step, len(rows))) for begin in range(0, len(rows), step)]
        assert np.array_equal(np.concatenate(pieces), expected)
    for begin, end in ((0, 0), (1, 0), (-1, 1), (0, len(rows) + 1), (2**62, 2**62 + 1)):
        with pytest.raises(InvalidRequestError, match="expected some of"):
            rows.logits(begin, end)
    with pytest.raises(InvalidRequestError):
        runtime.hidden(slot + 1, spans_of((0, LENGTH)), masked)
    runtime.close()
    assert np.array_equal(rows.logits(0, len(rows)), expected)  # they keep the model alive


def test_looking_at_logits_changes_no_step(runtime):
    tokens = []
    for looks in (False, True):
        slot, done, steps = runtime.open_slot(CANVAS), False, 0
        while not done:
            changes = {"first_begin": 1, "first_end": 2} if steps else {}
            sequences, spans = plan(slot, next_step=steps, step=steps, temperature=0.7, seed=3, **changes)
            if looks:
                first = slice(1, 2) if steps else slice(0, 1)
                masked = np.flatnonzero(runtime.canvas(slot) == IDS.mask).astype(np.int32)
                runtime.logits(slot, spans[first], masked)
            outcomes, _ = runtime.denoise(sequences, spans, 1)
            steps, done = steps + 1, bool(outcomes["block_done"][0])
        tokens.append(runtime.canvas(slot).tolist())
    assert tokens[0] == tokens[1]


def spans_of(*ranges):
    return np.array([(start, stop, LENGTH) for start, stop in ranges], np.int32).view(_core.SPAN_DTYPE)[:, 0]


@pytest.mark.parametrize(
    ("ranges", "positions"),
    [
        ([(0, LENGTH)], []),
        ([(3, 5)], [5]),
        ([(3, 9)], [7, 5]),
        ([(3, 9)], [5, 5]),
        ([(5, 9), (3, 5)], [4]),
        ([(5, 5)], [5]),
        ([(0, LENGTH + 1)], [5]),
        ([], [5]),
    ],
)
def test_bad_questions_about_logits(runtime, ranges, positions):
    slot = runtime.open_slot(CANVAS)
    spans = spans_of(*ranges) if ranges else np.zeros(0, _core.SPAN_DTYPE)
    with pytest.raises(InvalidRequestError, match="expected ascending"):
        runtime.logits(slot, spans, np.array(positions, np.int32))
    with pytest.raises(InvalidRequestError, match="open slot"):
        runtime.logits(slot + 1, spans_of((0, LENGTH)), np.array([1], np.int32))


def test_bad_tokens_for_a_slot(runtime):
    slot = runtime.open_slot(CANVAS)
    for tokens, words in (
        (CANVAS[:-1], "expected 19 to 64 tokens"),
        (np.zeros(65, np.int32), "expected 19 to 64 tokens"),
        (CANVAS * 0 + 160, "token ids"),
        (CANVAS * 0 - 1, "-1"),
    ):
        with pytest.raises(InvalidRequestError, match=words):
            runtime.write_slot(slot, tokens)
    with pytest.raises(InvalidRequestError, match="open slot"):
        runtime.write_slot(slot + 1, CANVAS)
    assert np.array_equal(runtime.canvas(slot), CANVAS)


@pytest.mark.parametrize("last_position", [-2, LENGTH - 2, 10**6])
def test_bad_last_positions(runtime, last_position):
    slot = runtime.open_slot(CANVAS, LENGTH + 5)
    with pytest.raises(InvalidRequestError, match="last_position: expected 18 to"):
        runtime.open_slot(CANVAS, last_position)
    with pytest.raises(InvalidRequestError, match="last_position: expected 18 to"):
        runtime.write_slot(slot, CANVAS, last_position)


def test_a_last_position_is_kept_by_copies_and_replaced_by_writes(runtime):
    positions = np.array([LENGTH - 1], np.int32)
    far, near = runtime.open_slot(CANVAS, LENGTH + 40), runtime.open_slot(CANVAS)
    copy = runtime.copy_slot(far)
    logits = [runtime.logits(slot, spans_of((0, LENGTH)), positions) for slot in (far, copy, near)]
    assert np.array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])
    runtime.write_slot(far, CANVAS)
    assert np.array_equal(runtime.logits(far, spans_of((0, LENGTH)), positions), logits[2])


def test_a_canvas_grows_within_its_slot(runtime):
    longer = np.append(CANVAS, [IDS.mask] * 20).astype(np.int32)
    slot = runtime.open_slot(CANVAS)
    runtime.logits(slot, spans_of((0, LENGTH)), np.array([3], np.int32))
    used = runtime.kv_used_bytes
    runtime.write_slot(slot, longer)
    whole = np.array([(0, len(longer), len(longer))], np.int32).view(_core.SPAN_DTYPE)[:, 0]
    assert np.array_equal(runtime.logits(slot, whole, np.array([3], np.int32)), runtime.forward(longer)[[3]])
    assert runtime.kv_used_bytes == used
    runtime.close_slot(slot)
    assert runtime.kv_used_bytes == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"targets_end": LENGTH - 1},
        {"targets_end": LENGTH + 1},
        {"targets_begin": -1, "targets_end": LENGTH - 1},
        {"targets_begin": 1, "targets_end": LENGTH + 1},
        {"targets_end": LENGTH, "num_masked": 16},
    ],
    ids=str,
)
def test_targets_that_do_not_fit_are_refused(runtime, changes):
    slot = runtime.open_slot(CANVAS)
    sequences, spans = plan(slot, **{"num_masked": 0, **changes})
    with pytest.raises(InvalidRequestError, match="target"):
        runtime.denoise(sequences, spans, 1, np.zeros(LENGTH, np.int32))
    beyond = np.full(LENGTH, 160, np.int32)
    sequences, spans = plan(slot, num_masked=0, targets_end=LENGTH)
    with pytest.raises(InvalidRequestError, match="vocabulary"):
        runtime.denoise(sequences, spans, 1, beyond)


def test_a_scored_sequence_beside_a_decoded_one_commits_nothing_and_changes_nothing(runtime):
    """It takes one step, and the other sequence's step is the same as alone."""
    alone, beside, row = (runtime.open_slot(CANVAS) for _ in range(3))
    _, commits = runtime.denoise(*plan(alone), 1)
    sequences, spans = plan(beside, row)
    sequences[1]["select"]["num_masked"], sequences[1]["targets_end"] = 0, LENGTH
    outcomes, together, log_probs = runtime.denoise(sequences, spans, 100, np.arange(LENGTH, dtype=np.int32))
    assert outcomes["num_steps"].tolist() == [1, 1]
    assert np.array_equal(together, commits)
    assert np.array_equal(runtime.canvas(row), CANVAS)
    assert len(log_probs) == LENGTH
    assert (log_probs < 0).all()


def test_slots_share_an_arena_and_give_it_back(runtime):
    """First fit, neighbours merged: whatever the order of closing, all of it can be had again."""
    one = runtime.kv_slot_bytes(LENGTH)
    assert one >= runtime.kv_bytes_per_token * 64
    runtime.reserve_kv(4 * one)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]):
        slots = [runtime.open_slot(CANVAS) for _ in range(4)]
        assert runtime.kv_used_bytes == 4 * one
        with pytest.raises(OutOfMemoryError, match=f"expected {one} bytes .* got 0 free of {4 * one}"):
            runtime.open_slot(CANVAS)
        for index in order:
            runtime.close_slot(slots[index])
        assert runtime.kv_used_bytes == 0
    slots = [runtime.open_slot(CANVAS) for _ in range(4)]
    for index in (0, 2):
        runtime.close_slot(slots[index])
    with pytest.raises(OutOfMemoryError, match="in one piece"):
        runtime.open_slot(np.full(65, 1, np.int32))
    with pytest.raises(LladaRtError, match="no open slot"):
        runtime.reserve_kv(one)
    for index in (1, 3):
        runtime.close_slot(slots[index])
    with pytest.raises(OutOfMemoryError, match="reserve"):
        runtime.reserve_kv(2**62)
    assert runtime.open_slot(CANVAS) >= 0  # the arena from before is still there


def test_a_slot_begins_with_zeros_where_another_one_was(runtime):
    """Nobody reads positions that were never computed, but NaN in them would spoil sums: fresh pages are zeros."""
    logits = []
    for _ in range(2):
        slot = runtime.open_slot(CANVAS)
        _, commits = runtime.denoise(*plan(slot, spans=((3, LENGTH, LENGTH), (3, LENGTH, LENGTH))), 4)
        logits.append(commits)
        runtime.close_slot(slot)
    assert np.array_equal(*logits)


def test_alternatives_come_in_the_order_of_the_commits(runtime):
    """As many as each sequence asks for, as if it were alone; a score beside them has none."""
    counts = [3, 0, 20, 1]

    def ranked(*which: int) -> list:
        slots = [runtime.open_slot(CANVAS) for _ in which]
        sequences, spans = plan(*slots)
        put(sequences, num_alternatives=[counts[index] for index in which])
        put(sequences, seed=which, temperature=0.5)
        outcomes, commits, _, alternatives = runtime.denoise(sequences, spans, 3, alternatives=True)
        assert (outcomes["num_steps"] == 3).all()
        for slot in slots:
            runtime.close_slot(slot)
        told, at = [[] for _ in which], 0
        for commit in commits:
            count = counts[which[commit["sequence"]]]
            told[commit["sequence"]].append((int(commit["position"]), alternatives[at : at + count].tolist()))
            at += count
        assert at == len(alternatives)
        return told

    together = ranked(0, 1, 2, 3)
    assert [len(each) for each in together] == [6] * 4
    assert [ranked(index)[0] for index in range(4)] == together
    scored, spans = plan(runtime.open_slot(CANVAS), runtime.open_slot(CANVAS))
    put(scored, num_alternatives=2)
    scored["targets_end"][0], scored["select"]["num_masked"][0] = LENGTH, 0
    _, commits, log_probs, alternatives = runtime.denoise(
        scored, spans, 1, np.arange(LENGTH, dtype=np.int32), alternatives=True
    )
    assert (len(log_probs), len(commits), len(alternatives)) == (LENGTH, 2, 4)
    assert (commits["sequence"] == 1).all()
