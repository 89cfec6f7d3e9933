"""Countdown: reach a number from given ones with + - * /, each used at most once. Any expression that does is right."""

import ast
import operator
import random
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction

from training.tasks import Record, Task

NUM_NUMBERS, LARGEST = (3, 4), 50  # how many numbers, and how large they and the target may be
OPERATORS: dict[type[ast.operator], tuple[str, Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}
MAX_ANSWER = 100  # characters of an answer that are worth parsing


def draw(rng: random.Random, belongs: Callable[[str], bool]) -> Record | None:
    """Numbers, and a target that some expression over all of them reaches through positive whole numbers."""
    numbers = [rng.randint(1, LARGEST) for _ in range(rng.choice(NUM_NUMBERS))]
    parts = [(Fraction(number), str(number)) for number in numbers]
    while len(parts) > 1:
        a, b = (parts.pop(rng.randrange(len(parts))) for _ in range(2))
        symbol, apply = rng.choice(list(OPERATORS.values()))
        if symbol == "/" and b[0] == 0:
            return None
        value = apply(a[0], b[0])
        if value < 1 or value.denominator != 1:
            return None
        parts.append((value, f"({a[1]}{symbol}{b[1]})"))
    target, expression = parts[0]
    if target > LARGEST or target in numbers or not belongs(f"{sorted(numbers)} {target}"):
        return None
    return {"prompt": f"{','.join(map(str, numbers))}:{target}=", "answer": expression[1:-1]}


def check(row: Mapping[str, str], answer: str) -> bool:
    """Whether the answer is an expression over the row's numbers, each at most once, with the target as its value."""
    given, target = row["prompt"].rstrip("=").split(":")
    used: Counter[int] = Counter()
    try:
        if len(answer) > MAX_ANSWER or set(answer) - set("0123456789+-*/()"):
            return False
        value = _value(ast.parse(answer, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return value == int(target) and used <= Counter(map(int, given.split(",")))


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    """Exact value of an expression of numbers and the four operators; ValueError for anything else."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)][1](_value(node.left, used), _value(node.right, used))
    raise ValueError(f"not one of the four operations: {ast.dump(node)}")


COUNTDOWN = Task("countdown", "reach a number from given ones", draw, check, ("0123456789,:=+-*/()",))
