"""How far a long run is, on stderr: on a terminal one line that is written over, else a line every ten seconds."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

EVERY_S = 10.0
EVERY_S_ON_A_TERMINAL = 0.1


class Progress:
    """Tells how many of `total` runs are done: `step` before each run, `close` after the last.

    A short run whose output is no terminal says nothing.
    """

    def __init__(
        self, what: str, total: int, *, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._began = self._said = clock()
        self._done = -1
        self._width = 0

    def step(self, doing: str) -> None:
        self._done += 1
        now = self._clock()
        if now - self._said < (EVERY_S_ON_A_TERMINAL if self._is_terminal else EVERY_S):
            return
        self._said = now
        spent = now - self._began
        left = f", about {_time(spent / self._done * (self._total - self._done))} to go" if self._done else ""
        text = f"{self._what}: {self._done} of {self._total} runs in {_time(spent)}{left}: {doing}"
        if self._is_terminal:
            self._write(f"\r{text.ljust(self._width)}")
            self._width = len(text)
        else:
            self._write(text + "\n")

    def close(self) -> None:
        if self._width:
            self._write(f"\r{' ' * self._width}\r")
            self._width = 0

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads it: no reason to stop measuring
            self._is_terminal, self._width = False, 0


def _time(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
