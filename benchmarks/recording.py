"""The parts of the stored results, and how one is recorded: benchmarks/results/NAME.json and its figure in docs/."""

import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import pyplot

from benchmarks import fixed_work, matched_quality, roof, scaling, serve_trace, service
from benchmarks.figures import draw
from benchmarks.fixed_work import fixed_params
from benchmarks.harness import ROOT
from benchmarks.noise import mark
from benchmarks.plan import Plan
from benchmarks.report import Report, load_report, show
from benchmarks.workloads import shape_workload

RESULTS, FIGURES, TRIAL = ROOT / "benchmarks" / "results", ROOT / "docs", ROOT / "runs" / "trial"
DRAWN = {"matched-quality": "matched_quality.svg", "fixed-work": "fixed_work.svg", "scaling": "scaling.svg"}
DIGITS = 5  # significant ones that are stored


def record_trace(plan: Plan) -> Report:
    """Requests of 64 tokens at 70 % of the capacity."""
    tokens, count = (32, 12) if plan.quick else (64, 48)
    with shape_workload("s", num_tokens=tokens, count=16, arm=False) as work:
        options = {"compute_type": "int8", "max_num_seqs": 8}
        plan.repeats = 1
        return serve_trace.run(plan, work, options, fixed_params(tokens, 4), serve_trace.Trace(count=count))


PARTS: Mapping[str, tuple[Callable[[Plan], Report], int]] = {  # what makes it, and of how many rounds
    "matched-quality": (matched_quality.run, 5),
    "fixed-work": (fixed_work.run, 3),
    "roof": (roof.run, 3),
    "scaling": (scaling.run, 3),
    "serve-trace": (record_trace, 1),
    "service": (service.run, 5),
}


def rounded(value: Any) -> Any:
    """Plain JSON values with floats as short as they are worth."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def rate(row: Mapping[str, Any]) -> str:
    return f"{row.get('requests_per_s') or row.get('tokens_per_s') or 0:.1f}{mark(row)}"


def is_recorded(path: Path) -> bool:
    """Whether the code is still what it was when this was measured."""
    if not path.exists():
        return False
    commit = str(load_report(path).environment["commit"])
    code = ["git", "-C", str(ROOT), "diff", "--quiet", commit.rstrip("+"), "--", "benchmarks/*.py", "python", "csrc"]
    return subprocess.run(code, check=False, stderr=subprocess.DEVNULL).returncode == 0


def record(name: str, plan: Plan, folder: Path) -> Path:
    make, plan.repeats = PARTS[name]
    began = time.perf_counter()
    report = make(plan)
    report.options = {**report.options, "measured_s": round(time.perf_counter() - began)}
    show(report, [("system", lambda r: r["system"]), ("a second", rate)])
    report.rows = rounded(report.rows)
    report.machine = rounded(report.machine)
    path = report.save(folder, lines=False)
    if name in DRAWN:
        figure = draw(report)
        figure.savefig((FIGURES if folder == RESULTS else folder) / DRAWN[name], metadata={"Date": None})
        pyplot.close(figure)
    return path
