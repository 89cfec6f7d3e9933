"""A small service around AsyncEngine over loopback: requests a second with one client and with many, and its memory.

    python -m benchmarks.bench_service [--clients 1,32] [--requests 400] [--repeats 5] [--threads 2]
    python -m benchmarks.record --parts service      # the stored table, about two minutes

FastAPI on uvicorn (service_app.py) is a process of its own, httpx this one; both share the processors with the engine.
Every client asks the demo model the same question, the next line of a poem with the preset `fast`, and asks again as
soon as it has the answer, which must be the engine's own. Rounds of `--requests` with each number of clients take turns
after one of each that warms up. The resident memory of the server is read after every round.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.harness import ROOT, run_to_the_end
from benchmarks.plan import Plan
from benchmarks.report import show
from benchmarks.service import CLIENTS, COLUMNS, REQUESTS, run
from llada_rt.runtime.runner import default_num_threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default=",".join(map(str, CLIENTS)), help="at the same time, separated by commas")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="in a round")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_num_threads(), help="of the engine")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="folder for service.json")
    options = parser.parse_args()
    plan = Plan(options.threads, options.repeats)
    try:
        run(plan, [int(count) for count in options.clients.split(",")], options.requests)
    finally:
        if plan.under_way is not None and plan.under_way.rows:
            show(plan.under_way, COLUMNS)
            print(f"written: {plan.under_way.save(options.out, lines=False)}", file=sys.stderr)


if __name__ == "__main__":
    run_to_the_end(main)
