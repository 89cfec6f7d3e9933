"""The scheduler as a state machine: whatever comes when, each request ends once, no slot leaks and the bounds hold."""

import random
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from llada_rt.planning.plan import SequenceResult, StepResult
from llada_rt.planning.scheduler import Draws, Scheduler
from llada_rt.planning.visibility import FULL
from llada_rt.runtime.score import ScoredDraw, draw_noise, guide_of
from tests.planning.test_scheduler import MASK, FakeRunner, make_sequence


class Runner(FakeRunner):
    """Has memory for so many positions; scores draws too."""

    def __init__(self, seed, capacity):
        super().__init__(seed, eos_rate=0.2)
        self.capacity = capacity

    def has_room(self, member):
        needs = member.length * (2 if member.is_guided else 1)
        return sum(map(len, self.canvases.values())) + needs <= self.capacity

    def open_member(self, member):
        tokens, guide = member.slot_tokens()
        slot, guide_slot = self.next_slot, self.next_slot + 1 if guide else -1
        self.next_slot += 2
        self.canvases[slot] = list(tokens)
        if guide:
            self.canvases[guide_slot] = list(guide)
        return slot, guide_slot

    def denoise(self, plan):
        if not any(row.targets for row in plan.sequences):
            return super().denoise(plan)
        decoded = [row for row in plan.sequences if not row.targets]
        results = iter(super().denoise(type(plan)(tuple(decoded), 1)).sequences if decoded else ())
        scored = SequenceResult(1, 1, 1, 0, True, (), log_probs=(0.0,))
        return StepResult(tuple(scored if row.targets else next(results) for row in plan.sequences))


class SchedulerMachine(RuleBasedStateMachine):
    requests = Bundle("requests")

    @initialize(
        seats=st.integers(1, 4), budget=st.integers(1, 90), capacity=st.integers(60, 200), seed=st.integers(0, 2**16)
    )
    def begin(self, seats, budget, capacity, seed):
        self.scheduler = Scheduler(max_num_seqs=seats, max_num_batched_tokens=budget)
        self.runner = Runner(seed, capacity)
        self.choice = random.Random(seed)
        self.names = count()
        self.open = {}  # request -> members left
        self.ended = []
        self.calls_without = {}  # running member -> calls since it was served

    @rule(
        target=requests,
        gen_length=st.integers(1, 20),
        block_length=st.integers(1, 8),
        cache=st.sampled_from(sorted(FIXED_BLOCK_CACHES)),
        prompt=st.integers(1, 9),
        guided=st.booleans(),
        stop=st.booleans(),
        most=st.one_of(st.none(), st.integers(1, 9)),
        step_by_step=st.booleans(),
    )
    def add_sequence(self, gen_length, block_length, cache, prompt, guided, stop, most, step_by_step):
        options = {"gen_length": gen_length, "block_length": min(block_length, gen_length), "cache": cache}
        sequence = make_sequence(str(next(self.names)), prompt=prompt, guided=guided, stop=stop, **options)
        sequence.max_forwards, sequence.step_by_step = most, step_by_step
        self.scheduler.add(sequence)
        self.open[sequence] = {sequence}
        return sequence

    @rule(target=requests, length=st.integers(1, 20), draws=st.integers(1, 12), guided=st.booleans())
    def add_score(self, length, draws, guided):
        noise = draw_noise([1], list(range(length)), mc_num=draws, seed=0, mask_id=MASK)
        members = [ScoredDraw(draw, guide_of(draw, 1, MASK) if guided else None, 1.0, FULL) for draw in noise]
        source = Draws(iter(members))
        self.scheduler.add(source)
        self.open[source] = set(members)
        return source

    @rule(request=consumes(requests))
    def abort(self, request):
        for member in self.open.pop(request, ()):
            self.leave(member)
        self.scheduler.remove(request)
        self.scheduler.remove(request)

    def leave(self, member):
        self.scheduler.remove(member)
        self.runner.close(member)
        member.slot = member.guide_slot = -1
        self.calls_without.pop(member, None)

    def of(self, member):
        return next(request for request, members in self.open.items() if member in members)

    @precondition(lambda self: self.scheduler.num_running or self.scheduler.num_waiting)
    @rule(max_steps=st.integers(1, 9))
    def step(self, max_steps):
        while (member := self.scheduler.next_waiting()) is not None and self.runner.has_room(member):
            self.scheduler.start(member, *self.runner.open_member(member))
            self.calls_without[member] = 0
        assert self.scheduler.num_running  # an empty machine takes any request
        plan = self.scheduler.schedule(max_steps)
        members = self.scheduler.of(plan)
        rows = [
            max(sum(map(len, r.first_query)), sum(map(len, r.next_query))) * (1 + (r.guide_slot >= 0))
            for r in plan.sequences
        ]
        assert sum(rows) <= self.scheduler.max_num_batched_tokens or len(rows) == 1
        for member in self.calls_without:
            self.calls_without[member] = 0 if member in members else self.calls_without[member] + 1
        # The stated bound: fewer calls without it than there are seats, one more while draws run.
        assert max(self.calls_without.values()) <= self.scheduler.max_num_seqs
        for member, outcome in zip(members, self.runner.denoise(plan).sequences, strict=True):
            finished = self.scheduler.settle(member, outcome)
            if finished or (member.is_seated and member.is_spent):
                self.leave(member)
                request = self.of(member)
                self.open[request].discard(member)
                if not self.open[request]:
                    del self.open[request]
                    self.ended.append(request)

    @invariant()
    def counts_hold(self):
        if not hasattr(self, "scheduler"):
            return
        running = list(self.scheduler.running)
        assert sum(member.is_seated for member in running) <= self.scheduler.max_num_seqs
        draw_rows = [m.length * (1 + m.is_guided) for m in running if not m.is_seated]
        assert sum(draw_rows) <= self.scheduler.max_num_batched_tokens or len(draw_rows) == 1
        held = {slot for member in running for slot in (member.slot, member.guide_slot) if slot >= 0}
        assert held == set(self.runner.canvases)
        assert len(self.ended) == len(set(self.ended))
        for request, members in self.open.items():
            assert members
            assert self.scheduler.num_running + self.scheduler.num_waiting > 0 or not request

    def teardown(self):
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10_000):
            if not (self.scheduler.num_running or self.scheduler.num_waiting):
                break
            self.step(4)
        assert not self.open
        assert not self.runner.canvases


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
