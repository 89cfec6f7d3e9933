"""llada-rt bench: latency | throughput | serve-trace | compare.  Also: python -m benchmarks

Tables on stdout, how far it is on stderr; with --output also JSON, JSON lines, PNG and one HTML page that needs nothing
else. With --baseline exit code 7 if something is slower than an earlier report allows. Ctrl-C leaves with 130, after
what had been measured is shown and written like a whole report.
"""

import enum
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import fixed_work, matched_quality, regression, roof, scaling, serve_trace
from benchmarks.measure import Entry
from benchmarks.plan import Plan, add
from benchmarks.questions import PAIRS
from benchmarks.report import (
    BY_CPU,
    COLUMNS,
    FIRST_TEXT,
    LATENCY,
    MEMORY,
    NFE,
    PADDING,
    PER_FORWARD,
    RIGHT,
    SPEED,
    SPREAD,
    Column,
    Report,
    load_report,
    show,
)
from benchmarks.rivals import RIVALS, open_endpoint
from benchmarks.shapes import BLOCK_LENGTH, GEN_LENGTH, SHAPES
from benchmarks.workloads import Workload, folder_workload, pair_workload, shape_workload
from llada_rt import ConfigError, OutputError
from llada_rt.cli.console import emit_json, say
from llada_rt.cli.options import ENGINE_FLAGS, PARAMS_FLAGS, params_over, with_flags
from llada_rt.folder.model_files import check_folder, default_params
from llada_rt.runtime.runner import default_num_threads

