"""Times of our engine at the shape of the flight: steps and answers against the machine's roofs, ways to launch and to
multiply against each other, each op, each kernel, memory. Random weights, fixed work. What matters most comes first,
and each number is on disk once it is known.
"""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import torch

from benchmarks.gpu.bench import Bench, measure_answers, measure_steps
from benchmarks.gpu.flight import Flight
from benchmarks.gpu.kernels import record_kernels
from benchmarks.gpu.rig import PREPARED_ROUNDS, Rig, free_bytes, sizes_of, table_of
from benchmarks.gpu.roofs import measure_roofs
from benchmarks.gpu.steps import Steps
from benchmarks.gpu.weights import model_folder
from benchmarks.shapes import SHAPES
from llada_rt import _core
from llada_rt.runtime import device
from llada_rt.runtime.footprint import Load, footprint_of
from training.model import LLaDA

KS = (3, 4.2, 1)  # tokens a step; 4.2 in the mean (steps.num_steps)
# Ways to launch and to multiply that take turns with the best one so far; all of them give the same bits.
TIERS_IN_TURN = ("default", "late launch", "plain")


def run(flight: Flight) -> None:
    bench = Bench(flight, table_of(flight), model_folder(flight), sizes_of(flight))
    with flight.attempt("roofs"):
        bench.roofs = measure_roofs(flight)
    quantised = "float8" if bench.table == device.CUDA_TABLE else "int8"
    with flight.attempt("logits of a small shape"):
        check_logits(bench, ("bfloat16", quantised))
    with flight.attempt("bfloat16"):
        measure_bfloat16(bench)
    with flight.attempt(quantised), ExitStack() as held:
        rig = bench.open(quantised)
        held.callback(rig.close)
        measure_steps(bench, [rig], 1)
        measure_answers(bench, rig, 1, (4.2,))


def measure_bfloat16(bench: Bench) -> None:
    flight, before = bench.flight, free_bytes()
    with ExitStack() as held:
        main = bench.open("bfloat16", TIERS_IN_TURN[0])
        held.callback(main.close)
        bench.step_ms = measure_steps(bench, [main], 1)[main.tier]
        for tier in TIERS_IN_TURN[1:]:
            with flight.attempt(tier):
                main = better_of(bench, main, tier, held)
        with flight.attempt("answers at batch 1"):
            measure_answers(bench, main, 1, KS)
        with flight.attempt("ops one by one"):
            record_ops(bench, main)
        for batch in bench.batches:
            with flight.attempt(f"batch {batch}"):
                main.reserve(batch, bench.sizes)
                measure_steps(bench, [main], batch)
                measure_answers(bench, main, batch, KS[:2])
        with flight.attempt("memory"):
            record_memory(bench, main, before)
        with flight.attempt("kernels"):
            if flight.dry:
                flight.record("kernels", skipped=True)
            else:
                record_kernels(flight, main, bench.step_ms, bench.sizes)


def better_of(bench: Bench, rig: Rig, tier: str, held: ExitStack) -> Rig:
    """The faster in a refinement, of a runtime and of another tier's, which take turns; the other one is closed.

    Whether their logits agree is a claim: of one that gives other logits no more is timed.
    """
    other = bench.open("bfloat16", tier)
    held.callback(other.close)
    try:
        taken = measure_steps(bench, [rig, other], 1)
        difference = logits_difference(bench, rig, other)
        equal = float((committed(bench, rig) == committed(bench, other)).mean())
    except BaseException:
        other.close()  # its memory counts
        raise
    agrees = difference == 0 and equal == 1
    fields = {"difference": difference, "equal_tokens": equal}
    bench.flight.claim(f"logits: {tier} against {rig.tier}", agrees, **fields)
    best = other if agrees and taken[tier]["refine"] < taken[rig.tier]["refine"] else rig
    bench.step_ms = taken[best.tier]
    (rig if best is other else other).close()
    return best


def logits_difference(bench: Bench, one: Rig, other: Rig) -> float:
    """Root of the mean square, over that of the logits: of some positions of a text as long as a block, and of one as
    long as a canvas.
    """
    differences = []
    for length in (bench.sizes.block, bench.sizes.canvas):
        a, b = (some_logits(bench, rig, length) for rig in (one, other))
        differences.append(np.linalg.norm(a - b) / np.linalg.norm(a))
    return float(np.max(differences))  # NaN if one is


