"""What a second thread is worth, beside what the machine gives to two programs that share nothing.

    python -m benchmarks.bench_threads [--shapes s,m,l] [--compute-type bfloat16] [--threads 2] [--repeats 11]

In turn, each in processes of its own that otherwise sleep: the engine on one thread; the same in as many processes at
once as there are threads, which is all that memory, caches and neighbours leave of them; and on all threads. The steps
are those of bench_step. `speed-up` is the median of the rounds of (time on one thread / time on all), `machine` what
the independent processes gain together. Random weights, batch 1. Before anything is timed all of them must have written
the same tokens.
"""

import argparse
import contextlib
import multiprocessing
import signal
import statistics
import tempfile
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.harness import ROOT, Timing, environment, run_to_the_end, store
from benchmarks.noise import MEANING, Neighbours, mark
from benchmarks.progress import Progress
from benchmarks.shapes import SHAPES, Shape
from benchmarks.step_loops import CompiledLoop, num_steps
from llada_rt import _core
from llada_rt.runtime.runner import default_num_threads

STEPS = ("refresh", "refine")  # in this order: refining needs a block that was refreshed


def serve(commands: Connection, shape: Shape, folder: Path, compute_type: str, num_threads: int) -> None:
    """Runs each step asked for and sends its seconds, or sends the tokens of the canvas, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that will say None
    loop = CompiledLoop(
        _core.Runtime(str(folder), compute_type=compute_type, num_threads=num_threads),
        shape,
    )
    for step in iter(commands.recv, None):
        if step == "tokens":
            commands.send(loop.runtime.canvas(loop.slot).tolist())
            continue
        begin = time.perf_counter()
        getattr(loop, step)()
        commands.send((time.perf_counter() - begin) / num_steps(step))


class Worker:
    """The engine in a process of its own."""

    def __init__(self, shape: Shape, folder: Path, compute_type: str, num_threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.commands, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, shape, folder, compute_type, num_threads))
        self.process.start()
        theirs.close()  # or a worker that died would be waited for

    def tokens(self) -> list[int]:
        self.commands.send("tokens")
        return self.commands.recv()

    def stop(self) -> None:
        self.commands.send(None)
        self.process.join()


def seconds(workers: list[Worker], step: str) -> float:
    """Seconds of a step in all workers at once: until the last one is through."""
    for worker in workers:
        worker.commands.send(step)
    return max(worker.commands.recv() for worker in workers)


def measure(shape: Shape, folder: Path, options: argparse.Namespace) -> list[dict]:
    taken: dict[str, dict[str, list[float]]] = {step: {"one": [], "apart": [], "team": []} for step in STEPS}
    with contextlib.ExitStack() as started:

        def start(num_threads: int) -> Worker:
            worker = Worker(shape, folder, options.compute_type, num_threads)
            started.callback(worker.stop)
            return worker

        single = [start(1) for _ in range(options.threads)]
        team = start(options.threads)
        for step in STEPS:
            seconds([*single, team], step)
        if any(worker.tokens() != team.tokens() for worker in single):
            raise SystemExit(f"{shape.name}: one thread and {options.threads} wrote different tokens: not timed")
        neighbours, progress = Neighbours(), Progress(shape.name, options.repeats)
        started.callback(progress.close)
        for _ in range(options.repeats):
            progress.step("threads in turn")
            for kind, workers in {"one": single[:1], "apart": single, "team": [team]}.items():
                for step in STEPS:
                    taken[step][kind].append(seconds(workers, step))
        foreign = neighbours.share()
    return [
        {
            "shape": shape.name,
            "step": step,
            "one_ms": statistics.median(times["one"]) * 1e3,
            "team_ms": statistics.median(times["team"]) * 1e3,
            "speed_up": statistics.median(a / b for a, b in zip(times["one"], times["team"], strict=True)),
            "machine": statistics.median(
                options.threads * a / b for a, b in zip(times["one"], times["apart"], strict=True)
            ),
            **noise_of(times.values(), foreign),
        }
        for step, times in taken.items()
    ]


def noise_of(times: Iterable[list[float]], foreign: float | None) -> dict[str, object]:
    """The noise of ratios between timings: the largest spread counts."""
    return max((Timing(tuple(each), (), foreign) for each in times), key=lambda timing: timing.spread).noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--compute-type", default="bfloat16")
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_threads.jsonl")
    options = parser.parse_args()
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(MEANING)
    print(f"| shape | step | 1 thread, ms | {options.threads} threads, ms | speed-up | machine |")
    print("|---" * 6 + "|")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            results = measure(SHAPES[name], SHAPES[name].write(Path(folder)), options)
        for r in results:
            print(
                f"| {name} | {r['step']} | {r['one_ms']:.1f} | {r['team_ms']:.1f} | {r['speed_up']:.2f}{mark(r)} | "
                f"{r['machine']:.2f}{mark(r)} |",
                flush=True,
            )
            store(options.out, {"bench": "threads", "compute_type": options.compute_type, **facts, **r})


if __name__ == "__main__":
    run_to_the_end(main)