app = typer.Typer(
    help="Measure this machine: the Engine alone, among requests that come as they come, and beside others.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

INTERRUPTED = 130  # exit code

# The members are those of tables, which mypy does not read.
PairName = enum.Enum("PairName", {name: name for name in PAIRS})  # type: ignore[misc]
ShapeName = enum.Enum("ShapeName", {name: name for name in SHAPES})  # type: ignore[misc]
Kind = enum.Enum("Kind", {name: name for name in ("matched-quality", "fixed-work", "roof", "scaling")})  # type: ignore[misc]

Model = Annotated[Path | None, typer.Option("--model", "-m", help="A model folder; it is asked random tokens.")]
PairOption = Annotated[PairName | None, typer.Option("--pair", help="A trained pair and its questions [verse].")]
ShapeOption = Annotated[ShapeName | None, typer.Option("--shape", help="Random weights: fixed work.")]
PromptLength = Annotated[int, typer.Option("--prompt-length", min=1, help="Of random prompts.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, max=1000, help="Rounds after the one that warms up.")]
Against = Annotated[
    list[str] | None,
    typer.Option("--against", help=f"Beside whom; may be given more than once: {', '.join(RIVALS)}; URL#model; none."),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for JSON, PNG and HTML.")]
Baseline = Annotated[
    Path | None, typer.Option("--baseline", help="JSON of an earlier run; exit code 7 if something is slower now.")
]
Allow = Annotated[
    float, typer.Option("--allow", min=0.0, max=10.0, help="Share by which a measure may grow, whatever its spread.")
]
Json = Annotated[bool, typer.Option("--json", help="The report as one JSON object on stdout in place of the table.")]


@app.command()
@with_flags(engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
def latency(
    model: Model = None,
    pair: PairOption = None,
    shape: ShapeOption = None,
    questions: Annotated[int, typer.Option("--questions", min=1, max=10_000, help="In a round.")] = 16,
    prompt_length: PromptLength = 64,
    repeats: Repeats = 5,
    against: Against = None,
    output: Output = None,
    baseline: Baseline = None,
    allow: Allow = regression.FLOOR,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """One question at a time: how long an answer takes, percentiles."""
    plan = make_plan(engine_options, repeats=repeats, against=against)
    with workload(model, pair, shape, prompt_length, params_options, questions) as work:
        report = plan.report("latency", f"Latency: {work.about}, {len(work.questions)} questions, batch 1")
        with kept_on_interrupt(plan, COLUMNS, output, as_json):
            add(report, plan.measure(work, entries(work, plan, engine_options, params_options)))
    finish(report, columns(report, COLUMNS), output, baseline, allow, as_json)


@app.command()
@with_flags(engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
def throughput(
    model: Model = None,
    pair: PairOption = None,
    shape: ShapeOption = None,
    batches: Annotated[str, typer.Option("--batches", help="Questions at once, separated by commas.")] = "1,4,16,64",
    prompt_length: PromptLength = 64,
    repeats: Repeats = 3,
    against: Against = None,
    output: Output = None,
    baseline: Baseline = None,
    allow: Allow = regression.FLOOR,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Many questions at once, offline: tokens a second by batch."""
    sizes = parse_batches(batches)
    plan = make_plan(engine_options, repeats=repeats, against=against)
    engine_options = {"max_num_seqs": max(sizes), **engine_options}
    with workload(model, pair, shape, prompt_length, params_options, max(sizes)) as work:
        report = plan.report("throughput", f"Throughput: {work.about}, {len(work.questions)} questions")
        with kept_on_interrupt(plan, COLUMNS, output, as_json):
            for size in sizes:
                add(report, plan.measure(work, entries(work, plan, engine_options, params_options), batch=size))
    finish(report, columns(report, COLUMNS), output, baseline, allow, as_json)


@app.command("serve-trace")
@with_flags(engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
def serve(
    model: Model = None,
    pair: PairOption = None,
    shape: ShapeOption = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help='JSON lines {"time": s, "prompt_tokens": n, "gen_length": m}.'),
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, max=serve_trace.MAX_REQUESTS, help="To come.")] = 48,
    rate: Annotated[
        float | None, typer.Option("--rate", min=1e-3, help="Of them a second, a Poisson process [by --load].")
    ] = None,
    load: Annotated[float, typer.Option("--load", min=0.01, max=10.0, help="Share of the capacity, measured.")] = 0.7,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Of an OpenAI-compatible server, asked after us: URL#model.")
    ] = None,
    prompt_length: PromptLength = 64,
    repeats: Repeats = 1,
    output: Output = None,
    baseline: Baseline = None,
    allow: Allow = regression.FLOOR,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Requests that come when they come, streamed: how long each waits."""
    plan = make_plan(engine_options, repeats=repeats, against=None)
    count = 2 * engine_options.get("max_num_seqs", 8)
    with workload(model, pair, shape, prompt_length, params_options, count) as work:
        recorded = None if trace is None else serve_trace.read_trace(trace, work.vocabulary)
        server = None if endpoint is None else open_endpoint(work, endpoint)
        asked = serve_trace.Trace(recorded, requests, rate, load, server)
        with kept_on_interrupt(plan, COLUMNS, output, as_json):
            report = serve_trace.run(plan, work, engine_options, decoding(work, params_options), asked)
    finish(report, columns(report, COLUMNS), output, baseline, allow, as_json)


@app.command()
def compare(
    kind: Annotated[
        list[Kind] | None,
        typer.Option("--kind", help="Kinds are never mixed, each is a report of its own [the first three]."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small: under two minutes on two cores.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", min=1, max=1024, help="Of everybody.")] = None,
    repeats: Repeats = 5,
    against: Against = None,
    output: Output = None,
    baseline: Baseline = None,
    allow: Allow = regression.FLOOR,
    as_json: Json = False,
) -> None:
    """Beside autoregressive models: fixed work, matched quality on the trained pairs, the roof, scaling."""
    plan = make_plan({"threads": threads} if threads else {}, repeats=repeats, against=against)
    plan.quick = quick
    kinds = [each.value for each in kind or list(Kind)[:3]]
    if baseline is not None and kind is None:
        kinds = [load_report(baseline).bench]
    for name in dict.fromkeys(kinds):
        if name not in COMPARISONS:
            raise ConfigError(f"baseline: expected a report of one of {', '.join(COMPARISONS)}, got one of {name}")
        run, shown = COMPARISONS[name]
        with kept_on_interrupt(plan, shown, output, as_json):
            report = run(plan)
        finish(report, shown, output, baseline, allow, as_json)


QUALITY: tuple[Column, ...] = (
    ("system", lambda r: f"{r['setting']['pair']}: {r['system']}"),
    *(RIGHT, SPEED, SPREAD, BY_CPU, PER_FORWARD, PADDING, FIRST_TEXT, LATENCY, MEMORY),
)
FIXED: tuple[Column, ...] = (
    ("system", lambda r: f"{r['setting']['shape']}: {r['system']}"),
    *(SPEED, SPREAD, BY_CPU, NFE, PER_FORWARD, FIRST_TEXT, MEMORY),
)
COMPARISONS = {
    "matched-quality": (matched_quality.run, QUALITY),
    "fixed-work": (fixed_work.run, FIXED),
    "roof": (roof.run, roof.COLUMNS),
    "scaling": (scaling.run, scaling.COLUMNS),
}


# ---------------------------------------------------------------- shared by the commands


def make_plan(engine_options: dict[str, Any], *, repeats: int, against: Sequence[str] | None) -> Plan:
    threads = engine_options.get("threads") or default_num_threads()
    names = None if against is None else tuple(name for name in against if name != "none")
    return Plan(threads, repeats, rivals=names, say=say)


@contextmanager
def workload(
    model: Path | None, pair: Any, shape: Any, prompt_length: int, params_options: dict[str, Any], count: int
) -> Iterator[Workload]:
    """What the options ask about: one of the three; the verse pair if none is given."""
    if sum(each is not None for each in (model, pair, shape)) > 1:
        raise ConfigError("expected one of --model, --pair and --shape, got several")
    if model is not None:
        check_folder(model)
        length = params_over(default_params(model), params_options).gen_length
        yield folder_workload(model, prompt_length=prompt_length, num_tokens=length, count=count)
    elif shape is not None:
        length = params_options.get("gen_length", GEN_LENGTH)
        with shape_workload(shape.value, prompt_length=prompt_length, num_tokens=length, count=count) as work:
            yield work
    else:
        yield pair_workload("verse" if pair is None else pair.value, count)


def decoding(work: Workload, params_options: dict[str, Any]) -> dict[str, Any]:
    """The options given over what is usual, without the length, which the questions have.

    Usual is for random weights, which know no end of the text, the dual cache with every position counted; for a
    trained pair the preset `fast`; for a model folder what it says itself.
    """
    options = dict(params_options)
    if work.is_fixed:
        options = {"preset": "reference", "cache": "dual", "block_length": BLOCK_LENGTH} | options
    elif work.judge is not None:
        options = options or {"preset": "fast"}
    else:
        options = dict(params_over(default_params(work.mdm), options).chosen)
    return {name: value for name, value in options.items() if name != "gen_length"}


def entries(work: Workload, plan: Plan, engine_options: dict[str, Any], params_options: dict[str, Any]) -> list[Entry]:
    """Ours with the options given, and those that it is to be put beside."""
    options = {"threads": plan.threads, **engine_options}
    params = decoding(work, params_options)
    name = " ".join(["ours", options.get("compute_type", ""), params.get("preset", "")]).replace("  ", " ").strip()
    return [work.ours(name, plan.engines, options, params), *plan.against(work, ())]


def parse_batches(text: str) -> list[int]:
    """ "1,4,16" -> [1, 4, 16]."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and 1 <= int(word) <= 4096 for word in words):
        raise ConfigError(f"--batches: expected numbers from 1 to 4096 separated by commas, got {text[:80]!r}")
    return [int(word) for word in words]


def columns(report: Report, usual: Sequence[Column]) -> Sequence[Column]:
    """With the share right where it is known."""
    return (usual[0], RIGHT, *usual[1:]) if any(row["right"] is not None for row in report.rows) else usual


@contextmanager
def kept_on_interrupt(plan: Plan, usual: Sequence[Column], output: Path | None, as_json: bool) -> Iterator[None]:
    """Ctrl-C in the block shows and writes what had been measured, and leaves with 130."""
    try:
        yield
    except KeyboardInterrupt:
        report = plan.under_way
        if report is None or not report.rows:
            say("interrupted before anything was measured")
        else:
            report.skipped.append("interrupted: what is missing was not measured")
            say(f"interrupted: keeping {len(report.rows)} rows that had been measured")
            finish(report, columns(report, usual), output, None, 0.0, as_json)
        raise typer.Exit(INTERRUPTED) from None


def finish(
    report: Report, shown: Sequence[Column], output: Path | None, baseline: Path | None, allow: float, as_json: bool
) -> None:
    """Table, files, verdict."""
    if as_json:
        emit_json(vars(report))
    else:
        show(report, shown)
    if output is not None:
        save(report, shown, output)
    if baseline is not None:
        verdict = regression.compare(load_report(baseline), report, floor=allow)
        regression.show(verdict)
        if verdict.is_slower:
            raise typer.Exit(regression.SLOWER)


def save(report: Report, shown: Sequence[Column], folder: Path) -> None:
    """NAME.json, NAME.png and NAME.html in the folder."""
    from matplotlib import pyplot

    from benchmarks.figures import draw, svg
    from benchmarks.page import render

    path = report.save(folder)
    figure = draw(report)
    try:
        figure.savefig(path.with_suffix(".png"), dpi=130)
        path.with_suffix(".html").write_text(render(report, shown, svg(figure)), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path.with_suffix('')}: cannot be written: {error}", param="output") from error
    finally:
        pyplot.close(figure)
    say(f"written: {path}, .png and .html")
