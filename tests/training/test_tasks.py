"""Tasks: rows from a seed, training and test apart, and checks that know right from wrong."""

import json
import random
import subprocess
import sys

import pytest

from training.rows import FORMS, RowConfig, RowEncoder
from training.tasks import HELD_OUT, TASK_NAMES, Task, find_task, is_held_out
from training.tasks.countdown import COUNTDOWN
from training.tasks.sudoku import LARGE, MIDDLE, SMALL, Board
from training.tokenization import build_tokenizer

NUM = {"sudoku9": 4, "sudoku9_infill": 4, "sudoku6": 12, "sudoku6_infill": 12}


def num_rows(name: str) -> int:
    return NUM.get(name, 40)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_rows_come_from_the_seed_and_are_right_by_their_own_check(name):
    task = find_task(name)
    assert task.name == name
    rows = task.generate(5, num_rows(name))
    assert rows == task.generate(5, num_rows(name))
    assert rows[:3] == task.generate(5, 3)
    assert rows != task.generate(6, num_rows(name))
    assert len({json.dumps(row) for row in rows}) == num_rows(name)
    for row in rows:
        assert tuple(row) in FORMS
        assert task.check(row, row["answer"])
        assert not task.check(row, "")
        assert not task.check(row, row["answer"] + "1")


@pytest.mark.parametrize("name", TASK_NAMES)
def test_one_token_a_character(name):
    task = find_task(name)
    encoder = RowEncoder(build_tokenizer(task.texts), RowConfig())
    for row in task.generate(1, 3):
        (example,) = encoder.encode(row, name).examples
        text = row.get("prompt", "") + row["answer"]
        assert len(example.prompt) + len(example.answer) == len(text) + ("prompt" in row)
        assert (
            not encoder.tokenizer.token_to_id("<0x00>")
            <= max(example.answer)
            <= encoder.tokenizer.token_to_id("<0xFF>")
        )


def key_of(name: str, row: dict[str, str]) -> str:
    """What must not be seen in training."""
    if name in ("addition", "multiplication"):
        sign = "+" if name == "addition" else "*"
        return str(sorted(map(int, row["prompt"][:-1].split(sign))))
    if name == "countdown":
        numbers, target = row["prompt"].split(":")
        return f"{sorted(numbers.split(','))} {target}"
    return row["answer"] if name.startswith("sudoku") else row["prompt"].partition(" ")[2]


@pytest.mark.parametrize(
    "name", ["addition", "multiplication", "copy", "sort", "countdown", "sudoku4", "sudoku6_infill"]
)
def test_training_and_test_never_meet(name):
    task, num = find_task(name), num_rows(name)
    shown = {key_of(name, row) for seed in (0, 1) for row in task.generate(seed, 3 * num)}
    asked = {key_of(name, row) for seed in (0, 7) for row in task.generate(seed, num, "test")}
    assert shown.isdisjoint(asked)


def test_the_held_out_share_is_as_stated():
    share = sum(is_held_out(str(i)) for i in range(20_000)) / 20_000
    assert share == pytest.approx(HELD_OUT, abs=5 * (0.1 * 0.9 / 20_000) ** 0.5)


def test_a_task_that_runs_out_of_rows_says_so():
    coin = Task(
        "coin", "", lambda rng, belongs: {"prompt": rng.choice("ab"), "answer": "c"}, lambda row, text: True, ()
    )
    with pytest.raises(ValueError, match="coin has about 2 different train rows, asked for 3"):
        coin.generate(0, 3)
    with pytest.raises(ValueError, match="split: expected"):
        coin.generate(0, 1, "validation")


# -------------------------------------------------------------------------------------------------------------- sudoku


@pytest.mark.parametrize("board", [SMALL, MIDDLE, LARGE])
def test_a_unit_holds_every_digit_and_there_are_three_a_cell(board):
    assert len(board.units) == 3 * board.size
    assert all(len(set(unit)) == board.size for unit in board.units)
    for cell in range(board.size**2):
        assert sum(cell in unit for unit in board.units) == 3
        shared = 2 * (board.size - 1) + (board.high - 1) * (board.wide - 1)
        assert len(board.peers[cell]) == shared


def test_the_solver_counts_every_grid():
    assert len(SMALL.solutions([0] * 16, 1000)) == 288  # a known number
    assert len({tuple(grid) for grid in SMALL.solutions([0] * 16, 1000)}) == 288
    assert SMALL.solutions([1, 1, *[0] * 14], 2) == []


@pytest.mark.parametrize(("board", "num"), [(SMALL, 30), (MIDDLE, 8), (LARGE, 3)])
def test_puzzles_have_one_solution_and_the_stated_clues(board: Board, num):
    rng = random.Random(2)
    for _ in range(num):
        (solution,) = board.solutions([0] * board.size**2, 1, rng)
        puzzle = board.puzzle(rng, solution)
        assert board.solutions(puzzle, 5) == [solution]
        assert all(clue in (0, digit) for clue, digit in zip(puzzle, solution, strict=True))
        assert sum(map(bool, puzzle)) >= board.fewest


def test_any_solution_that_keeps_the_clues_is_right():
    row = {"prompt": "................=", "answer": "1234341221434321"}
    assert SMALL.check(row, "1234341221434321")
    assert SMALL.check(row, "2134431212433421") == SMALL.check({"template": "_" * 16}, "2134431212433421")
    swapped = "1234341221434321".translate(str.maketrans("12", "21"))
    assert SMALL.check(row, swapped)  # another solution of the empty grid
    assert not SMALL.check({"prompt": "1...............="}, swapped)  # a clue changed
    assert not SMALL.check(row, "1234123412341234")  # columns repeat
    assert not SMALL.check(row, "123434122143432")
    assert not SMALL.check(row, "12343412214343２1")


# ----------------------------------------------------------------------------------------------------------- countdown


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(3+5)*2", True),
        ("2*(5+3)", True),
        ("2*5+3*2", False),  # 2 twice
        ("16", False),  # not a given number
        ("3+5", False),  # another value
        ("(3+5)*2+0", False),
        ("(3+5)**2", False),
        ("2*(5+3", False),
        ("", False),
        ("1/0", False),
        ("__import__('os')", False),
        ("(" * 95, False),
        ("9" * 99, False),
    ],
)
def test_countdown_evaluates_the_answer(answer, right):
    assert COUNTDOWN.check({"prompt": "3,5,2:16=", "answer": "(3+5)*2"}, answer) is right


def test_countdown_divides_exactly_and_needs_not_every_number():
    assert COUNTDOWN.check({"prompt": "7,2,4:14=", "answer": ""}, "7/2*4")
    assert COUNTDOWN.check({"prompt": "7,7,4:14=", "answer": ""}, "7+7")
    assert not COUNTDOWN.check({"prompt": "7,2,4:3=", "answer": ""}, "7/2")


# ------------------------------------------------------------------------------------------------------------- command


def test_the_command_writes_both_files(tmp_path):
    command = [
        sys.executable,
        "-m",
        "training.tasks",
        "addition",
        "--out",
        str(tmp_path),
        "--train",
        "5",
        "--test",
        "3",
    ]
    subprocess.run(command, check=True, capture_output=True)
    for name, split, num in (("train", "train", 5), ("test", "test", 3)):
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == find_task("addition").generate(0, num, split)


def test_an_unknown_task_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"task: expected one of .*'sudoku9'.*, got 'chess'"):
        find_task("chess")
