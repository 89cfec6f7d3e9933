"""An engine's steps and answers, timed: what every part of `stage_numbers.py` measures with."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.rig import PREPARED_ROUNDS, Rig, Samples
from benchmarks.gpu.roofs import Roofs, answer_share, step_share
from benchmarks.gpu.steps import Sizes, Steps, answer, num_steps, tokens_per_step
from benchmarks.shapes import Shape

ROUNDS = 5
LIMIT_S = 4.0  # of the rounds of one thing, after those that prepare it; one at least is taken
PHASES = ("refresh", "refine")  # in the order in which they run


@dataclass
class Bench:
    """What all parts need. `step_ms`: of bfloat16 at batch 1."""

    flight: Flight
    table: str
    folder: Path
    sizes: Sizes
    roofs: Roofs | None = None
    step_ms: dict[str, float] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        return self.flight.shape

    @property
    def batches(self) -> tuple[int, ...]:
        """Beside 1."""
        return (2,) if self.flight.small else (8, 32)

    def open(self, compute_type: str, tier: str = "default") -> Rig:
        """With K/V for a canvas and a bit; the load is recorded."""
        rig = Rig(self.flight, self.folder, self.table, compute_type, tier)
        fields: dict[str, Any] = {"seconds": rig.load_s, "weight_bytes": rig.runtime.weight_bytes}
        fields |= {"free_bytes_before": rig.free_before, "free_bytes_after": rig.runtime.free_device_bytes}
        self.flight.record("load", compute_type=compute_type, tier=tier, **fields)
        rig.reserve(2, self.sizes)
        return rig


def measure_steps(bench: Bench, rigs: Sequence[Rig], batch: int) -> dict[str, dict[str, float]]:
    """Rounds of a refresh and the refinements after it, the runtimes in turn. Returns tier -> phase -> ms of a step."""
    sizes, samples = bench.sizes, {rig.tier: {phase: Samples() for phase in PHASES} for rig in rigs}
    open_steps = [(rig, Steps(rig.runtime, bench.shape, batch, sizes)) for rig in rigs]

    def one_round(keep: bool) -> None:
        for rig, steps in open_steps:
            steps.reset()
            for phase in PHASES:
                taken = rig.timed(getattr(steps, phase))
                if keep:
                    samples[rig.tier][phase].taken.append(taken)

    try:
        for _ in range(PREPARED_ROUNDS):
            one_round(keep=False)
        repeat(bench.flight, lambda: one_round(keep=True))
    finally:
        for _, steps in open_steps:
            steps.close()
    result: dict[str, dict[str, float]] = {}
    for rig in rigs:
        for phase, num_steps_timed in (("refine", sizes.steps), ("refresh", 1)):
            fields = samples[rig.tier][phase].fields(num_steps_timed)
            share = step_share(
                bench.shape,
                bench.roofs,
                rig.compute_type,
                phase=phase,
                batch=batch,
                sizes=sizes,
                step_s=fields["ms"] / 1e3,
            )
            named = {"phase": phase, "compute_type": rig.compute_type, "tier": rig.tier, "batch": batch}
            bench.flight.record("step", **named, in_turn=len(rigs) > 1, **fields, **share)
            result.setdefault(rig.tier, {})[phase] = fields["ms"]
    return result


def repeat(flight: Flight, run: Callable[[], None]) -> None:
    """ROUNDS times, or until LIMIT_S are over; once in a dry run."""
    began = time.perf_counter()
    for _ in range(1 if flight.dry else ROUNDS):
        run()
        if time.perf_counter() - began > LIMIT_S:
            break


def measure_answers(bench: Bench, rig: Rig, batch: int, ks: Sequence[float]) -> None:
    sizes, gen_length = bench.sizes, bench.sizes.gen_length(batch)
    for k in ks:
        samples, asked = Samples(), gen_length // sizes.block * num_steps(sizes.block, k)

        def take(samples: Samples, whole: Callable[[], None]) -> None:
            samples.taken.append(rig.timed(whole))

        def whole(k: float = k, asked: int = asked) -> None:
            ran = answer(rig.runtime, bench.shape, k, gen_length=gen_length, batch=batch, sizes=sizes)
            assert ran == asked, f"{ran} steps, {asked} asked"

        whole()  # its second block records what its later ones replay
        repeat(bench.flight, partial(take, samples, whole))
        answer_s = samples.wall_s
        share = answer_share(
            bench.shape, bench.roofs, rig.compute_type, k=k, batch=batch, sizes=sizes, answer_s=answer_s
        )
        bench.flight.record(
            "answer",
            who="llada_rt",
            compute_type=rig.compute_type,
            tier=rig.tier,
            batch=batch,
            k=k,
            tokens_per_step=tokens_per_step(sizes.block, k),
            gen_length=gen_length,
            tokens_per_s=batch * gen_length / answer_s,
            **samples.fields(),
            **share,
        )
