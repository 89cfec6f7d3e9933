"""The results of a GPU check as Markdown: what does not hold, the stages, then the numbers, ours beside the rivals'."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.noise import mark

Result = dict[str, Any]

OURS = "llada_rt"
MOST_KERNELS = 15  # of a phase; the rest is one line


def summary(results: Sequence[Result]) -> str:
    """Whatever of it there is: a check that was cut short has a shorter table."""
    parts = (claims, stages, roofs, loads, steps, answers, kernels, products, ops, memory)
    return "\n\n".join(text for part in parts if (text := part(results))) + "\n"


def of(results: Iterable[Result], *kinds: str) -> list[Result]:
    """Results of these kinds that were not skipped."""
    return [each for each in results if each["what"] in kinds and not each.get("skipped")]


def show(value: object, digits: int = 2) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def gigabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f}"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    lines = [f"## {title}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    # A bar in a name would end its cell.
    return "\n".join(
        [*lines, *("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)]
    )


def claims(results: Sequence[Result]) -> str:
    claimed = [each for each in results if "holds" in each]
    skipped = sorted({str(each["what"]) for each in results if each.get("skipped")})
    lines = [f"{sum(each['holds'] for each in claimed)} of {len(claimed)} claims hold."] if claimed else []
    for each in claimed:
        if not each["holds"]:
            known = {"stage", "at_s", "what", "holds"}
            fields = ", ".join(f"{name}: {value}" for name, value in each.items() if name not in known)
            lines.append(f"- **does not hold** ({each.get('stage', '?')}): {each['what']}. {fields}".rstrip())
    if skipped:
        lines.append(f"Skipped: {', '.join(skipped)}.")
    return "\n".join(lines)


def stages(results: Sequence[Result]) -> str:
    rows = [(each["name"], each["status"], show(each.get("s"), 1)) for each in of(results, "stage")]
    return table("Stages", ("stage", "status", "seconds"), rows)


def roofs(results: Sequence[Result]) -> str:
    return table("Roofs", ("of", "measured"), [(each["of"], show(each["value"], 1)) for each in of(results, "roof")])


def loads(results: Sequence[Result]) -> str:
    rows = []
    for each in of(results, "load"):
        before, after = each.get("free_bytes_before"), each.get("free_bytes_after")
        taken = None if before is None or after is None else before - after
        sizes = (gigabytes(each["weight_bytes"]), gigabytes(taken))
        rows.append((each["compute_type"], each["tier"], show(each["seconds"]), *sizes))
    return table("Loads", ("type", "tier", "seconds", "GB of weights", "GB taken"), rows)


def steps(results: Sequence[Result]) -> str:
    """Wall time, between two events, and what the kernels fill of it where they were looked at."""
    busy = {
        (each["phase"], each["compute_type"], each["tier"], 1): each["busy_us_per_step"] / 1e3
        for each in of(results, "kernels")
    }
    rows = []
    for each in of(results, "step"):
        key = (each["phase"], each["compute_type"], each.get("tier"), each["batch"])
        works = busy.get(key) if each.get("who", OURS) == OURS else None
        idle = None if works is None else each["ms"] - works
        times = [show(value, 3) for value in (each["ms"], each.get("device_ms"), works, idle, each.get("roof_ms"))]
        rates = [show(each.get(name), 0) for name in ("gb_per_s", "tflops")]
        tier = each.get("tier", "") + (", in turn" if each.get("in_turn") else "")
        who = (each.get("who", OURS), each["compute_type"], tier, each["batch"])
        rows.append(
            (
                each["phase"],
                *who,
                *times,
                percent(each.get("share_of_roof")),
                *rates,
                percent(each.get("spread")) + mark(each),
            )
        )
    heads = ("step", "of", "type", "tier", "batch", "ms", "between events", "busy", "idle", "roof ms", "share")
    return table("Steps", (*heads, "GB/s", "TFLOP/s", "spread"), rows)


def answers(results: Sequence[Result]) -> str:
    """A rival's line says how many times as fast ours of its type and batch are: at its k, at each beside an ARM."""
    all_answers = of(results, "answer")
    ours = [each for each in all_answers if each["who"] == OURS]
    rows = []
    for each in all_answers:
        ratio = ""
        if each["who"] != OURS:
            same = [own for own in ours if (own["compute_type"], own["batch"]) == (each["compute_type"], each["batch"])]
            if "ARM" in each["who"]:
                ratio = ", ".join(
                    f"k = {o['k']}: {o['tokens_per_s'] / each['tokens_per_s']:.2f}{mark(o, each)}" for o in same
                )
            else:
                ratio = ", ".join(
                    f"{own['tokens_per_s'] / each['tokens_per_s']:.2f}{mark(own, each)}"
                    for own in same
                    if own["k"] == each["k"]
                )
        who = (each["who"], each["compute_type"], each.get("tier", ""), each["batch"], each["k"])
        rate = (show(each["tokens_per_step"]), f"{each['tokens_per_s']:.1f}", percent(each.get("share_of_roof")))
        rows.append((*who, *rate, ratio))
    heads = ("answers of", "type", "tier", "batch", "k", "tokens a step", "tokens/s", "share", "ours over it")
    return table("Answers", heads, rows)


