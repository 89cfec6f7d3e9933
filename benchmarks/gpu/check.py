"""Everything that a machine with a GPU can say about the CUDA backend, in two calls of about four minutes, without a
network and, with a kit of benchmarks/gpu/pack.sh, without a compiler:

    python flight/tree/benchmarks/gpu/check.py proof   --output OUT     does each kernel compute what it should?
    python flight/tree/benchmarks/gpu/check.py numbers --output OUT     how fast is it, and beside whom?
    python benchmarks/gpu/check.py proof numbers --dry                  the same stages at small shapes on the imitation

Stages run as processes of their own, those of the proof side by side. Each result is in OUT/results.jsonl as soon as it
is known; at the end OUT holds that file, a summary and one archive of logs for each call. A stage that fails or takes
too long ends only itself.

Exit codes: 0 all is well, 1 a claim does not hold or a stage failed, 4 no GPU.
"""

import argparse
import functools
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]
LONGEST_DRY_S = 900


@dataclass(frozen=True, slots=True)
class Stage:
    """seconds: after which it is ended; tool: what runs around the stage's Python."""

    name: str
    seconds: int
    tool: tuple[str, ...] = ()
    module: str = ""  # benchmarks.gpu.stage_<module>, the stage's name if it is empty
    variables: Mapping[str, str] = field(default_factory=dict)  # of its environment


def sanitizer(tool: str) -> Stage:
    around: tuple[str, ...] = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1", "--launch-timeout", "0")
    around += ("--kernel-name", "kernel_substring=llada")
    own_kernels = {"LLADA_CUDA_PRODUCTS": "plain"} if tool == "racecheck" else {}
    return Stage(tool, 150, around, "small", own_kernels)


# Groups one after the other; the stages of a group side by side. What is timed has the machine to itself. racecheck
# sees our own kernels only: that of CUDA 13.0 crashes in those of CUTLASS and cuBLAS that copy by TMA.
CALLS: dict[str, tuple[tuple[Stage, ...], ...]] = {
    "proof": (
        (Stage("facts", 40),),
        (
            *(Stage("products", 100), Stage("attention", 80), Stage("model", 150), Stage("tests", 200)),
            *(sanitizer("memcheck"), sanitizer("synccheck"), sanitizer("racecheck")),
        ),
    ),
    "numbers": (
        (Stage("numbers", 130),),
        (Stage("products_timed", 60),),
        (Stage("rivals", 60),),
    ),
}


@dataclass
class Run:
    """One stage under way."""

    stage: Stage
    process: subprocess.Popen
    began: float
    deadline: float
    status: str = ""

    def look(self) -> bool:
        """Whether it is over; ends it when its time is up."""
        code = self.process.poll()
        if code is None and time.monotonic() < self.deadline:
            return False
        if code is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.status = "out of time" if code is None else "passed" if code == 0 else f"failed ({code})"
        return True


@dataclass
class Check:
    """One call: its stages in turn, within `budget` seconds."""

    call: str
    output: Path
    scratch: Path
    budget: float
    dry: bool
    only: tuple[str, ...] = ()
    site: Path | None = None
    began: float = field(default_factory=time.monotonic)
    all_passed: bool = True

    @property
    def logs(self) -> Path:
        return self.output / "logs"

    def command(self, stage: Stage) -> list[str]:
        if stage.name == "tests":
            return self.tests()
        options = ["--output", str(self.output), "--scratch", str(self.scratch), *(["--dry"] if self.dry else [])]
        run = [sys.executable, "-m", "benchmarks.gpu.stage", stage.module or stage.name, *options]
        return run if self.dry else [*stage.tool, *run]

    def tests(self) -> list[str]:
        """The tests of the backend; a dry run takes the quickest of them."""
        pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "120"]
        if self.dry:
            return [*pytest, "tests/cuda/test_matmul_choice.py", "tests/cuda/test_float8_rows_cuda.py"]
        side_by_side = ["-n", "6"] if shutil.which("nvidia-smi") else []
        return [*pytest, *side_by_side, "tests/cuda", "tests/ops", "-k", "cuda"]

    def start(self, stage: Stage) -> Run:
        paths = [*([str(self.site)] if self.site else []), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
        environment |= stage.variables
        with (self.logs / f"{stage.name}.log").open("w") as log:
            process = subprocess.Popen(
                self.command(stage),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=ROOT,
                start_new_session=True,  # so that its children end with it
            )
        now = time.monotonic()
        own = now + (LONGEST_DRY_S if self.dry else stage.seconds)
        return Run(stage, process, now, min(own, self.began + self.budget))

    def run_group(self, group: tuple[Stage, ...]) -> None:
        from benchmarks.gpu.flight import Flight

        chosen = [stage for stage in group if not self.only or stage.name in self.only]
        left = self.budget - (time.monotonic() - self.began)
        if left <= 0:
            for stage in chosen:
                Flight("check", self.output, self.scratch).record("stage", name=stage.name, status="no time left", s=0)
                self.all_passed = False
            return
        running = [self.start(stage) for stage in chosen]
        while running:
            time.sleep(0.1)
            for run in [run for run in running if run.look()]:
                running.remove(run)
                taken = round(time.monotonic() - run.began, 1)
                Flight("check", self.output, self.scratch).record(
                    "stage", name=run.stage.name, status=run.status, s=taken, call=self.call
                )
                print(f"{run.stage.name}: {run.status} after {taken} s", flush=True)
                if run.status != "passed":
                    self.all_passed = False
                    log = (self.logs / f"{run.stage.name}.log").read_text(errors="replace").splitlines()
                    print("\n".join(f"    {line[:300]}" for line in log[-12:]), flush=True)

    def run(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        for group in CALLS[self.call]:
            self.run_group(group)
        with tarfile.open(self.output / f"{self.call}-logs.tar.gz", "w:gz") as archive:
            archive.add(self.logs, "logs")
        shutil.rmtree(self.logs)


def scratch_folder() -> Path:
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


def main() -> None:
    names = [stage.name for groups in CALLS.values() for group in groups for stage in group]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calls", nargs="+", choices=list(CALLS))
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--scratch", type=Path, default=scratch_folder(), help="a RAM disk for 16 GB of weights")
    parser.add_argument("--budget", type=float, default=None, help="seconds of a call (270; of a dry run 900)")
    parser.add_argument("--only", default="", help=f"stages, by commas, of {', '.join(names)}")
    parser.add_argument("--dry", action="store_true", help="small shapes, on the imitation of a GPU")
    options = parser.parse_args()
    only = tuple(filter(None, options.only.split(",")))
    unknown = set(only) - set(names)
    if unknown:
        parser.error(f"--only: expected stages of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    if not options.dry and shutil.which("nvidia-smi") is None:
        print("no GPU: nvidia-smi is not on this machine (--dry runs the stages on the imitation)")
        raise SystemExit(4)
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)

    from benchmarks.gpu.modules import prepare

    site = prepare(ROOT, functools.partial(print, flush=True))
    passed = True
    for call in options.calls:
        budget = options.budget or (LONGEST_DRY_S if options.dry else 270)
        check = Check(call, output, options.scratch.resolve(), budget, options.dry, only, site)
        check.run()
        passed = passed and check.all_passed

    if site is not None:
        sys.path[:0] = [str(site)]
    from benchmarks.gpu.flight import read_results
    from benchmarks.gpu.table import summary

    text = summary(read_results(output))
    (output / "summary.md").write_text(text + "\n")
    print(text)
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
