"""Matched quality: the trained pairs, how much each setting answers right against how fast; text tokens only.

Ours with every preset, cache policy and several thresholds; the twin in every package. Answers of one question at a
time. Speeds are compared between settings whose share right is equal within a point, or better than the twin's.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.measure import Entry
from benchmarks.noise import because, doubts
from benchmarks.plan import Plan, add
from benchmarks.report import Report, Row, is_ours, number
from benchmarks.workloads import Workload, pair_workload
from llada_rt.options.precedence import PRESETS
from llada_rt.planning.caches import CACHES

COMPUTE_TYPES = ("bfloat16", "int8")
THRESHOLDS = (0.5, 0.7, 0.8, 0.95)
# Models so small may be faster with one thread: both are asked.
RIVALS = (
    *("torch-llada", "torch-fast-dllm", "torch", "torch@1", "torch-float32", "transformers"),
    *("llama.cpp-bf16", "llama.cpp-bf16@1", "llama.cpp-q8_0", "llama.cpp-q8_0@1"),
    "llama.cpp-q4_k_m@1",
)
QUICK_RIVALS = ("torch", "torch@1", "llama.cpp-q8_0", "llama.cpp-q8_0@1")
TARGET = "ours int8 fast"
ASKED = {"llama.cpp-q8_0": 1.0, "torch": 3.0}  # how many times as fast as each the target is to be
POINT = 0.01  # shares right that differ by no more are equal
# Pair -> questions that are timed, and of the exam that the share right is taken from.
NUM_QUESTIONS = {"verse": (40, 300), "sudoku": (40, 300), "poems": (10, 60)}
QUICK_QUESTIONS = {"verse": (20, 100), "sudoku": (20, 100)}


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
    entries = [
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
    alone = {"compute_type": "int8", "threads": 1}
    return [*entries, work.ours("ours int8 fast@1", plan.engines, alone, {"preset": "fast"})]


def run(plan: Plan) -> Report:
    """The quick version: the presets in int8, two pairs, fewer questions."""
    report = plan.report("matched-quality", "Matched quality: trained pairs of equal size and data, batch 1")
    counts = QUICK_QUESTIONS if plan.quick else NUM_QUESTIONS
    for name, (count, examined) in counts.items():
        work = pair_workload(name, count, num_examined=examined)
        entries = our_entries(work, plan) + plan.against(work, QUICK_RIVALS if plan.quick else RIVALS)
        rows = add(report, plan.measure(work, entries, repeats=plan.rounds(3)))
        report.findings += findings(work, rows)
    return report


def fastest(rows: Sequence[Row], package: str) -> Row | None:
    """The fastest row of a package, whatever its number of threads."""
    found = [row for row in rows if row["system"].split("@")[0] == package]
    return max(found, key=lambda row: row["tokens_per_s"], default=None)


def fastest_of(rows: Sequence[Row], package: str) -> Row:
    """The same where the package must have been measured; ValueError if it was not."""
    row = fastest(rows, package)
    if row is None:
        raise ValueError(f"expected a row of {package}, got {sorted({row['system'] for row in rows})}")
    return row


def findings(work: Workload, rows: Sequence[Row]) -> list[str]:
    """Each package at its best against the fastest of ours that is as often right; and whether the target is met."""
    timed = [row for row in rows if row["tokens_per_s"]]
    ours = [row for row in timed if is_ours(row)]
    packages = dict.fromkeys(row["system"].split("@")[0] for row in timed if row["kind"] == "arm")
    lines = []
    for arm in (fastest_of(timed, package) for package in packages):
        matched = [row for row in ours if is_as_right(row, arm)]
        if not matched:
            lines.append(f"{work.name}: nothing of ours is as often right as {arm['system']} ({share(arm)})")
            continue
        best = max(matched, key=lambda row: row["tokens_per_s"])
        lines.append(
            f"{work.name}: {arm['system']} {number(arm['tokens_per_s'])} tokens/s, {share(arm)} right; the fastest of "
            f"ours that is as often right (within a point), {best['system']}: {ratio(best, arm):.2f} times as fast, "
            f"{share(best)}{because(best, arm)}"
        )
    return lines + verdict(work.name, timed)


def verdict(pair: str, timed: Sequence[Row]) -> list[str]:
    """The target: at an equal share right as fast as llama.cpp in 8 bits, three times as fast as torch. A noisy ratio
    decides nothing, but what is less often right has missed it at any speed.
    """
    ours = fastest(timed, TARGET)
    arms = {asked: arm for package, asked in ASKED.items() if (arm := fastest(timed, package))}
    if ours is None or not arms:
        return []
    parts = []
    for asked, arm in arms.items():
        times = ratio(ours, arm)
        if not is_as_right(ours, arm):
            called = "MISSED"
        elif doubts(ours, arm):
            called = f"not decided{because(ours, arm)}"
        else:
            called = "met" if times >= asked else "MISSED"
        parts.append(f"{times:.2f} times {arm['system']} (asked {asked}, {share(arm)} right): {called}")
    return [f"target, {pair}: {ours['system']}, {share(ours)} right, is {'; '.join(parts)}"]


def is_as_right(ours: Row, arm: Row) -> bool:
    return ours["share_right"] >= arm["share_right"] - POINT


def share(row: Row) -> str:
    return f"{row['share_right']:.1%}"


def ratio(ours: Row, arm: Row) -> float:
    return ours["tokens_per_s"] / arm["tokens_per_s"]