def some_logits(bench: Bench, rig: Rig, length: int) -> np.ndarray:
    """(a block's number of positions, vocabulary), spread over a random text of that length."""
    positions = np.arange(0, length, length // bench.sizes.block, dtype=np.int32)
    slot = rig.runtime.open_slot(np.array(bench.shape.text(length), np.int32))
    try:
        return rig.runtime.logits(slot, np.array([(0, length, length)], _core.SPAN_DTYPE), positions)
    finally:
        rig.runtime.close_slot(slot)


def committed(bench: Bench, rig: Rig) -> np.ndarray:
    """Tokens of a block, (block) int32, as the steps leave it once they are replayed as graphs."""
    steps = Steps(rig.runtime, bench.shape, 1, bench.sizes)
    try:
        for _ in range(PREPARED_ROUNDS + 1):
            steps.reset()
            steps.refresh()
            steps.refine()
        return rig.runtime.canvas(steps.slots[0])[slice(*steps.block)]
    finally:
        steps.close()


def check_logits(bench: Bench, compute_types: Sequence[str]) -> None:
    """Claims that ours are as near to torch's in float32 as torch's in bfloat16 are, in the root of the mean square."""
    flight = bench.flight
    shape = bench.shape if flight.small else SHAPES["s"]
    folder = shape.write(flight.scratch / f"llada-rt-logits-{shape.name}")
    tokens = torch.tensor([shape.text(24 if flight.small else 96) + [shape.config.mask_token_id] * 32])
    with torch.no_grad():
        truth, plain = (
            LLaDA.from_folder(folder, dtype=dtype).to(flight.device)(tokens.to(flight.device))[0].double().cpu()
            for dtype in (torch.float32, torch.bfloat16)
        )
    for compute_type in compute_types:
        with flight.attempt(f"logits in {compute_type}"):
            rig = Rig(flight, folder, bench.table, compute_type)
            ours = torch.from_numpy(rig.runtime.forward(tokens[0].int().numpy())).double()
            rig.close()
            ratio = float((ours - truth).square().mean().sqrt() / (plain - truth).square().mean().sqrt())
            allowed = 2.0 if compute_type == "bfloat16" else 20.0  # fewer bits of the weights: bounded, and shown
            flight.claim(f"logits in {compute_type}", ratio <= allowed, ratio=ratio, allowed=allowed)


def record_ops(bench: Bench, rig: Rig) -> None:
    """Each op of a step by itself, its launch and the wait for it included."""
    steps = Steps(rig.runtime, bench.shape, 1, bench.sizes)
    steps.reset()
    try:
        for phase, count in (("refresh", 1), ("refine", bench.sizes.steps)):
            rig.runtime.set_trace(True)
            getattr(steps, phase)()
            trace = rig.runtime.trace()
            rig.runtime.set_trace(False)
            for op, (calls, wall_ns, _) in trace.items():
                if op != "denoise":
                    times = {"calls_per_step": calls / count, "us_per_step": wall_ns / count / 1e3}
                    bench.flight.record("op", phase=phase, op=op, compute_type=rig.compute_type, **times)
    finally:
        rig.runtime.set_trace(False)
        steps.close()


def record_memory(bench: Bench, rig: Rig, before: int | None) -> None:
    """What this runtime has of the GPU after its largest batch, beside what `llada-rt info --memory` says."""
    sizes, num_seqs = bench.sizes, max(bench.batches)
    load = Load(num_seqs, sizes.canvas, sizes.block, num_seqs * sizes.canvas, rig.runtime.num_threads)
    formula = footprint_of(bench.folder, load, compute_type=rig.compute_type, table=bench.table, process_bytes=0)
    after = free_bytes()
    taken = None if before is None or after is None else before - after
    ratio = None if taken is None else taken / formula.num_bytes
    terms = {term.name: term.num_bytes for term in formula.terms}
    fields = {"taken_bytes": taken, "formula_bytes": formula.num_bytes, "ratio": ratio, "terms": terms}
    bench.flight.record("memory", compute_type=rig.compute_type, tier=rig.tier, batch=num_seqs, **fields)
