"""Matched quality: the trained pairs, how much each setting answers right against how fast; text tokens only.

Ours with every preset, cache policy and several thresholds; the twin in every package. Answers of one question at a
time. Speeds are compared between settings whose share right is equal within a point, or better than the twin's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import Entry
from benchmarks.plan import Plan, add
from benchmarks.report import Report, Row, number
from benchmarks.workloads import Workload, pair_workload
from llada_rt.caches import CACHES
from llada_rt.params import PRESETS

COMPUTE_TYPES = ("bfloat16", "int8")
THRESHOLDS = (0.5, 0.7, 0.8, 0.95)
RIVALS = ("torch", "torch-float32", "llama.cpp-bf16", "llama.cpp-q8_0")
QUICK_RIVALS = ("torch", "llama.cpp-q8_0")
POINT = 0.01  # shares right that differ by no more are equal
NUM_QUESTIONS = {"verse": 150, "sudoku": 200}
QUICK_QUESTIONS = {"verse": 40, "sudoku": 40}


def settings(quick: bool) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(name, SamplingParams, what a row says of it)."""
    for preset in PRESETS:
        yield preset, {"preset": preset}, {"label": preset}
    if quick:
        return
    for cache in CACHES:
        if cache not in ("prefix", "dual"):  # those are `balanced` and `fast`
            yield f"threshold 0.9, {cache}", {"preset": "fast", "cache": cache}, {}
    for threshold in THRESHOLDS:
        yield f"threshold {threshold}, dual", {"preset": "fast", "threshold": threshold}, {}


def our_entries(work: Workload, plan: Plan) -> list[Entry]:
    kinds = {compute_type: list(settings(plan.quick)) for compute_type in (("int8",) if plan.quick else COMPUTE_TYPES)}
    kinds["float32"] = [("reference", {"preset": "reference"}, {"label": "reference"})]
    return [
        work.ours(
            f"ours {compute_type} {name}",
            plan.engines,
            {"compute_type": compute_type, "threads": plan.threads},
            params,
            said,
        )
        for compute_type, rows in kinds.items()
        for name, params, said in rows
    ]


def run(plan: Plan, pairs: Sequence[str] = ("verse", "sudoku")) -> Report:
    """The quick version: the presets in int8, 40 questions of each pair."""
    report = plan.report("matched-quality", "Matched quality: trained pairs of equal size and data, batch 1")
    counts = QUICK_QUESTIONS if plan.quick else NUM_QUESTIONS
    for name in pairs:
        work = pair_workload(name, counts[name])
        entries = our_entries(work, plan) + plan.against(work, QUICK_RIVALS if plan.quick else RIVALS)
        rows = add(report, plan.measure(work, entries, repeats=plan.rounds(3)))
        report.findings += findings(work, rows)
    return report


def findings(work: Workload, rows: Sequence[Row]) -> list[str]:
    """The target row against each ARM, the fastest of ours that is as good, and who is better."""
    timed = [row for row in rows if row["tokens_per_s"]]
    ours = [row for row in timed if row["kind"] == "mdm"]
    lines = []
    for arm in (row for row in timed if row["kind"] == "arm"):
        matched = [row for row in ours if row["share_right"] >= arm["share_right"] - POINT]
        if not matched:
            lines.append(f"{work.name}: nothing of ours is as often right as {arm['system']} ({share(arm)})")
            continue
        best = max(matched, key=lambda row: row["tokens_per_s"])
        lines.append(
            f"{work.name}: {arm['system']} {number(arm['tokens_per_s'])} tokens/s, {share(arm)} right; "
            f"the fastest of ours that is as often right (within a point), {best['system']}: {ratio(best, arm)}, "
            f"{share(best)}"
        )
        for row in ours:
            if row["system"] == "ours int8 fast" and row is not best:
                verdict = "as often right" if row in matched else "less often right"
                lines[-1] += f"; {row['system']}: {ratio(row, arm)}, {share(row)} ({verdict})"
    return lines


def share(row: Row) -> str:
    return f"{row['share_right']:.1%}"


def ratio(ours: Row, arm: Mapping[str, Any]) -> str:
    return f"{ours['tokens_per_s'] / arm['tokens_per_s']:.2f} times its speed"
