"""What docs/performance.md and benchmarks/RESULTS.md say of stored results (benchmarks/results/*.json), made anew:

    python -m benchmarks.readme_section            # writes them between their markers
    python -m benchmarks.readme_section --check    # exit code 1 if a document is not what the results say

What is won and what is lost is decided by the numbers: a statement goes where its ratio puts it, and a noisy ratio
decides nothing.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks import llada_8b, roof, scaling, service
from benchmarks.harness import ROOT
from benchmarks.matched_quality import TARGET, fastest, fastest_of
from benchmarks.noise import MEANING, because, mark
from benchmarks.recording import PARTS, RESULTS
from benchmarks.report import (
    BY_CPU,
    FIRST_TEXT,
    LATENCY,
    MEMORY,
    PADDING,
    PER_FORWARD,
    SPREAD,
    SYSTEM,
    Column,
    Report,
    Row,
    faults,
    is_ours,
    load_report,
    markdown,
    number,
    percent,
    percentiles,
    speed,
)

BEGIN, END = "<!-- made by python -m benchmarks.readme_section -->", "<!-- end of what was made -->"
PERFORMANCE, DETAILS = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "RESULTS.md"
HOW = [
    "`llada-rt bench compare` measures this on any machine: systems in turn in one process, answers checked before",
    "anything is timed, tokens of the text only (what is written behind the end token does not count), medians.",
    "",
    "A masked model and its autoregressive twin (ARM) of equal size, trained on the same rows, asked one question at a",
    "time; each package with its better number of threads:",
    "",
]
MISSING = "Nothing has been recorded: `python -m benchmarks.record`, then `python -m benchmarks.readme_section`."
ALIKE = 1.03  # ratios up to this are neither won nor lost

ABOUT = {  # of the masked models in torch
    "torch-llada": "the same model, LLaDA's loop in torch",
    "torch-fast-dllm": "the same model, Fast-dLLM's dual cache in torch",
    "torch-fast-dllm-k4": "the same, 4 tokens a step",
}

Statement = tuple[float, str, str]  # how many times as fast ours is, the sentence about it, and why it is noisy


def timed(report: Report) -> list[Row]:
    return [row for row in report.rows if row["tokens_per_s"]]


def stamp(report: Report) -> str:
    e = report.environment
    return (
        f"{e['date'][:10]}, commit `{e['commit'].rstrip('+')}`, {e['cpu']}, {e['threads']} threads, "
        f"table `{e['table']}`, load {e['load']} before"
    )


def packages(report: Report) -> str:
    named = ("torch", "transformers", "llama-cpp-python")
    return ", ".join(f"{name} {report.environment[name]}" for name in named if name in report.environment)


def arms(rows: Sequence[Row]) -> list[Row]:
    """Each package at its fastest number of threads."""
    names = dict.fromkeys(row["system"].split("@")[0] for row in rows if row["kind"] == "arm")
    return [row for name in names if (row := fastest(rows, name))]


def name_of(row: Row) -> str:
    """ "ours int8 fast@1" -> "ours int8 `fast`, 1 thread", "torch" -> "ARM in torch"."""
    words, _, threads = row["system"].partition("@")
    text = f"ARM in {words.replace('-', ' ', 1)}" if row["kind"] == "arm" else ABOUT.get(words, words)
    return f"{text}, {threads} thread" + "s" * (threads != "1") if threads else text


# ---------------------------------------------------------------- docs/performance.md


def quality_lines(report: Report) -> Iterator[str]:
    pairs = dict.fromkeys(row["setting"]["pair"] for row in timed(report))
    yield "| trained pair | system | right | tokens/s | spread | against ours int8 `fast` | tokens a forward |"
    yield "|---|---|---|---|---|---|---|"
    for pair in pairs:
        rows = [row for row in timed(report) if row["setting"]["pair"] == pair]
        target = fastest_of(rows, TARGET)
        exact = [row for row in rows if row["system"] in ("ours float32 reference", "ours int8 reference")]
        others = [row for row in rows if row["kind"] == "mdm" and not is_ours(row)]
        for row in [target, *exact, *others, *arms(rows)]:
            share = f"{row['share_right']:.1%}"
            is_best = row["share_right"] == max(r["share_right"] for r in rows)
            yield (
                f"| {pair} | {name_of(row)} | {f'**{share}**' if is_best else share} | "
                f"{speed(row)} | {percent(row['spread'])} | "
                f"{row['tokens_per_s'] / target['tokens_per_s']:.2f}x{mark(row, target)} | "
                f"{number(row['tokens_per_forward'])} |"
            )


def fixed_lines(report: Report) -> Iterator[str]:
    shapes = list(dict.fromkeys(row["setting"]["shape"] for row in timed(report)))
    yield "| fixed work, tokens/s | " + " | ".join(shapes) + " |"
    yield "|---|" + "---|" * len(shapes)
    for system in dict.fromkeys(row["system"] for row in report.rows):
        cells = []
        for shape in shapes:
            found = [r for r in report.rows if (r["system"], r["setting"]["shape"]) == (system, shape)]
            cells.append(speed(found[0]) if found else "-")
        row = next(r for r in report.rows if r["system"] == system)
        yield f"| {name_of(row).replace(' k=', ', tokens a step: ')} | " + " | ".join(cells) + " |"


def statements(results: Mapping[str, Report]) -> Iterator[Statement]:
    kinds = {"matched-quality": quality_statements, "fixed-work": fixed_statements, "scaling": batch_statements}
    for name, make in kinds.items():
        if name in results:
            yield from make(results[name])


def quality_statements(report: Report) -> Iterator[Statement]:
    for pair in dict.fromkeys(row["setting"]["pair"] for row in timed(report)):
        rows = [row for row in timed(report) if row["setting"]["pair"] == pair]
        target, exact = fastest_of(rows, TARGET), fastest_of(rows, "ours float32 reference")
        best = max(arms(rows), key=lambda row: row["tokens_per_s"])
        plain = fastest(rows, "torch") or best
        for ours, arm in dict.fromkeys([(TARGET, best["system"]), (TARGET, plain["system"])]):
            arm_row = next(row for row in rows if row["system"] == arm)
            yield speed_statement(pair, fastest_of(rows, ours), arm_row)
        yield speed_statement(pair, fastest_of(rows, "ours int8 reference"), best)
        for row in (exact, target):
            yield (
                row["share_right"] / best["share_right"],
                f"{pair}: {name_of(row)} answers {row['share_right']:.1%} right, its twin {best['share_right']:.1%}",
                "",  # a share right is no matter of time
            )


def speed_statement(pair: str, ours: Row, arm: Row) -> Statement:
    times = ours["tokens_per_s"] / arm["tokens_per_s"]
    text = f"{pair}: {name_of(ours)} runs at {times:.2f} times the speed of the {name_of(arm)}"
    return times, text, because(ours, arm)


def fixed_statements(report: Report) -> Iterator[Statement]:
    for shape in dict.fromkeys(row["setting"]["shape"] for row in timed(report)):
        rows = [row for row in timed(report) if row["setting"]["shape"] == shape]
        best = max(arms(rows), key=lambda row: row["tokens_per_s"], default=None)
        for row in rows:
            if best and row["setting"].get("line") == "int8" and row["setting"]["tokens_per_step"] in (1, 4):
                times = row["tokens_per_s"] / best["tokens_per_s"]
                count = row["setting"]["tokens_per_step"]
                yield (
                    times,
                    f"fixed work, shape {shape}: int8 with {count} token{'s' * (count > 1)} a step runs at "
                    f"{times:.2f} times the speed of the fastest ARM ({name_of(best)})",
                    because(row, best),
                )


def batch_statements(report: Report) -> Iterator[Statement]:
    rows = [row for row in timed(report) if row["setting"]["axis"] == "batch"]
    for batch in (1, 16, 64):
        at = [row for row in rows if row["setting"]["value"] == batch]
        best = max(arms(at), key=lambda row: row["tokens_per_s"], default=None)
        ours = fastest(at, "ours int8")
        if best and ours:
            times = ours["tokens_per_s"] / best["tokens_per_s"]
            yield (
                times,
                f"batch {batch}, shape s, {scaling.TOKENS_PER_STEP} tokens a step: ours int8 runs at {times:.2f} times "
                f"the speed of the fastest ARM ({name_of(best)})",
                because(ours, best),
            )


def section(results: Mapping[str, Report]) -> list[str]:
    """What docs/performance.md says; of a part that has not been recorded nothing."""
    lines: list[str] = []
    if quality := results.get("matched-quality"):
        lines += [
            f"{stamp(quality)}; {packages(quality)}.",
            *HOW,
            *quality_lines(quality),
            "",
            "![Share right against tokens a second](matched_quality.svg)",
            "",
        ]
    if fixed := results.get("fixed-work"):
        lines += [
            "Random weights, one answer at a time, dual cache, so many tokens a step whatever they are worth; an ARM",
            "writes one:",
            "",
            *fixed_lines(fixed),
            "",
        ]
    if any(mark(row) for report in (quality, fixed) if report for row in timed(report)):
        lines += [MEANING + ".", ""]
    lines += [f"* {line}" for line in [*(targets(quality) if quality else ()), *(fixed.findings if fixed else ())]]
    return [*lines, *verdicts(list(statements(results)))] or [MISSING]


def verdicts(said: Sequence[Statement]) -> list[str]:
    """Won, lost, even, and what noise leaves open, each with its sentences."""
    sure = [(times, text) for times, text, noise in said if not noise]
    sorts = {
        "Won": [text for times, text in sure if times > ALIKE],
        "Lost": [text for times, text in sure if times < 1 / ALIKE],
        "Even": [text for times, text in sure if 1 / ALIKE <= times <= ALIKE],
        "Not decided": [text + noise for _, text, noise in said if noise],
    }
    return [
        line
        for heading, texts in sorts.items()
        if texts
        for line in ("", f"**{heading}**", "", *(f"* {text}" for text in texts))
    ]


def targets(report: Report) -> list[str]:
    return [line for line in report.findings if line.startswith("target")]


# ---------------------------------------------------------------- benchmarks/RESULTS.md


RIGHT: Column = ("right", lambda r: f"{r['share_right']:.1%}")
SPEED: Column = ("tokens/s", speed)


def details(results: Mapping[str, Report]) -> list[str]:
    """What benchmarks/RESULTS.md says."""
    lines = []
    for name, make in DETAILED.items():
        if name in results:
            lines += [*make(results[name]), ""]
    return [
        *lines,
        "### Predictions for LLaDA-8B",
        "",
        f"Not measured. The cost model at {llada_8b.SHARE:.0%} of each machine's limits, 256 tokens after 256,",
        f"blocks of 32, {llada_8b.TOKENS_PER_STEP} tokens a step (`python -m benchmarks.predictions`).",
        "",
        *llada_8b.table(),
    ]


def bullets(report: Report) -> list[str]:
    return ["", *(f"* {line}" for line in [*report.findings, *faults(report.rows), *report.skipped])]


def quality_details(report: Report) -> list[str]:
    system: Column = ("system", lambda r: f"{r['setting']['pair']}: {r['system']}")
    shown = (system, RIGHT, SPEED, SPREAD, BY_CPU, PER_FORWARD, PADDING, FIRST_TEXT, LATENCY, MEMORY)
    title = ["### Every setting of the trained pairs", "", f"{stamp(report)}.", ""]
    return [*title, *markdown(report.rows, shown), *bullets(report)]


def roof_details(report: Report) -> list[str]:
    limits = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in report.machine.items())
    title = ["### The roof", "", f"{stamp(report)}. Limits measured in the run, in 1e9 a second: {limits}.", ""]
    return [*title, *markdown(report.rows, roof.COLUMNS), *bullets(report)]


def scaling_details(report: Report) -> list[str]:
    return [
        "### Scaling",
        "",
        f"{stamp(report)}. Shape s, dual cache, {scaling.TOKENS_PER_STEP} tokens a step; the ceiling is that of the",
        "cost model.",
        "",
        "![Tokens a second against batch, context, response, block and threads](../docs/scaling.svg)",
        "",
        *markdown(report.rows, scaling.COLUMNS),
        *bullets(report),
    ]


def trace_details(report: Report) -> list[str]:
    first: Column = ("first text ms p50 / p90 / p99", lambda r: percentiles(r["first_text_s"]))
    title = [
        "### Requests as they come",
        "",
        f"{stamp(report)}. Shape s, int8, {scaling.TOKENS_PER_STEP} tokens a step.",
        "",
    ]
    return [*title, *markdown(report.rows, (SYSTEM, SPEED, first, LATENCY)), *bullets(report)]


def service_details(report: Report) -> list[str]:
    title = [
        "### A service",
        "",
        f"{stamp(report)}. FastAPI on uvicorn around `AsyncEngine`, httpx over loopback, both on these processors.",
        f"Clients ask the demo model `{service.QUESTION}` with the preset `{service.PARAMS['preset']}`,",
        "and again as soon as they have the answer (`bench_service.py`). By CPU: in a second of the server's processor",
        "time.",
        "",
    ]
    return [*title, *markdown(report.rows, service.COLUMNS), *bullets(report)]


DETAILED: Mapping[str, Callable[[Report], list[str]]] = {
    "matched-quality": quality_details,
    "roof": roof_details,
    "scaling": scaling_details,
    "serve-trace": trace_details,
    "service": service_details,
}


# ---------------------------------------------------------------- the files


def load_results(folder: Path = RESULTS) -> dict[str, Report]:
    """Those that have been recorded, by kind."""
    return {name: load_report(path) for name in PARTS if (path := folder / f"{name}.json").exists()}


def replaced(text: str, lines: Sequence[str], path: Path) -> str:
    """The text with what stands between its markers made anew. ValueError where they are not there once each."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path}: expected {BEGIN!r} and {END!r} once each, in this order")
    before, _, rest = text.partition(BEGIN)
    return "\n".join([before + BEGIN, "", *lines, "", END]) + rest.partition(END)[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    results = load_results()
    stale = []
    for path, lines in ((PERFORMANCE, section(results)), (DETAILS, details(results))):
        text = path.read_text(encoding="utf-8")
        made = replaced(text, lines, path)
        if made != text:
            stale.append(path.name)
            if not options.check:
                path.write_text(made, encoding="utf-8")
    if options.check and stale:
        sys.exit(f"{', '.join(stale)}: not what the results say: python -m benchmarks.readme_section")


if __name__ == "__main__":
    main()
