"""Scheduler with a fake runner that commits at random: every request ends, no slot leaks, the order is fair."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_rt.params import SamplingParams
from llada_rt.planning.caches import CACHES, FIXED_BLOCK_CACHES
from llada_rt.planning.canvas import Canvas
from llada_rt.planning.decoders import decoder_of
from llada_rt.planning.plan import Commit, SamplingRule, SequenceResult, StepPlan, StepResult
from llada_rt.planning.scheduler import Scheduler
from llada_rt.planning.sequence import SequenceState

MASK, EOS = 99, 98


class FakeRunner:
    """Commits random masks of the active block, as many as the rule says, and checks every plan it is given."""

    def __init__(self, seed=0, eos_rate=0.0):
        self.random = random.Random(seed)
        self.eos_rate = eos_rate
        self.canvases = {}
        self.next_slot = 0
        self.calls = []
        self.queried = {}  # by slot: the positions of each step

    def open(self, sequence):
        slots = [self.next_slot, self.next_slot + 1 if sequence.is_guided else -1]
        self.next_slot += 2
        self.canvases[slots[0]] = list(sequence.canvas.tokens)
        if sequence.is_guided:
            self.canvases[slots[1]] = [MASK] * len(sequence.canvas)
        return slots

    def close(self, sequence):
        for slot in (sequence.slot, sequence.guide_slot):
            if slot >= 0:
                del self.canvases[slot]

    def denoise(self, plan: StepPlan) -> StepResult:
        assert plan.sequences
        self.calls.append([row.slot for row in plan.sequences])
        states = [{"commits": [], "done": False, "rows": 0, "refreshes": 0, "masked": None} for _ in plan.sequences]
        steps = 0
        while steps < plan.max_steps and not any(state["done"] for state in states):
            for row, state in zip(plan.sequences, states, strict=True):
                self._step(row, state, steps)
            steps += 1
        return StepResult(
            tuple(
                SequenceResult(
                    state["rows"], state["refreshes"], steps, self._masks(row), state["done"], tuple(state["commits"])
                )
                for row, state in zip(plan.sequences, states, strict=True)
            )
        )

    def _masks(self, row):
        return self.canvases[row.slot][row.block.start : row.block.stop].count(MASK)

    def _step(self, row, state, step):
        canvas = self.canvases[row.slot]
        spans = row.next_query if step else row.first_query
        assert all(0 <= s.start < s.stop <= s.visible == len(canvas) for s in spans)
        queried = {p for s in spans for p in range(s.start, s.stop)}
        if row.compact and step:
            queried &= set(state["masked"])
        masked = [p for p in range(row.commit_start, row.block.stop) if canvas[p] == MASK and p in queried]
        self.queried.setdefault(row.slot, []).append(sorted(queried))
        state["masked"] = masked
        state["rows"] += len(queried)
        state["refreshes"] += len(queried) == len(canvas)
        rule = row.select
        if rule.kind == "top_k":
            index = rule.next_step + step
            count = rule.num_masked // rule.num_steps + (index < rule.num_masked % rule.num_steps)
        else:
            count = self.random.randint(1, max(1, len(masked)))
        for position in self.random.sample(masked, min(count, len(masked))):
            token = EOS if self.random.random() < self.eos_rate else self.random.randrange(50)
            canvas[position] = token
            state["commits"].append(Commit(position, token, self.random.random(), step))
        state["done"] = not self._masks(row)


def make_sequence(name, *, prompt=3, guided=False, stop=False, **options):
    params = SamplingParams(**({"preset": "quality", "gen_length": 12, "block_length": 4} | options))
    canvas = Canvas.for_generation(
        list(range(prompt)), params.gen_length, mask_id=MASK, block_length=params.block_length
    )
    return SequenceState(
        request_id=name,
        canvas=canvas,
        cache=CACHES[params.cache](),
        decoder=decoder_of(params),
        sampling=SamplingRule(mask_id=MASK, guidance_scale=1.0 if guided else 0.0),
        end_tokens=frozenset([EOS]) if stop else frozenset(),
        end_fill=EOS,
    )


def apply(scheduler, plan, result):
    """Give each its part; those that are finished by it."""
    pairs = zip(scheduler.of(plan), result.sequences, strict=True)
    return [member for member, outcome in pairs if scheduler.settle(member, outcome)]


def run(scheduler, runner, *, max_steps=64, watch=lambda: None):
    finished = []
    while scheduler.num_running or scheduler.num_waiting:
        while (sequence := scheduler.next_waiting()) is not None:
            scheduler.start(sequence, *runner.open(sequence))
        watch()
        if not scheduler.num_running:
            continue
        plan = scheduler.schedule(max_steps)
        done = apply(scheduler, plan, runner.denoise(plan))
        for sequence in done:
            runner.close(sequence)
        finished += done
    assert not runner.canvases
    return finished


def test_one_sequence_token_by_token():
    scheduler, runner = Scheduler(max_num_seqs=4, max_num_batched_tokens=1000), FakeRunner()
    sequence = make_sequence("a")
    scheduler.add(sequence)
    assert run(scheduler, runner) == [sequence]
    assert MASK not in sequence.canvas.tokens
    assert sequence.num_forwards == 12
    assert len(runner.calls) == 3
    assert sorted(p.step for p in sequence.placed.values()) == list(range(12))
    assert [sequence.placed[p].block for p in range(3, 15)] == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("max_steps", [1, 2, 64])
@pytest.mark.parametrize(
    ("cache", "rows", "refreshes"),
    [
        ("none", 180, 12),
        ("prefix", 117, 3),
        ("dual", 81, 3),
        ("dual_compact", 3 * (15 + 4 + 3 + 2), 3),
        ("interval", 15 + 12 + 10 * 4, 1),
    ],
)
def test_rows_and_refreshes_are_counted(cache, rows, refreshes, max_steps):
    scheduler, sequence = Scheduler(max_num_seqs=1, max_num_batched_tokens=1000), make_sequence("a", cache=cache)
    scheduler.add(sequence)
    run(scheduler, FakeRunner(), max_steps=max_steps)
    assert (sequence.num_query_rows, sequence.num_refreshes) == (rows, refreshes)


@pytest.mark.parametrize("options", [{}, {"steps": 6}, {"threshold": 0.5}], ids=str)
@pytest.mark.parametrize("cache", sorted(FIXED_BLOCK_CACHES))
def test_what_a_step_recomputes_does_not_depend_on_where_calls_end(cache, options):
    """The random choices of the fake runner are the same, so the steps must be too."""
    runs = []
    for max_steps in (1, 3, 64):
        scheduler, runner = Scheduler(max_num_seqs=1, max_num_batched_tokens=1000), FakeRunner(seed=4)
        sequence = make_sequence("a", prompt=30, cache=cache, gen_length=80, block_length=16, **options)
        scheduler.add(sequence)
        run(scheduler, runner, max_steps=max_steps)
        runs.append(runner.queried[0])
    assert runs[0] == runs[1] == runs[2]


def test_a_call_ends_where_a_policy_asks_for_something_else():
    scheduler, runner = Scheduler(max_num_seqs=2, max_num_batched_tokens=1000), FakeRunner()
    for name, cache in (("a", "interval"), ("b", "dual")):
        sequence = make_sequence(name, cache=cache, gen_length=32, block_length=16)
        scheduler.add(sequence)
        scheduler.start(sequence, *runner.open(sequence))
    plan = scheduler.schedule(64)
    assert plan.max_steps == 7  # the response is due in the eighth
    apply(scheduler, plan, runner.denoise(plan))
    plan = scheduler.schedule(64)
    assert [[(q.start, q.stop) for q in row.first_query] for row in plan.sequences] == [[(3, 35)], [(3, 19)]]
    assert scheduler.schedule(5).max_steps == 5


def test_a_sequence_in_mid_block_goes_on_with_the_next_query():
    scheduler, runner = Scheduler(max_num_seqs=2, max_num_batched_tokens=1000), FakeRunner()
    short, long = make_sequence("short", gen_length=2, block_length=2), make_sequence("long", cache="dual")
    scheduler.add(short)
    scheduler.add(long)
    for sequence in (short, long):
        scheduler.start(sequence, *runner.open(sequence))
    plan = scheduler.schedule(64)
    assert [len(row.first_query[0]) for row in plan.sequences] == [5, 15]
    assert apply(scheduler, plan, runner.denoise(plan)) == [short]
    (row,) = scheduler.schedule(64).sequences
    assert row.first_query == row.next_query
    assert (row.step, row.select.next_step, row.select.num_masked) == (2, 2, 4)


def test_a_waiting_sequence_joins_when_a_running_one_leaves():
    scheduler, runner = Scheduler(max_num_seqs=2, max_num_batched_tokens=1000), FakeRunner()
    sequences = [make_sequence(str(i), gen_length=4 + 4 * (i % 3)) for i in range(7)]
    for sequence in sequences:
        scheduler.add(sequence)
    peak = []
    finished = run(scheduler, runner, watch=lambda: peak.append(scheduler.num_running))
    assert {s.request_id for s in finished} == {str(i) for i in range(7)}
    assert max(peak) == 2
    assert peak.count(2) >= len(peak) - 3


def test_the_row_budget_is_kept_and_nobody_starves():
    scheduler, runner = Scheduler(max_num_seqs=8, max_num_batched_tokens=40), FakeRunner()
    sequences = [make_sequence(str(i), prompt=prompt) for i, prompt in enumerate([3, 3, 20, 100, 3])]
    for sequence in sequences:
        scheduler.add(sequence)
    while (sequence := scheduler.next_waiting()) is not None:
        scheduler.start(sequence, *runner.open(sequence))
    served = {s.request_id: [] for s in sequences}
    for turn in range(60):
        plan = scheduler.schedule(1)
        rows = [len(row.first_query[0]) for row in plan.sequences]
        assert sum(rows) <= 40 or len(rows) == 1
        for sequence in scheduler.of(plan):
            served[sequence.request_id].append(turn)
        apply(scheduler, plan, runner.denoise(plan))
        if not scheduler.num_running:
            break
    for turns in served.values():
        assert all(later - earlier <= 4 for earlier, later in zip([-1, *turns], turns, strict=False))
    assert not scheduler.num_running


def test_guidance_takes_twice_the_rows():
    scheduler, runner = Scheduler(max_num_seqs=8, max_num_batched_tokens=45), FakeRunner()
    for name in ("a", "b"):
        sequence = make_sequence(name, guided=True)
        scheduler.add(sequence)
        scheduler.start(sequence, *runner.open(sequence))
    assert len(scheduler.schedule(1).sequences) == 1


def test_early_stop_skips_later_blocks():
    scheduler, runner = Scheduler(max_num_seqs=8, max_num_batched_tokens=1000), FakeRunner(eos_rate=1.0)
    stopping, going_on = make_sequence("stop", stop=True), make_sequence("go")
    scheduler.add(stopping)
    scheduler.add(going_on)
    run(scheduler, runner)
    assert (stopping.num_forwards, going_on.num_forwards) == (4, 12)
    assert stopping.canvas.tokens[3:] == [EOS] * 12
    assert len(stopping.placed) == 4


def test_remove_wherever_it_is_and_twice():
    scheduler, runner = Scheduler(max_num_seqs=1, max_num_batched_tokens=1000), FakeRunner()
    first, second = make_sequence("first"), make_sequence("second")
    scheduler.add(first)
    scheduler.add(second)
    scheduler.start(first, *runner.open(first))
    for sequence in (second, first, first, second):
        scheduler.remove(sequence)
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


def test_leftover_masks_of_the_reference_do_not_hold_a_request_up():
    """The published loop may end a block with masks left (the mask id won); the schedule, not the masks, ends it."""
    scheduler = Scheduler(max_num_seqs=1, max_num_batched_tokens=1000)
    sequence = make_sequence("a", preset="reference")
    sequence.commit_start = 0
    scheduler.add(sequence)
    scheduler.start(sequence, 0)
    for block in range(3):
        plan = scheduler.schedule(64)
        (row,) = plan.sequences
        assert row.commit_start == 0
        assert row.block.start == 3 + 4 * block
        commits = () if block == 0 else (Commit(3 + block, 5, 1.0, 0),)
        finished = apply(scheduler, plan, StepResult((SequenceResult(60, 4, 4, 4, True, commits),)))
    assert finished == [sequence]
    assert sequence.canvas.tokens.count(MASK) == 10


OPTIONS = st.fixed_dictionaries(
    {
        "gen_length": st.integers(1, 20),
        "steps": st.one_of(st.none(), st.integers(1, 30)),
        "block_length": st.integers(1, 8),
        "cache": st.sampled_from(sorted(FIXED_BLOCK_CACHES)),
        "threshold": st.one_of(st.none(), st.just(0.5)),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.tuples(OPTIONS, st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=9),
    max_num_seqs=st.integers(1, 5),
    budget=st.integers(1, 120),
    max_steps=st.integers(1, 9),
    seed=st.integers(0, 2**16),
    removed=st.sets(st.integers(0, 8)),
)
def test_every_request_ends_and_no_slot_leaks(requests, max_num_seqs, budget, max_steps, seed, removed):
    scheduler = Scheduler(max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)
    runner = FakeRunner(seed, eos_rate=0.2)
    sequences = []
    for index, (options, prompt, guided, stop) in enumerate(requests):
        options = options | {"block_length": min(options["block_length"], options["gen_length"])}
        sequences.append(make_sequence(str(index), prompt=prompt, guided=guided, stop=stop, **options))
        scheduler.add(sequences[-1])
    choice = random.Random(seed)
    victims = [sequences[index] for index in sorted(removed) if index < len(sequences)]

    def watch():
        assert scheduler.num_running <= max_num_seqs
        if victims and choice.random() < 0.5 and scheduler.num_running + scheduler.num_waiting > 1:
            victim = victims.pop()
            if victim.slot >= 0 and victim in list(scheduler.running):
                runner.close(victim)
            scheduler.remove(victim)
            cancelled.add(victim.request_id)

    cancelled = set()
    finished = run(scheduler, runner, max_steps=max_steps, watch=watch)
    ended = {s.request_id for s in finished}
    assert len(ended) == len(finished)
    assert ended | cancelled == {s.request_id for s in sequences}
    for sequence in finished:
        assert MASK not in sequence.canvas.tokens
