"""Preference rows of sums: the right answer against one with a slip, for training/preference.py to be tried on.

    python -m training.tasks.slips --out DIR [--digits 3] [--sft 40000] [--train 4000] [--test 500] [--seed 0]

A slip is one digit off by one, as of a carry forgotten; both answers have the same length. Writes sft.jsonl (questions
with answers), pairs.jsonl, test.jsonl and test_pairs.jsonl; the tests ask sums that no training row has.
"""

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from training.tasks import is_held_out


def slip(answer: str, rng: random.Random) -> str:
    """One digit off by one; never a leading zero, never another length."""
    choices = [
        (place, digit)
        for place, shown in enumerate(answer)
        for digit in (int(shown) - 1, int(shown) + 1)
        if 0 <= digit <= 9 and (digit or place or len(answer) == 1)
    ]
    place, digit = rng.choice(choices)
    return f"{answer[:place]}{digit}{answer[place + 1 :]}"


def sums(rng: random.Random, max_digits: int, *, held_out: bool) -> Iterator[dict[str, str]]:
    """Distinct sums without end. Two numbers in either order are on the same side."""
    seen = set()
    while True:
        a, b = (rng.randrange(10 ** rng.randint(1, max_digits)) for _ in range(2))
        if is_held_out(f"{min(a, b)}+{max(a, b)}") == held_out and (a, b) not in seen:
            seen.add((a, b))
            yield {"prompt": f"{a}+{b}=", "answer": str(a + b)}


def pair(row: dict[str, str], rng: random.Random) -> dict[str, str]:
    return {"prompt": row["prompt"], "chosen": row["answer"], "rejected": slip(row["answer"], rng)}


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--digits", type=int, default=3, help="most digits of a number")
    for name, count in (("sft", 40_000), ("train", 4_000), ("test", 500)):
        parser.add_argument(f"--{name}", type=int, default=count, help="rows")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(arguments.seed)
    train, test = (sums(rng, arguments.digits, held_out=side) for side in (False, True))
    write(arguments.out / "sft.jsonl", [next(train) for _ in range(arguments.sft)])
    write(arguments.out / "pairs.jsonl", [pair(next(train), rng) for _ in range(arguments.train)])
    rows = [next(test) for _ in range(arguments.test)]
    write(arguments.out / "test.jsonl", rows)
    write(arguments.out / "test_pairs.jsonl", [pair(row, rng) for row in rows])


if __name__ == "__main__":
    main()
