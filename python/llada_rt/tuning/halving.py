"""Successive halving (Jamieson and Talwalkar 2016): whom to ask next, until the budget of time is spent.

Each rung has an equal share of the budget. In a turn every setting that is left answers the same chunk, one after the
other, so that a change of load hits all alike; the exact decoder always is among them. After a rung a third of the
settings goes on. Only the sums of the trials decide, so that a run which goes on after an interruption ends the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from ..errors import InvalidRequestError
from .intervals import wilson
from .space import EXACT, Setting
from .trial import Trial

FINALISTS = 6
SHRINK = 3  # one of so many goes on
ROUNDS = 3  # of all questions, at most: the later ones are for the time alone


@dataclass(slots=True)
class Tally:
    """The sums of a setting's trials. `rung`: the last one that it took part in."""

    setting: Setting
    asked: int = 0
    right: float = 0.0
    same: int = 0
    nats: list[float] = field(default_factory=list)
    tokens: int = 0
    committed: int = 0
    forwards: int = 0
    busy_s: float = 0.0
    wall_s: float = 0.0
    num_trials: int = 0
    rung: int = 0

    def add(self, trial: Trial) -> None:
        self.asked += len(trial.right)
        self.right += sum(trial.right)
        self.same += sum(trial.same)
        self.nats += [gain for gain in trial.nats if gain is not None]
        self.tokens += trial.tokens
        self.committed += trial.committed
        self.forwards += trial.forwards
        self.busy_s += trial.busy_s
        self.wall_s += trial.wall_s
        self.num_trials += 1

    @property
    def share(self) -> float:
        return self.right / self.asked if self.asked else 0.0

    @property
    def speed(self) -> float:
        """Tokens of text a second."""
        return self.tokens / self.busy_s if self.busy_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is; `leader`: the setting that would be chosen now, None before the first."""

    spent_s: float
    budget_s: float
    rung: int
    num_rungs: int
    num_settings: int
    leader: Tally | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`dropped`: settings that left after an earlier rung, the last ones first. `untried`: those for which there was no
    time.
    """

    exact: Tally
    finalists: list[Tally]
    dropped: list[Tally]
    untried: list[Setting]
    spent_s: float


