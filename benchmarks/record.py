"""The stored results, made anew: benchmarks/results/*.json and the figures of docs/.

    python -m benchmarks.record [--parts matched-quality,fixed-work] [--again] [--trial]
    python -m benchmarks.readme_section          # then the tables that are made from them

About twenty minutes on two quiet cores. A part that was recorded at this commit is left as it is, so an interrupted run
goes on where it was; `--again` makes it anew. `--trial` is quick and writes elsewhere (runs/trial).
"""

import argparse
import sys
from pathlib import Path

from benchmarks.cli import make_plan
from benchmarks.recording import PARTS, RESULTS, TRIAL, is_recorded, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--again", action="store_true", help="also what is recorded at this commit")
    parser.add_argument("--trial", action="store_true", help="the quick versions, into runs/trial")
    options = parser.parse_args()
    folder = TRIAL if options.trial else RESULTS
    for name in options.parts.split(","):
        if name not in PARTS:
            parser.error(f"--parts: expected some of {', '.join(PARTS)}, got {name!r}")
    try:
        record_parts(options, folder)
    except KeyboardInterrupt:
        print(f"interrupted: the parts that were whole are kept in {folder}; the same command goes on", file=sys.stderr)
        sys.exit(130)


def record_parts(options: argparse.Namespace, folder: Path) -> None:
    for name in options.parts.split(","):
        if not options.trial and not options.again and is_recorded(folder / f"{name}.json"):
            print(f"{name}: recorded at this commit")
            continue
        plan = make_plan({}, repeats=1, against=None)  # says on stderr how far it is
        plan.quick = options.trial
        print(f"{name}: {record(name, plan, folder)}", flush=True)


if __name__ == "__main__":
    main()
