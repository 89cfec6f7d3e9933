"""Write a task's rows:  python -m training.tasks sudoku4 --out data/sudoku4 --train 50000 --test 500 --seed 0"""

import argparse
import json
from pathlib import Path

from training.tasks import TASK_NAMES, Split, find_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TASK_NAMES, metavar="NAME", help=", ".join(TASK_NAMES))
    parser.add_argument("--out", type=Path, required=True, help="folder for train.jsonl and test.jsonl")
    parser.add_argument("--train", type=int, default=10_000, help="rows to learn from")
    parser.add_argument("--test", type=int, default=500, help="rows to ask, none of which train.jsonl can hold")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    task = find_task(arguments.name)
    arguments.out.mkdir(parents=True, exist_ok=True)
    splits: tuple[tuple[Split, int], ...] = (("train", arguments.train), ("test", arguments.test))
    for split, num in splits:
        path = arguments.out / f"{split}.jsonl"
        try:
            rows = task.generate(arguments.seed, num, split)
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        print(f"{path}: {num} rows")


if __name__ == "__main__":
    main()