def rung_sizes(count: int) -> list[int]:
    """112 -> [112, 38, 13, 6]."""
    sizes = [count]
    while sizes[-1] > FINALISTS:
        sizes.append(max(FINALISTS, -(-sizes[-1] // SHRINK)))
    return sizes


def front(tallies: Sequence[Tally]) -> list[Tally]:
    """Those that no other one beats in speed and share both, the fastest first."""
    best: list[Tally] = []
    for tally in sorted(tallies, key=lambda each: (-each.speed, -each.share)):
        if not best or tally.share > best[-1].share:
            best.append(tally)
    return best


def choose(exact: Tally, tallies: Sequence[Tally], keep: float) -> Tally:
    """The fastest that has at least `keep` of what the exact decoder has right."""
    enough = [tally for tally in tallies if tally.share >= keep * exact.share]
    return max([exact, *enough], key=lambda tally: tally.speed)


def survivors(exact: Tally, tallies: Sequence[Tally], count: int, keep: float) -> list[Tally]:
    """Whom to ask on. In turn from four orders: the fastest of those that reach the floor, the front, then the front of
    the others, and so on, the fastest of those that may yet reach the floor, and the best.
    """
    floor = keep * exact.share

    def may_reach(tally: Tally) -> bool:
        return wilson(tally.right, tally.asked)[1] >= floor

    layers, left = list[Tally](), list(tallies)
    while left:
        layer = front(left)
        layers += layer
        left = [tally for tally in left if tally not in layer]
    orders = (
        sorted(tallies, key=lambda tally: (tally.share < floor, -tally.speed)),
        layers,
        sorted(tallies, key=lambda tally: (not may_reach(tally), -tally.speed)),
        sorted(tallies, key=lambda tally: (-tally.share, -tally.speed)),
    )
    found: list[Tally] = []
    for tally in itertools.chain(*zip(*orders, strict=True)):
        if all(tally is not other for other in found):
            found.append(tally)
    return found[:count]


class Halving:
    """One run. `measure` makes the trial of a setting in a turn; `num_chunks`: turns after which all was asked."""

    def __init__(
        self,
        settings: Sequence[Setting],
        measure: Callable[[Setting, int], Trial],
        *,
        num_chunks: int,
        budget_s: float,
        keep: float,
        tell: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._settings, self._measure, self._tell = settings, measure, tell
        self._num_chunks, self._budget_s, self._keep = num_chunks, budget_s, keep
        self._exact = Tally(EXACT)
        self._spent_s = 0.0
        self._rung, self._sizes = 0, rung_sizes(len(settings))

    def run(self) -> Outcome:
        alive, untried = self._first_turn()
        dropped: list[Tally] = []
        self._sizes = rung_sizes(len(alive))
        turn = 1
        for rung, size in enumerate(self._sizes):
            if rung:
                going = survivors(self._exact, alive, size, self._keep)
                dropped = [tally for tally in alive if all(tally is not one for one in going)] + dropped
                alive = going
            self._rung = rung
            for tally in (self._exact, *alive):
                tally.rung = rung
            last = self._num_chunks * (ROUNDS if rung == len(self._sizes) - 1 else 1)
            end_s = self._budget_s * (rung + 1) / len(self._sizes)
            while turn < last and self._spent_s + _turn_s((self._exact, *alive)) <= end_s:
                self._turn(alive, turn)
                turn += 1
            self._check_exact()
        return Outcome(self._exact, alive, dropped, untried, self._spent_s)

    def _first_turn(self) -> tuple[list[Tally], list[Setting]]:
        """The first chunk, by as many settings as the first rung has time for: two at least, if the budget has."""
        share_s = self._budget_s / len(self._sizes)
        self._ask(self._exact, 0, [])
        alive: list[Tally] = []
        for setting in self._settings:
            is_over = self._spent_s >= (share_s if len(alive) >= 2 else self._budget_s)
            if is_over and alive:
                break
            if is_over:
                self._refuse(needed_s=2 * self._spent_s)
            tally = Tally(setting)
            self._ask(tally, 0, alive)
            alive.append(tally)
            if len(alive) == 1 and self._spent_s > self._budget_s:
                self._refuse(needed_s=self._spent_s)
        return alive, list(self._settings[len(alive) :])

    def _refuse(self, needed_s: float) -> NoReturn:
        all_s = self._exact.wall_s + len(self._settings) * (needed_s - self._exact.wall_s)
        all_s *= len(rung_sizes(len(self._settings)))
        raise InvalidRequestError(
            f"budget_s: expected time for two settings, the exact decoder and another one, got {self._budget_s:g} s; "
            f"the first {self._exact.asked} questions took the exact decoder {self._exact.wall_s:.3g} s",
            param="budget_s",
            hint=f"give {_round_up(needed_s)} s at least, {_round_up(all_s)} s to try all {len(self._settings)} "
            "settings, or a smaller batch or gen_length; trials made so far are kept",
        )

    def _turn(self, alive: Sequence[Tally], turn: int) -> None:
        """The exact decoder first, which the others are compared with; the others take turns at being next."""
        self._ask(self._exact, turn, alive)
        begin = turn % len(alive)
        for tally in (*alive[begin:], *alive[:begin]):
            self._ask(tally, turn, alive)

    def _ask(self, tally: Tally, turn: int, alive: Sequence[Tally]) -> None:
        trial = self._measure(tally.setting, turn)
        tally.add(trial)
        self._spent_s += trial.wall_s
        leader = choose(self._exact, alive, self._keep) if alive else None
        count = len(self._settings) if turn == 0 else len(alive)
        self._tell(Progress(self._spent_s, self._budget_s, self._rung + 1, len(self._sizes), count, leader))

    def _check_exact(self) -> None:
        if self._exact.right == 0:
            raise InvalidRequestError(
                f"answers: expected some that the exact decoder gives, got none right of {self._exact.asked}: "
                "there is no quality to keep",
                param="answers",
                hint="an answer is the whole text as the model writes it, compared without the white space around it; "
                "a judge may be less strict",
            )


def _turn_s(tallies: Sequence[Tally]) -> float:
    """What a turn of these is going to take."""
    return sum(tally.wall_s / tally.num_trials for tally in tallies)


def _round_up(seconds: float) -> int:
    return int(seconds) + 1
