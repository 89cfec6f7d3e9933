"""Systems measured side by side: the same questions for each, in turn, round after round.

The first round of each warms it up, is checked, and is thrown away. What counts are tokens before the first end token.
A system whose answers fail their check gets no speed; one that is not installed is skipped by name; an endpoint that
dies gives what had come, marked so, and so does Ctrl-C. What other programs took of the processors meanwhile is in each
row, and makes it noisy (noise.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from benchmarks.arrivals import percentile
from benchmarks.baselines.contract import Answer, EndpointDied, NotInstalled, Question, System
from benchmarks.harness import Clock, Timing, interleave
from benchmarks.noise import reasons
from benchmarks.peak_memory import PeakMemory
from benchmarks.progress import Progress

Check = Callable[[Sequence[Answer]], str | None]  # what is wrong with the answers; None: nothing
Judge = Callable[[Sequence[Answer]], int]  # how many of them are right

PERCENTS = (50, 90, 99)


def any_answer(answers: Sequence[Answer]) -> str | None:
    """The least that is asked of answers: there is something in them."""
    return None if any(answer.tokens for answer in answers) else "no answer has a token"


def all_tokens(num_tokens: int) -> Check:
    """The check of fixed work: every answer has as many tokens as were asked."""

    def check(answers: Sequence[Answer]) -> str | None:
        odd = [answer.num_tokens for answer in answers if answer.num_tokens != num_tokens]
        return f"{len(odd)} answers of {odd[0]} tokens, expected {num_tokens}" if odd else None

    return check


@dataclass(frozen=True)
class Entry:
    """A system of a comparison. `name` is its own in the run; `setting` says what of it is chosen."""

    name: str
    open: Callable[[], System]
    setting: Mapping[str, object] = field(default_factory=dict)
    check: Check = any_answer
    judge: Judge | None = None
    is_examined: bool = True  # unless it would take too long
    repeats_itself: bool = True  # the same tokens in every round, or the check fails
    may_fail: bool = False  # another's code, whose errors when it is opened or first asked are noted, not ours to raise


@dataclass(frozen=True)
class Exam:
    """More questions than are timed, so that a share right means something; asked once, `batch` of them at a time."""

    questions: Sequence[Question]
    judge: Judge
    batch: int = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """A row of a report. Seconds are of a whole round, medians; None: not known, or the check has failed."""

    system: str
    kind: str  # mdm or arm
    setting: Mapping[str, object]
    questions: int
    batch: int
    rounds: int
    check: str | None  # what is wrong with the answers
    partial: str | None  # why figures are of less than was asked
    right: int | None
    judged: int | None  # of so many questions, those of an exam if there was one
    tokens: int  # emitted in a round: before the first end token
    written_tokens: int | None  # chosen, those after the end token too
    positions: int | None  # put through the network: prompts, recomputation and padding too
    nfe: int | None  # forwards, those of each answer
    memory_bytes: int | None  # peak resident above what was resident before it was opened
    wall_s: float | None
    cpu_s: float | None
    spread: float | None  # (largest - smallest) / median of the rounds
    foreign_share: float | None  # of the processors: what other programs took while it was timed
    latency_s: Mapping[str, float] | None  # of single questions: p50, p90, p99
    first_text_s: Mapping[str, float] | None

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / self.wall_s if self.wall_s else None

    @property
    def tokens_per_cpu_s(self) -> float | None:
        """Where others take time slices, this is what can be compared, if nobody waits in a loop."""
        return self.tokens / self.cpu_s if self.cpu_s else None

    @property
    def tokens_per_forward(self) -> float | None:
        return self.tokens / self.nfe if self.nfe else None

    @property
    def padding_share(self) -> float | None:
        """The share of the tokens written that are no text."""
        return 1 - self.tokens / self.written_tokens if self.written_tokens else None

    @property
    def share_right(self) -> float | None:
        return self.right / self.judged if self.right is not None and self.judged else None

    @property
    def noisy(self) -> list[str]:
        """Why the figures should not be trusted."""
        return reasons(self.spread, self.foreign_share)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, those that follow from others too."""
        derived = ("tokens_per_s", "tokens_per_cpu_s", "tokens_per_forward", "padding_share", "share_right", "noisy")
        return asdict(self) | {name: getattr(self, name) for name in derived}


