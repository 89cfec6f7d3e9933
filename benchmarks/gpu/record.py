"""Takes results of a GPU check into the repository: python -m benchmarks.gpu.record OUT --commit HASH [--date DATE]

Copies results.jsonl and summary.md to benchmarks/results/gpu/<date>-<device>-<commit>/ and says in
python/llada_rt/gpu_runs.json, which `llada-rt info` shows, what ran where.
"""

import argparse
import datetime
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.flight import RESULTS, read_results

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "python/llada_rt/gpu_runs.json"


def device_of(results: Sequence[dict[str, Any]]) -> str:
    """As the driver names the GPU. ValueError where no stage said."""
    for each in results:
        if each["what"] == "device":
            return str(each["name"])
    raise ValueError("expected results of the stage facts, which names the device, got none")


def run_of(results: Sequence[dict[str, Any]], date: str, commit: str) -> dict[str, str]:
    """A row of gpu_runs.json."""
    claims = [each["holds"] for each in results if "holds" in each]
    stages = {each["name"]: each["status"] for each in results if each["what"] == "stage"}
    unwell = ", ".join(f"{name} {status}" for name, status in stages.items() if status != "passed")
    told = f"{sum(claims)} of {len(claims)} claims hold"
    return {
        "device": device_of(results),
        "date": date,
        "commit": commit,
        "what": ", ".join(stages),
        "result": f"{told}; {unwell}" if unwell else told,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--commit", required=True, help="of the kit (flight/tree/COMMIT)")
    parser.add_argument("--date", default=datetime.date.today().isoformat())
    options = parser.parse_args()
    results = read_results(options.output)
    run = run_of(results, options.date, options.commit[:8])
    short = run["device"].removeprefix("NVIDIA ").replace(" ", "-").lower()
    folder = ROOT / "benchmarks/results/gpu" / f"{options.date}-{short}-{run['commit']}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS, "summary.md"):
        shutil.copy(options.output / name, folder / name)
    RUNS.write_text(json.dumps([*json.loads(RUNS.read_text()), run], indent=1) + "\n")
    print(f"{folder.relative_to(ROOT)}: {run['result']}")


if __name__ == "__main__":
    main()
