"""How long a model takes to load from files that the machine has in memory already.

    python -m benchmarks.bench_load [--shapes s,m,l] [--compute-type bfloat16] [--threads 2] [--repeats 5]

Beside ours: `copy`, the bytes of the files copied into memory that is new to the process, which every loader needs,
and torch by way of training.model. Much of all three may be the system handing out pages: the `system` column. A
virtual machine may have to get them from its host, which depends on what was freed before: so the order changes
from round to round. Everything is closed again before the next one opens. Logits are checked before anything is timed.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import ROOT, Timing, environment, run_to_the_end, store
from benchmarks.noise import MEANING, Neighbours, mark
from benchmarks.shapes import SHAPES, Shape
from benchmarks.step_loops import check_logits
from llada_rt import _core
from llada_rt.runtime.runner import default_num_threads
from training.model import LLaDA


def spent(load: Callable[[], object]) -> tuple[float, float, float]:
    """Seconds: wall, processor in the program, processor in the system."""
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    load()
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime


def measure(shape: Shape, folder: Path, options: argparse.Namespace) -> dict[str, list[tuple[float, float, float]]]:
    files = sorted(folder.glob("*.safetensors"))
    loads: dict[str, Callable[[], object]] = {
        "llada_rt": lambda: (
            _core.Runtime(str(folder), compute_type=options.compute_type, num_threads=options.threads).num_parameters
        ),
        "copy": lambda: [np.array(np.memmap(file, np.uint8, "r")) for file in files],
        "torch": lambda: LLaDA.from_folder(folder, dtype=torch.bfloat16),
    }
    runtime = _core.Runtime(str(folder), compute_type=options.compute_type, num_threads=options.threads)
    check_logits(folder, runtime, LLaDA.from_folder(folder, dtype=torch.bfloat16), shape, options.compute_type)
    del runtime
    for file in files:
        file.read_bytes()
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in loads}
    for round_ in range(options.repeats):
        names = list(loads) if round_ % 2 else list(reversed(loads))
        for name in names:
            taken[name].append(spent(loads[name]))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=",".join(SHAPES), help="of " + ", ".join(SHAPES))
    parser.add_argument("--compute-type", default="bfloat16")
    parser.add_argument("--threads", type=int, default=default_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench_load.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    facts = environment(options.threads)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(MEANING)
    print("| shape | who | s, median | s, best | program | system |")
    print("|---" * 6 + "|")
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            neighbours = Neighbours()
            taken = measure(SHAPES[name], SHAPES[name].write(Path(folder)), options)
        foreign = neighbours.share()
        for who, times in taken.items():
            wall, program, system = (statistics.median(column) for column in zip(*times, strict=True))
            best = min(times)[0]
            noise = Timing(tuple(time[0] for time in times), (), foreign).noise
            print(
                f"| {name} | {who} | {wall:.2f}{mark(noise)} | {best:.2f} | {program:.2f} | {system:.2f} |", flush=True
            )
            result = {"shape": name, "who": who, "wall_s": wall, "best_s": best, "user_s": program, "system_s": system}
            result |= noise
            store(options.out, {"bench": "load", "compute_type": options.compute_type, **facts, **result})


if __name__ == "__main__":
    run_to_the_end(main)
