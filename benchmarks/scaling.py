"""Scaling: tokens a second against batch, context, response, block and threads; measured, beside the cost model."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cost_model import Work
from benchmarks.fixed_work import fixed_params
from benchmarks.machine import measure_machine
from benchmarks.noise import doubts
from benchmarks.plan import Plan, add
from benchmarks.report import LATENCY, SPREAD, Column, Report, number, percent, speed
from benchmarks.roof import annotate
from benchmarks.workloads import shape_workload

TOKENS_PER_STEP = 4
COMPUTE_TYPES = ("bfloat16", "int8")
RIVALS = ("torch", "llama.cpp-q8_0", "llama.cpp-q4_k_m")  # along the batch and the context
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (16, 64, 256, 768)
RESPONSES = (32, 64, 128, 256, 512)
BLOCKS = (8, 16, 32, 64, 128)
OF_AN_AXIS = ("axis", "value", "max_num_seqs")  # of a setting: what the work is the same without

COLUMNS: tuple[Column, ...] = (
    ("varied", lambda r: f"{r['setting']['axis'].replace('_', ' ')} {r['setting']['value']}"),
    ("system", lambda r: r["system"]),
    ("tokens/s", speed),
    SPREAD,
    ("ceiling", lambda r: number(r.get("model_tokens_per_s"))),
    ("share", lambda r: percent(r.get("share_of_roof"))),
    LATENCY,
)


@dataclass(frozen=True, slots=True)
class Point:
    """One value on one axis; everything else as in a batch of one, 64 positions of prompt, blocks of 32."""

    axis: str
    value: int
    threads: int
    batch: int = 1
    prompt_length: int = 64
    gen_length: int = 32
    block_length: int = 32

    @property
    def work(self) -> Work:
        return Work(self.prompt_length, self.gen_length, self.block_length, self.batch, masked_head=True)


def points(threads: int, quick: bool) -> Iterator[list[Point]]:
    """Those of a list are measured in turn, in the same rounds. The quick version: batches up to 8."""
    for batch in BATCHES[:4] if quick else BATCHES:
        yield [Point("batch", batch, threads, batch=batch)]
    if quick:
        return
    for length in CONTEXTS:
        yield [Point("prompt_length", length, threads, prompt_length=length)]
    for length in RESPONSES:
        yield [Point("gen_length", length, threads, gen_length=length)]
    for length in BLOCKS:
        yield [Point("block_length", length, threads, gen_length=128, block_length=length)]
    # What is compared here is threads with threads, so a change of load must hit all of them.
    yield [Point("threads", count, count, gen_length=64) for count in range(1, threads + 1)]


def run(plan: Plan, shape: str = "s") -> Report:
    report = plan.report(
        "scaling", f"Scaling: shape {shape}, random weights, dual cache, {TOKENS_PER_STEP} tokens a step (an ARM: one)"
    )
    limits = {plan.threads: report.machine}
    for together in points(plan.threads, plan.quick):
        for point in together:
            limits.setdefault(point.threads, measure_machine(point.threads))
        for row in _measure(plan, shape, together, report):
            of = next(point for point in together if point.value == row["setting"]["value"])
            annotate(row, limits[of.threads], of.work)
    mark_drift(report.rows)
    return report


def mark_drift(rows: Sequence[dict[str, Any]]) -> None:
    """Axes cross: where the same work was measured for two of them, minutes apart, it must be as fast both times."""
    same: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["tokens_per_s"]:
            setting = {name: value for name, value in row["setting"].items() if name not in OF_AN_AXIS}
            same.setdefault(json.dumps([row["system"], row["batch"], setting], sort_keys=True), []).append(row)
    for those in same.values():
        speeds = [row["tokens_per_s"] for row in those]
        for row in those:
            row["drift"] = max(speeds) / min(speeds) - 1 if len(those) > 1 else None
            row["noisy"] = doubts(row)


def _measure(plan: Plan, shape: str, together: Sequence[Point], report: Report) -> Sequence[dict[str, Any]]:
    """The points differ in their threads alone."""
    first = together[0]
    said = {"axis": first.axis, "value": first.value, "tokens_per_step": TOKENS_PER_STEP}
    with shape_workload(
        shape, prompt_length=first.prompt_length, num_tokens=first.gen_length, count=first.batch
    ) as work:
        entries = [
            work.ours(
                f"ours {compute_type}" + (f", {point.axis} {point.value}" if len(together) > 1 else ""),
                plan.engines,
                {"compute_type": compute_type, "threads": point.threads, "max_num_seqs": max(8, point.batch)},
                fixed_params(point.gen_length, TOKENS_PER_STEP, block=point.block_length),
                said | {"value": point.value},
            )
            for point in together
            for compute_type in COMPUTE_TYPES
        ]
        if first.axis in ("batch", "prompt_length"):
            entries += plan.against(work, RIVALS, said | {"tokens_per_step": 1})
        rows = add(report, plan.measure(work, entries, batch=first.batch, repeats=plan.rounds(2)))
    for row in rows:
        row["system"] = row["system"].partition(", ")[0]  # what is varied is in its setting
    return rows