@dataclass(frozen=True, slots=True)
class Outcome:
    measured: list[Measured]
    skipped: list[str]  # a line each: who, and how to get it


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; `outcome` is of the rounds that were whole by then."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Asking:
    """An open system and its questions; a call is a round."""

    def __init__(self, entry: Entry, system: System, questions: Sequence[Question], batch: int, clock: Clock) -> None:
        self.entry, self.system, self.clock = entry, system, clock
        self.batches = [questions[first : first + batch] for first in range(0, len(questions), batch)]
        self.num_questions = len(questions)
        self.rounds: list[list[Answer]] = []
        self.seconds: list[tuple[float, float]] = []  # wall and processor time of each round
        self.waits: list[list[float]] = []  # of each batch, by round
        self.partial: str | None = None
        self.memory_bytes: int | None = None
        self.marks: tuple[int, int] | None = None  # right, judged
        self.foreign_share: float | None = None

    def examine(self, exam: Exam) -> None:
        """Asks the questions of the exam, unless the system is not up to it."""
        if self.partial or not self.entry.is_examined:
            return
        answers: list[Answer] = []
        try:
            for first in range(0, len(exam.questions), exam.batch):
                answers += self.system.answer(exam.questions[first : first + exam.batch])
        except EndpointDied as death:
            self.partial = str(death)
            return
        self.marks = exam.judge(answers), len(answers)

    def __call__(self) -> None:
        if self.partial:
            return
        answers: list[Answer] = []
        waits: list[float] = []
        wall, cpu = self.clock.wall(), self.clock.cpu()
        for batch in self.batches:
            began = self.clock.wall()
            try:
                answers += self.system.answer(batch)
            except EndpointDied as death:
                self.partial = str(death)
                answers += [answer for answer in death.answers if answer is not None]
                break
            waits.append(self.clock.wall() - began)
        self.seconds.append((self.clock.wall() - wall, self.clock.cpu() - cpu))
        self.rounds.append(answers)
        self.waits.append(waits)

    def cut_short(self, repeats: int) -> None:
        """No more rounds will come."""
        if not self.partial:
            timed = len(self.rounds) - 1
            warmed = "" if timed else ": its figures are of the round that warms up"
            self.partial = f"interrupted after {timed} of {repeats} rounds{warmed}"

    def measured(self) -> Measured:
        """What has come of it. The first round does not count unless it is the only one."""
        is_broken = self.partial is not None and len(self.rounds[-1]) < self.num_questions
        last = len(self.rounds) - is_broken  # the broken round counts if there is no other
        counted = range(1, last) or range(len(self.rounds) - 1, len(self.rounds))
        fault = self._fault(counted)
        answers = self.rounds[counted[-1]]
        timing = Timing(tuple(self.seconds[i][0] for i in counted), tuple(self.seconds[i][1] for i in counted))
        is_timed = fault is None and bool(answers) and timing.wall_s > 0
        is_alone = len(self.batches[0]) == 1
        latencies = [wait for i in counted for wait in self.waits[i]] if is_alone else self._all("total_s", counted)
        marks = self.marks
        if marks is None and self.entry.judge and len(answers) == self.num_questions:
            marks = self.entry.judge(answers), len(answers)
        return Measured(
            system=self.entry.name,
            kind=self.system.kind,
            setting=dict(self.entry.setting),
            questions=len(answers),
            batch=len(self.batches[0]),
            rounds=len(counted),
            check=fault,
            partial=self.partial,
            right=marks and marks[0],
            judged=marks and marks[1],
            tokens=sum(answer.num_tokens for answer in answers),
            written_tokens=_sum(answer.num_written for answer in answers),
            positions=_sum(answer.num_computed for answer in answers),
            nfe=_sum(answer.num_forwards for answer in answers),
            memory_bytes=self.memory_bytes,
            wall_s=timing.wall_s if is_timed else None,
            cpu_s=timing.cpu_s if is_timed else None,
            spread=timing.spread if is_timed else None,
            foreign_share=self.foreign_share if is_timed else None,
            latency_s=percentiles(latencies) if is_timed else None,
            first_text_s=percentiles(self._all("first_token_s", counted)) if is_timed else None,
        )

    def _fault(self, counted: range) -> str | None:
        if not self.rounds[counted[-1]]:
            return "nothing had come"
        if len(self.rounds[0]) < self.num_questions:
            return None  # of a broken first round nothing more can be said
        if fault := self.entry.check(self.rounds[0]):
            return fault
        first = [answer.tokens for answer in self.rounds[0]]
        for index in counted if self.entry.repeats_itself else ():
            came = self.rounds[index]
            if odd := sum(a.tokens != b for a, b in zip(came, first[: len(came)], strict=True)):
                return f"{odd} answers of round {index} have other tokens than before"
        return None

    def _all(self, name: str, counted: range) -> list[float]:
        values = [getattr(answer, name) for i in counted for answer in self.rounds[i]]
        return [value for value in values if value is not None]


def _sum(values: Iterable[int | None]) -> int | None:
    """None if one of them is."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    return {f"p{percent}": percentile(values, percent) for percent in PERCENTS} if values else None


def measure(
    entries: Sequence[Entry],
    questions: Sequence[Question],
    *,
    batch: int = 1,
    repeats: int = 3,
    exam: Exam | None = None,
    clock: Clock | None = None,
    say: Callable[[str], None] = lambda line: None,
    what: str = "timing",
) -> Outcome:
    """Opens the entries one after another, then asks them in turn, `repeats` times; `batch` questions at once.

    Interrupted carries what had come. `what` is how long runs name themselves on stderr.
    """
    clock = clock or Clock()
    askings: list[Asking] = []
    skipped: list[str] = []
    with ExitStack() as stack:
        try:
            opening = Progress(f"{what}: opening and checking", len(entries))
            stack.callback(opening.close)
            for entry in entries:
                opening.step(entry.name)
                try:
                    with PeakMemory() as memory:
                        system = entry.open()
                        stack.callback(system.close)
                        asking = Asking(entry, system, questions, batch, clock)
                        asking()
                    if exam is not None:
                        asking.examine(exam)
                except NotInstalled as missing:
                    skipped.append(str(missing))
                except (RuntimeError, ValueError, OSError) as error:
                    if not entry.may_fail:
                        raise
                    first = str(error).strip().splitlines()[0]
                    skipped.append(f"{entry.name}: left out: {type(error).__name__}: {first}")
                else:
                    is_shared = getattr(system, "is_shared", False)  # then another has paid
                    asking.memory_bytes = None if is_shared else memory.num_bytes
                    askings.append(asking)
            opening.close()
            for line in skipped:
                say(line)
            sound = [asking for asking in askings if asking.partial or not asking.entry.check(asking.rounds[0])]
            timings = interleave(
                {a.entry.name: a for a in sound}, repeats=repeats, warm_up=False, clock=clock, what=what
            )
        except KeyboardInterrupt:
            for asking in askings:
                asking.cut_short(repeats)
            raise Interrupted(Outcome([asking.measured() for asking in askings], skipped)) from None
        for asking in sound:
            asking.foreign_share = timings[asking.entry.name].foreign_share
        return Outcome([asking.measured() for asking in askings], skipped)
