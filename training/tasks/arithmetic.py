"""Sums and products, one digit a token, written as people write them: the most significant digit first.

For a model that writes from left to right this is the hard way round (the first digit depends on every carry); a masked
model may begin at the other end.
"""

import random
from collections.abc import Callable

from training.tasks import Record, Task, exact_match

SUM_DIGITS, PRODUCT_DIGITS = 6, 3  # most digits of a number


def number(rng: random.Random, max_digits: int) -> int:
    """A number whose count of digits is even over 1..max_digits: otherwise nearly all would be long."""
    digits = rng.randint(1, max_digits)
    return rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def draw_sum(rng: random.Random, belongs: Callable[[str], bool]) -> Record | None:
    a, b = number(rng, SUM_DIGITS), number(rng, SUM_DIGITS)
    # Two numbers in either order are one question.
    return {"prompt": f"{a}+{b}=", "answer": str(a + b)} if belongs(f"{min(a, b)}+{max(a, b)}") else None


def draw_product(rng: random.Random, belongs: Callable[[str], bool]) -> Record | None:
    a, b = number(rng, PRODUCT_DIGITS), number(rng, PRODUCT_DIGITS)
    return {"prompt": f"{a}*{b}=", "answer": str(a * b)} if belongs(f"{min(a, b)}*{max(a, b)}") else None


ADDITION = Task("addition", f"a+b, up to {SUM_DIGITS} digits each", draw_sum, exact_match, ("0123456789+=",))
MULTIPLICATION = Task(
    "multiplication", f"a*b, up to {PRODUCT_DIGITS} digits each", draw_product, exact_match, ("0123456789*=",)
)
