"""Fixed work: random weights, so many tokens a step whatever the model thinks of them. The engine, without luck.

Ours with the dual cache, one block of 32 after another, 1 to 8 tokens a step, beside autoregressive models of the same
shape, which write one token a step, and the published loops. Nothing is said of quality here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.cost_model import break_even
from benchmarks.noise import because
from benchmarks.plan import Plan, add
from benchmarks.report import Report, Row
from benchmarks.shapes import BLOCK_LENGTH, GEN_LENGTH, PROMPT_LENGTH
from benchmarks.workloads import Workload, shape_workload

TOKENS_PER_STEP = (1, 2, 3, 4, 8)
COMPUTE_TYPES = ("bfloat16", "int8")
RIVALS = (
    *("torch-llada", "torch-fast-dllm", "torch-fast-dllm-k4"),
    *("torch", "transformers", "llama.cpp-bf16", "llama.cpp-q8_0", "llama.cpp-q4_k_m"),
)
QUICK_RIVALS = ("torch", "llama.cpp-q8_0")


def fixed_params(num_tokens: int, tokens_per_step: int, cache: str = "dual", block: int = BLOCK_LENGTH) -> dict:
    """SamplingParams that commit so many tokens in each step; every position counts, end tokens too."""
    block = min(block, num_tokens)
    num_steps = num_tokens // block * -(-block // tokens_per_step)
    return {"preset": "reference", "cache": cache, "block_length": block, "steps": num_steps}


def our_entries(work: Workload, plan: Plan, counts: Sequence[int], compute_types: Sequence[str], **more: Any) -> list:
    num_tokens = work.questions[0].max_new_tokens
    return [
        work.ours(
            f"ours {compute_type} k={count}",
            plan.engines,
            {"compute_type": compute_type, "threads": plan.threads, **more},
            fixed_params(num_tokens, count),
            {"tokens_per_step": count, "line": compute_type},
        )
        for compute_type in compute_types
        for count in counts
    ]


def run(plan: Plan, shapes: Sequence[str] = ("s", "m")) -> Report:
    """The quick version: shape s, 32 tokens, three counts."""
    num_tokens = BLOCK_LENGTH if plan.quick else GEN_LENGTH
    counts = (1, 4, 8) if plan.quick else TOKENS_PER_STEP
    report = plan.report(
        "fixed-work",
        f"Fixed work: {num_tokens} tokens after {PROMPT_LENGTH}, random weights, batch 1, dual cache, blocks of "
        f"{BLOCK_LENGTH}",
    )
    if not plan.quick:
        from benchmarks.baselines.check import check_baselines  # which needs torch

        plan.say("checking the loops in torch against the engine")
        check_baselines()
    for shape in shapes[:1] if plan.quick else shapes:
        with shape_workload(shape, prompt_length=PROMPT_LENGTH, num_tokens=num_tokens) as work:
            entries = our_entries(work, plan, counts, COMPUTE_TYPES)
            entries += plan.against(work, QUICK_RIVALS if plan.quick else RIVALS)
            rows = add(report, plan.measure(work, entries, repeats=plan.rounds(3)))
        report.findings += findings(shape, rows)
    return report


# ---------------------------------------------------------------- break-even


def measured_points(rows: Sequence[Row], compute_type: str) -> dict[float, float]:
    """Tokens a step -> seconds of ours with this compute type."""
    line = [row for row in rows if row["setting"].get("line") == compute_type and row["wall_s"]]
    return {row["setting"]["tokens_per_step"]: row["wall_s"] for row in line}


def measured_seconds(points: Mapping[float, float]) -> Callable[[float], float]:
    """Tokens a step -> seconds of an answer, straight lines in 1 / tokens between the measured points, and beyond."""
    inverse, seconds = zip(*sorted((1 / count, wall) for count, wall in points.items()), strict=True)
    slope = max(0.0, (seconds[1] - seconds[0]) / (inverse[1] - inverse[0])) if len(points) > 1 else 0.0

    def at(tokens_per_step: float) -> float:
        x = 1 / tokens_per_step
        if x < inverse[0]:
            return seconds[0] - slope * (inverse[0] - x)
        return float(np.interp(x, inverse, seconds))

    return at


def break_even_text(points: Mapping[float, float], arm_seconds: float) -> str:
    needed = break_even(measured_seconds(points), arm_seconds, BLOCK_LENGTH)
    if needed is None:
        return "none up to a block a step"
    if needed <= min(points):
        return f"{min(points):.0f} already"
    return f"{needed:.1f}" + (" (extrapolated)" if needed > max(points) else "")


def findings(shape: str, rows: Sequence[Row]) -> list[str]:
    """Break-even of each of our compute types against each ARM."""
    timed = [row for row in rows if row["wall_s"]]
    lines = []
    for compute_type in COMPUTE_TYPES:
        points = measured_points(timed, compute_type)
        if not points:
            continue
        ours = [row for row in timed if row["setting"].get("line") == compute_type]
        against = [
            f"{row['system']} {break_even_text(points, row['wall_s'])}{because(row, *ours)}"
            for row in timed
            if row["kind"] == "arm"
        ]
        if against:
            lines.append(f"break-even tokens a step, shape {shape}, ours {compute_type}: " + "; ".join(against))
    return lines
