"""The roof: operations and bytes of fixed work, counted, and the share of what this machine can do that is reached.

The ceiling of each row is the cost model's (cost_model.py) on limits measured in the same run: multiply-adds a second
of the elements that the products use, bytes a second read from memory. Weights that fit a cache may be read faster than
memory allows, so a share can exceed 100 % where memory is the bound.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.baselines.contract import Kind
from benchmarks.cost_model import Cost, Machine, Mode, ModelShape, Work, answer_cost, modelled_break_even
from benchmarks.fixed_work import COMPUTE_TYPES, break_even_text, fixed_params, measured_points, our_entries
from benchmarks.machine import as_machine
from benchmarks.noise import because
from benchmarks.plan import Plan, add
from benchmarks.report import Column, Report, Row, number, percent, speed
from benchmarks.shapes import BLOCK_LENGTH, GEN_LENGTH, PROMPT_LENGTH, SHAPES
from benchmarks.workloads import shape_workload

TOKENS_PER_STEP = (1, 4, 8)
RIVALS = ("torch", "transformers", "llama.cpp-bf16", "llama.cpp-q8_0", "llama.cpp-q4_k_m")
QUICK_RIVALS = ("torch", "llama.cpp-q8_0")
# Elements of its products and bytes of a weight by the type that a rival says, where it is not one of ours; of q4_k_m,
# which mixes types, the mean.
STORED = {"q8_0": ("int8", 34 / 32), "q4_k_m": ("int8", 4.85 / 8), "bf16": ("bfloat16", 2.0), "f16": ("bfloat16", 2.0)}


def billions(value: float | None, seconds: float | None = 1.0) -> str:
    """A dash where one of them is not known, as in rows of an interrupted run."""
    return number(value / seconds / 1e9 if value is not None and seconds else None)


COLUMNS: tuple[Column, ...] = (
    ("system", lambda r: f"{r['setting']['shape']}: {r['system']}"),
    ("tokens/s", speed),
    ("ceiling", lambda r: number(r.get("model_tokens_per_s"))),
    ("share", lambda r: percent(r.get("share_of_roof"))),
    ("bound", lambda r: r.get("bound") or "-"),
    ("GFLOP", lambda r: billions(r.get("operations"))),
    ("GB", lambda r: billions(r.get("bytes"))),
    ("GFLOP/s", lambda r: billions(r.get("operations"), r["wall_s"])),
    ("GB/s", lambda r: billions(r.get("bytes"), r["wall_s"])),
)


def model_shape(name: str) -> ModelShape:
    shape = SHAPES[name]
    return ModelShape(name, shape.d_model, shape.n_layers, shape.mlp_hidden_size, shape.vocab_size)


def machine_of(setting: Mapping[str, Any], limits: Mapping[str, float]) -> Machine:
    """The limits for the elements that a row computes with."""
    kind = setting.get("compute_type") or setting.get("type", "bfloat16")
    if kind not in STORED:
        return as_machine(limits, kind)
    products, weight_bytes = STORED[kind]
    base = as_machine(limits, products)
    return Machine(kind, base.peak, base.bandwidth, weight_bytes, base.kv_element_bytes)


def ceiling(setting: Mapping[str, Any], kind: Kind, limits: Mapping[str, float], work: Work) -> tuple[Cost, str]:
    """What the model asks of the work of a row, and which of the two limits binds it."""
    machine = machine_of(setting, limits)
    mode: Mode = "arm" if kind == "arm" else setting.get("cache", "none")
    cost = answer_cost(model_shape(setting["shape"]), machine, work, mode, setting.get("tokens_per_step", 1))
    is_compute = cost.operations / machine.peak > cost.num_bytes / machine.bandwidth
    return cost, "arithmetic" if is_compute else "memory"


def annotate(row: dict[str, Any], limits: Mapping[str, float], work: Work) -> None:
    """Adds what the model says to a row."""
    cost, bound = ceiling(row["setting"], row["kind"], limits, work)
    row |= {
        "operations": cost.operations * row["questions"] / work.batch,
        "bytes": cost.num_bytes * row["questions"] / work.batch,
        "bound": bound,
        "model_tokens_per_s": work.num_tokens / cost.seconds,
        "share_of_roof": row["tokens_per_s"] and row["tokens_per_s"] * cost.seconds / work.num_tokens,
    }


def run(plan: Plan, shapes: Sequence[str] = ("s", "m")) -> Report:
    """The quick version: shape s, 32 tokens."""
    num_tokens = BLOCK_LENGTH if plan.quick else GEN_LENGTH
    report = plan.report(
        "roof", f"The roof: {num_tokens} tokens after {PROMPT_LENGTH}, random weights, batch 1; limits measured"
    )
    for shape in shapes[:1] if plan.quick else shapes:
        with shape_workload(shape, prompt_length=PROMPT_LENGTH, num_tokens=num_tokens) as work:
            entries = our_entries(work, plan, TOKENS_PER_STEP, COMPUTE_TYPES)
            entries += [
                work.ours(
                    f"ours {compute_type} no cache k=4",
                    plan.engines,
                    {"compute_type": compute_type, "threads": plan.threads},
                    fixed_params(num_tokens, 4, "none"),
                    {"tokens_per_step": 4},
                )
                for compute_type in COMPUTE_TYPES
            ]
            entries += plan.against(work, QUICK_RIVALS if plan.quick else RIVALS)
            rows = add(report, plan.measure(work, entries, repeats=plan.rounds(3)))
        asked = Work(PROMPT_LENGTH, num_tokens, BLOCK_LENGTH, masked_head=True)
        for row in rows:
            annotate(row, report.machine, asked)
        report.findings += findings(shape, rows, report.machine, asked)
    return report


def findings(shape: str, rows: Sequence[Row], limits: Mapping[str, float], work: Work) -> list[str]:
    """Break-even at the machine's limits, beside the measured one against the fastest ARM of the run."""
    arms = [row for row in rows if row["kind"] == "arm" and row["wall_s"]]
    if not arms:
        return []
    fastest = min(arms, key=lambda row: row["wall_s"])
    lines = []
    for compute_type in COMPUTE_TYPES:
        points = measured_points(rows, compute_type)
        if not points:
            continue
        ours = [row for row in rows if row["setting"].get("line") == compute_type and row["wall_s"]]
        at_limits = modelled_break_even(model_shape(shape), as_machine(limits, compute_type), work, "dual")
        ceiling_text = "none up to a block a step" if at_limits is None else f"{at_limits:.1f}"
        lines.append(
            f"break-even tokens a step, shape {shape}, {compute_type}: {ceiling_text} if both ran at this machine's "
            f"limits with these elements; measured against {fastest['system']}, the fastest ARM: "
            f"{break_even_text(points, fastest['wall_s'])}{because(fastest, *ours)}"
        )
    return lines
