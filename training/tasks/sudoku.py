"""Sudoku, 4x4, 6x6 and 9x9: puzzles with one solution, as a question with its answer or as a grid with holes.

The solved grid is the key: no puzzle of a test has a solution that training showed. A grid is written row by row, one
character a cell, `.` (in a template the hole sign) for an empty one.
"""

import bisect
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from training.rows import HOLE
from training.tasks import Record, Task

EMPTY = "."


@dataclass(frozen=True)
class Board:
    """Grids whose boxes have `high` * `wide` cells, as many as there are digits; a cell is a digit, 0 for empty."""

    high: int
    wide: int
    fewest: int  # clues of the hardest puzzles
    most: int

    @property
    def size(self) -> int:
        return self.high * self.wide

    @cached_property
    def units(self) -> list[list[int]]:
        """Cells that hold every digit once: rows, columns, boxes."""
        high, wide, size = self.high, self.wide, self.size
        rows = [[size * r + c for c in range(size)] for r in range(size)]
        columns = [[size * r + c for r in range(size)] for c in range(size)]
        boxes = [
            [size * (high * a + r) + wide * b + c for r in range(high) for c in range(wide)]
            for a in range(wide)
            for b in range(high)
        ]
        return rows + columns + boxes

    @cached_property
    def peers(self) -> list[tuple[int, ...]]:
        """The cells that may not hold a cell's digit."""
        cells = range(self.size**2)
        return [tuple({c for unit in self.units if cell in unit for c in unit} - {cell}) for cell in cells]

    def solutions(self, grid: list[int], limit: int, rng: random.Random | None = None) -> list[list[int]]:
        """Up to `limit` solutions, in an order drawn from `rng` if there is one."""
        every = (1 << self.size + 1) - 2
        free = [every] * len(grid)  # bit d: the cell may still hold digit d
        work = list(grid)
        for cell, digit in enumerate(grid):
            if digit:
                if not free[cell] >> digit & 1:
                    return []
                for peer in self.peers[cell]:
                    free[peer] &= ~(1 << digit)
        found: list[list[int]] = []

        empty = {cell for cell, digit in enumerate(grid) if not digit}

        def search() -> None:
            if not empty:
                found.append(list(work))
                return
            best, fewest = -1, self.size + 1
            for cell in empty:
                if (count := free[cell].bit_count()) < fewest:
                    best, fewest = cell, count
                    if count < 2:
                        break
            empty.remove(best)
            digits = [digit for digit in range(1, self.size + 1) if free[best] >> digit & 1]
            if rng is not None:
                rng.shuffle(digits)
            for digit in digits:
                bit = 1 << digit
                touched = [peer for peer in self.peers[best] if free[peer] & bit]
                for peer in touched:
                    free[peer] -= bit
                work[best] = digit
                search()
                for peer in touched:
                    free[peer] += bit
                if len(found) >= limit:
                    break
            empty.add(best)

        search()
        return found

    def puzzle(self, rng: random.Random, solution: list[int]) -> list[int]:
        """Clues taken away in a random order, as long as the solution stays the only one, down to a number drawn."""
        order = rng.sample(range(len(solution)), len(solution))
        target = rng.randint(self.fewest, self.most)

        def is_unique(clues: list[int]) -> bool:
            shown = set(clues)
            grid = [digit if cell in shown else 0 for cell, digit in enumerate(solution)]
            return len(self.solutions(grid, 2)) == 1

        # The first cells of the order that suffice, by bisection: with more clues a puzzle stays unique.
        enough = bisect.bisect_left(range(len(order)), True, lo=target, key=lambda count: is_unique(order[:count]))
        clues = order[:enough]
        for cell in order[:enough]:
            if len(clues) <= target:
                break
            fewer = [clue for clue in clues if clue != cell]
            if is_unique(fewer):
                clues = fewer
        return [digit if cell in set(clues) else 0 for cell, digit in enumerate(solution)]

    def draw(self, rng: random.Random, belongs: Callable[[str], bool], *, infill: bool) -> Record | None:
        (solution,) = self.solutions([0] * self.size**2, 1, rng)
        answer = "".join(map(str, solution))
        if not belongs(answer):
            return None
        shown = "".join(str(digit) if digit else EMPTY for digit in self.puzzle(rng, solution))
        if infill:
            return {"template": shown.replace(EMPTY, HOLE), "answer": answer}
        return {"prompt": f"{shown}=", "answer": answer}

    def check(self, row: Mapping[str, str], answer: str) -> bool:
        """Any filled grid that keeps the clues and the rules is right."""
        clues = row["template"] if "template" in row else row["prompt"].rstrip("=")
        if len(answer) != self.size**2 or any(a not in (EMPTY, HOLE, b) for a, b in zip(clues, answer, strict=True)):
            return False
        digits = {str(digit) for digit in range(1, self.size + 1)}
        return all({answer[cell] for cell in unit} == digits for unit in self.units)

    def task(self, *, infill: bool) -> Task:
        digits = "".join(str(digit) for digit in range(1, self.size + 1))
        return Task(
            f"sudoku{self.size}" + ("_infill" if infill else ""),
            f"{self.size}x{self.size} puzzles" + (" as grids with holes" if infill else ""),
            lambda rng, belongs: self.draw(rng, belongs, infill=infill),
            self.check,
            (digits + EMPTY + "=",),
        )


SMALL, MIDDLE, LARGE = Board(2, 2, 4, 8), Board(2, 3, 10, 18), Board(3, 3, 28, 40)
SUDOKU4, SUDOKU4_INFILL = SMALL.task(infill=False), SMALL.task(infill=True)
SUDOKU6, SUDOKU6_INFILL = MIDDLE.task(infill=False), MIDDLE.task(infill=True)
SUDOKU9, SUDOKU9_INFILL = LARGE.task(infill=False), LARGE.task(infill=True)
