"""How far a share that was counted may be from the true one."""

from __future__ import annotations

import math

Z = 1.959964  # of the normal distribution, for an interval of 95 %


def wilson(right: float, asked: int, z: float = Z) -> tuple[float, float]:
    """The interval of Wilson (1927) for a share. Scores between 0 and 1 may stand for counts: their variance is no
    larger than that of a count with the same mean, so the interval is then rather too wide. (0, 1) if nobody was asked.
    """
    if not asked:
        return 0.0, 1.0
    share = right / asked
    width = 1 + z * z / asked
    middle = (share + z * z / (2 * asked)) / width
    half = z / width * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == asked else min(1.0, middle + half)
    return low, high


def questions_needed(share: float, floor: float, z: float = Z) -> int | None:
    """Questions after which the interval of a share begins at a floor, if the share stays as it is; None: never."""
    return None if share <= floor else math.ceil(z * z * floor * (1 - floor) / (share - floor) ** 2)
