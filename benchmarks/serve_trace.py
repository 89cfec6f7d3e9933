"""Requests that come when they come: a Poisson process, or a recorded trace, at an engine that streams.

A trace is a file of JSON lines, {"time": seconds, "prompt_tokens": n, "gen_length": m}, times from the first request.
Waits are counted from when a request was due, not from when the client got round to sending it.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arrivals import Latency, Work, arrival_times, serve
from benchmarks.baselines.contract import Answer, EndpointDied, Question, System
from benchmarks.engine_system import params_for
from benchmarks.harness import Timing
from benchmarks.measure import Measured, percentiles
from benchmarks.noise import Neighbours
from benchmarks.peak_memory import PeakMemory
from benchmarks.plan import Plan
from benchmarks.progress import Progress
from benchmarks.report import Report
from benchmarks.workloads import Workload
from llada_rt import AsyncEngine, ConfigError, RequestOutput

WAITS = ("first_text_s", "first_block_s", "total_s")
CHECKED = 4  # requests whose tokens are compared with those of each alone
FIELDS: dict[str, Any] = {"time": (int, float), "prompt_tokens": int, "gen_length": int}
MAX_REQUESTS = 100_000
MAX_CONNECTIONS = 256


@dataclass(frozen=True, slots=True)
class Request:
    at_s: float
    question: Question


def poisson(questions: Sequence[Question], rate: float, count: int, seed: int = 0) -> list[Request]:
    """`count` requests, `rate` of them a second in the mean; the questions in turn."""
    times = arrival_times(rate, count, seed)
    return [Request(at, questions[index % len(questions)]) for index, at in enumerate(times)]


def read_trace(path: Path, vocabulary: int, seed: int = 0) -> list[Request]:
    """Prompts of random tokens, as long as the trace says. ConfigError naming the line that is not as it should be."""
    choice, requests = random.Random(seed), []
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--trace: {path}: cannot be read: {error}", param="trace") from error
    if not 0 < len(lines) <= MAX_REQUESTS:
        raise ConfigError(f"--trace: {path}: expected 1 to {MAX_REQUESTS} lines, got {len(lines)}", param="trace")
    for number, line in enumerate(lines, 1):
        record = _record(line)
        if record is None:
            raise ConfigError(
                f'--trace: {path}, line {number}: expected {{"time": seconds from 0 on, "prompt_tokens": n, '
                f'"gen_length": m}}, got {line[:80]!r}',
                param="trace",
            )
        prompt = tuple(choice.randrange(6, vocabulary - 2) for _ in range(record["prompt_tokens"]))
        requests.append(Request(float(record["time"]), Question(prompt, record["gen_length"])))
    return sorted(requests, key=lambda request: request.at_s)


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    for name, kind in FIELDS.items():
        value = record.get(name)
        least = 0 if name == "time" else 1
        if isinstance(value, bool) or not isinstance(value, kind) or not (math.isfinite(value) and value >= least):
            return None
    return record


@dataclass(frozen=True, slots=True)
class Pass:
    """One time through all requests."""

    waits: list[Latency]
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """`requests` as recorded, or None: `count` questions at `rate` a second, by default `load` of the capacity."""

    requests: Sequence[Request] | None = None
    count: int = 48
    rate: float | None = None
    load: float = 0.7
    endpoint: System | None = None  # asked the same requests after us; closed by whoever opened it


@dataclass
class Served:
    """What has come of a trace so far."""

    due: Sequence[Request] = ()
    alone: Sequence[RequestOutput] = ()  # the first requests, asked before the others
    passes: list[Pass] = field(default_factory=list)
    finished: list[Latency] = field(default_factory=list)  # of the pass under way
    began: tuple[float, float] = (0.0, 0.0)  # wall and processor time when it began
    foreign_share: float | None = None

    def cut_short(self) -> str | None:
        """Makes a pass of what the interrupted one has given, if no other is whole. Why figures are of less."""
        if not self.passes and self.finished:
            spent = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
            self.passes.append(Pass(self.finished, *spent))
            return f"interrupted after {len(self.finished)} of {len(self.due)} requests, which were not checked"
        return f"interrupted after {len(self.passes)} passes" if self.passes else None


def run(
    plan: Plan, work: Workload, engine_options: Mapping[str, Any], params_options: Mapping[str, Any], trace: Trace
) -> Report:
    """Streams the requests to an AsyncEngine, `plan.repeats` times."""
    report = plan.report("serve-trace", f"Requests as they come: {work.about}")
    served = Served()

    def jobs(questions: Sequence[Question]) -> Work:
        return [(list(q.prompt), params_for(params_options, q.max_new_tokens)) for q in questions]

    async def serve_all() -> None:
        queued = {"max_num_queued_reqs": max(256, len(trace.requests or ()), trace.count)}
        async with AsyncEngine(work.mdm, **{**queued, "threads": plan.threads, **engine_options}) as engine:
            served.due = trace.requests or ()
            if trace.requests is None:
                rate = trace.rate or trace.load * await capacity(engine, jobs(work.questions))
                served.due = poisson(work.questions, rate, trace.count)
            asked = jobs([request.question for request in served.due])
            served.alone = [(await engine.generate(*job))[0] for job in asked[:CHECKED]]
            neighbours = Neighbours()
            for _ in range(plan.repeats):
                served.passes.append(await _serve_once(engine, asked, served))
            served.foreign_share = neighbours.share()

    setting = {**(work.setting or {}), **engine_options, **params_options}
    try:
        with PeakMemory() as memory:
            asyncio.run(serve_all())
    except KeyboardInterrupt:
        if partial := served.cut_short():
            report.rows.append(_row(setting, served, None, memory.num_bytes, partial))
        raise
    report.rows.append(_row(setting, served, _fault(served.alone, served.passes), memory.num_bytes))
    due = served.due
    if trace.endpoint is not None:
        report.rows.append(_endpoint_row(trace.endpoint, work, due))
    report.options = {"requests": len(due), "seconds": due[-1].at_s, "load": trace.load if trace.rate is None else None}
    report.findings.append(
        f"{len(due)} requests in {due[-1].at_s:.1f} s, {len(due) / max(due[-1].at_s, 1e-9):.2f} a second"
        + ("" if trace.rate or trace.requests else f": {trace.load:.0%} of the capacity")
    )
    return report


def _endpoint_row(system: System, work: Workload, due: Sequence[Request]) -> dict[str, Any]:
    """The same requests at the same times, each a call of its own."""
    waits: list[tuple[float, float]] = []  # first text, all
    deaths: list[str] = []
    answers: list[Answer] = []
    began, cpu = time.perf_counter(), time.process_time()

    def ask(request: Request) -> None:
        time.sleep(max(0.0, began + request.at_s - time.perf_counter()))
        sent = time.perf_counter()
        try:
            (answer,) = system.answer([request.question])
        except EndpointDied as death:
            deaths.append(str(death))
            return
        late = sent - began - request.at_s
        answers.append(answer)
        waits.append((late + (answer.first_token_s or answer.total_s), late + answer.total_s))

    with ThreadPoolExecutor(min(len(due), MAX_CONNECTIONS)) as pool:
        list(pool.map(ask, due))
    partial = f"{len(deaths)} of {len(due)} requests failed, the first: {deaths[0]}" if deaths else None
    fault = work.check(answers) if answers else "nothing had come"
    first, total = ([wait[place] for wait in waits] for place in (0, 1))
    spent = time.perf_counter() - began
    row = Measured(
        system=system.name,
        kind=system.kind,
        setting=dict(work.setting or {}),
        questions=len(answers),
        batch=1,
        rounds=1,
        check=fault,
        partial=partial,
        right=None,
        judged=None,
        tokens=sum(answer.num_tokens for answer in answers),
        written_tokens=None,
        positions=None,
        nfe=None,
        memory_bytes=None,
        wall_s=None if fault else spent,
        cpu_s=None if fault else time.process_time() - cpu,
        spread=None if fault else 0.0,
        foreign_share=None,  # a server of this machine would count as another program
        latency_s=None if fault else percentiles(total),
        first_text_s=None if fault else percentiles(first),
    ).to_dict()
    known = None if fault else first, None if fault else total
    return row | {"first_text_waits_s": known[0], "first_block_waits_s": None, "total_waits_s": known[1]}


async def capacity(engine: AsyncEngine, work: Work) -> float:
    """Requests a second when all are there at once; after one that warms it up."""
    await engine.generate(*work[0])
    began = time.perf_counter()
    await engine.generate([prompt for prompt, _ in work], [params for _, params in work])
    return len(work) / (time.perf_counter() - began)


async def _serve_once(engine: AsyncEngine, work: Work, served: Served) -> Pass:
    served.finished, served.began = [], (time.perf_counter(), time.process_time())
    progress = Progress("requests as they come", len(work))

    def done(latency: Latency) -> None:
        served.finished.append(latency)
        progress.step("serving")

    try:
        waits = await serve(engine, work, [request.at_s for request in served.due], done=done)
    finally:
        progress.close()
    return Pass(waits, time.perf_counter() - served.began[0], time.process_time() - served.began[1])


def _fault(alone: Sequence[RequestOutput], passes: Sequence[Pass]) -> str | None:
    """The answers among others must be those alone, token for token, in every pass."""
    for each in passes:
        served = [wait.output.outputs[0].token_ids for wait in each.waits if wait.output]
        if len(served) < len(each.waits):
            return f"{len(each.waits) - len(served)} requests ended without an answer"
        if odd := sum(a.outputs[0].token_ids != tokens for a, tokens in zip(alone, served, strict=False)):
            return f"{odd} of {len(alone)} answers have other tokens than alone"
    return None


def _row(
    setting: Mapping[str, Any],
    served: Served,
    fault: str | None,
    memory_bytes: int | None,
    partial: str | None = None,
) -> dict[str, Any]:
    passes = served.passes
    stats = [wait.output.outputs[0].diffusion for wait in passes[0].waits if wait.output]
    waits = {name: [getattr(w, name) for p in passes for w in p.waits] for name in WAITS}
    timing = Timing(tuple(each.wall_s for each in passes), tuple(each.cpu_s for each in passes))
    is_sound = fault is None
    row = Measured(
        system="ours",
        kind="mdm",
        setting=setting,
        questions=len(passes[0].waits),
        batch=1,
        rounds=len(passes),
        check=fault,
        partial=partial,
        right=None,
        judged=None,
        tokens=sum(each.emitted_tokens for each in stats),
        written_tokens=sum(round(each.tokens_per_forward * each.nfe) for each in stats),
        positions=sum(each.num_query_rows for each in stats),
        nfe=sum(each.nfe for each in stats),
        memory_bytes=memory_bytes,
        wall_s=timing.wall_s if is_sound else None,
        cpu_s=timing.cpu_s if is_sound else None,
        spread=timing.spread if is_sound else None,
        foreign_share=served.foreign_share if is_sound else None,
        latency_s=percentiles(waits["total_s"]) if is_sound else None,
        first_text_s=percentiles(waits["first_text_s"]) if is_sound else None,
    ).to_dict()
    return row | {f"{name.removesuffix('_s')}_waits_s": values if is_sound else None for name, values in waits.items()}