def kernels(results: Sequence[Result]) -> str:
    parts = []
    for whole in of(results, "kernels"):
        key = ("phase", "compute_type", "tier")
        own = [each for each in of(results, "kernel") if all(each[name] == whole[name] for name in key)]
        own.sort(key=lambda each: -each["us_per_step"])
        total = whole["sum_us_per_step"] or 1.0
        rows: list[tuple[object, ...]] = [
            (each["name"], show(each["calls"]), show(each["us_per_step"], 1), percent(each["us_per_step"] / total))
            for each in own[:MOST_KERNELS]
        ]
        if rest := own[MOST_KERNELS:]:
            left = sum(each["us_per_step"] for each in rest)
            rows.append((f"{len(rest)} others", "", show(left, 1), percent(left / total)))
        rows.append(("all kernels", "", show(whole["sum_us_per_step"], 1), ""))
        rows.append(("the device is busy", "", show(whole["busy_us_per_step"], 1), ""))
        if whole.get("step_ms") is not None:
            rows.append(("a step, not profiled", "", show(whole["step_ms"] * 1e3, 1), ""))
        title = f"Kernels of a {whole['phase']} step, {whole['compute_type']}, {whole['tier']}"
        parts.append(table(title, ("kernel", "calls a step", "us a step", "share"), rows))
    return "\n\n".join(parts)


def ops(results: Sequence[Result]) -> str:
    rows = [
        (each["phase"], each["op"], show(each["calls_per_step"], 1), show(each["us_per_step"], 1))
        for each in of(results, "op")
    ]
    return table("Ops, each launched alone and waited for", ("step", "op", "calls a step", "us a step"), rows)


def products(results: Sequence[Result]) -> str:
    """The fastest kernel of each product, the fastest of each tier, and torch's."""
    groups: dict[tuple[str, str, int], list[Result]] = {}
    for each in of(results, "product timed"):
        groups.setdefault((each["compute_type"], each["weight"], each["rows"]), []).append(each)
    rows = []
    for (compute_type, weight, num_rows), timed in groups.items():
        best = min(timed, key=lambda each: each["us"])
        cells = []
        for tier in ("plain", "cutlass_sm90", "torch"):
            of_tier = [each for each in timed if each["kernel"].startswith(tier)]
            first = min(of_tier, key=lambda each: each["us"]) if of_tier else None
            name = "" if first is None else first["kernel"].removeprefix(tier).strip()
            cells.append("-" if first is None else f"{show(first['us'], 1)} {name}".strip())
        rates = (show(best.get("gb_per_s"), 0), show(best.get("tflops"), 0))
        rows.append((compute_type, weight, num_rows, *cells, *rates))
    heads = ("type", "weight", "rows", "plain", "CUTLASS", "torch", "GB/s of the best", "TFLOP/s")
    return table("Products alone, microseconds", heads, rows)


def memory(results: Sequence[Result]) -> str:
    rows = [
        (
            f"{each['compute_type']}, batch {each['batch']}",
            gigabytes(each["taken_bytes"]),
            gigabytes(each["formula_bytes"]),
            show(each["ratio"], 3),
        )
        for each in of(results, "memory")
    ]
    return table("Memory of the GPU", ("of", "GB taken", "GB by the formula", "ratio"), rows)
