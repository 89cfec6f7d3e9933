"""One stage of the check in a process of its own: python -m benchmarks.gpu.stage NAME --output DIR [--dry | --small]

Exit codes: 0 every claim holds, 1 one does not.
"""

import argparse
import importlib
from pathlib import Path

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.rig import table_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="for weights: a RAM disk is fastest")
    parser.add_argument("--dry", action="store_true", help="small shapes on the imitation")
    parser.add_argument("--small", action="store_true", help="small shapes on the GPU, for the sanitizers")
    options = parser.parse_args()
    flight = Flight(options.name, options.output, options.scratch, dry=options.dry, small=options.small)
    module = importlib.import_module(f"benchmarks.gpu.stage_{options.name}")
    with flight.attempt("the stage"):
        if options.name != "facts":
            table_of(flight)
        module.run(flight)
    raise SystemExit(1 if flight.failed else 0)


if __name__ == "__main__":
    main()
