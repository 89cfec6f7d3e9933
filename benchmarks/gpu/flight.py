"""What every stage of the GPU check gets: where it runs, how large its shapes are, and a file that each result goes to
at once, so that a stage that is cut short has still told what it knew.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.shapes import EIGHT_B, Shape

RESULTS = "results.jsonl"

# The shape of a dry run: every path of the 8B shape, heads of 128 among them, at what the imitation does in seconds.
DRY = Shape("dry", d_model=256, n_layers=2, mlp_hidden_size=96, vocab_size=320, head_dim=128)


@dataclass
class Flight:
    """One stage's run. `dry`: on the imitation, where nothing that is timed means anything."""

    stage: str
    output: Path
    scratch: Path  # a RAM disk: weights of the 8B shape are written there once and found again by later stages
    dry: bool = False
    small: bool = False  # small shapes; of a dry run too
    failed: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.small = self.small or self.dry

    @property
    def device(self) -> str:
        """Where torch computes."""
        return "cpu" if self.dry else "cuda"

    @property
    def shape(self) -> Shape:
        return DRY if self.small else EIGHT_B

    def record(self, what: str, **fields: Any) -> None:
        """Append one result and put it on disk."""
        line = {"stage": self.stage, "at_s": round(time.monotonic() - self.began, 2), "what": what, **fields}
        with (self.output / RESULTS).open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def claim(self, what: str, holds: bool, **fields: Any) -> None:
        """Record whether a claim holds; the stage goes on, and fails at its end if one did not."""
        holds = bool(holds)
        self.record(what, holds=holds, **fields)
        if not holds:
            self.failed.append(what)
            print(f"DOES NOT HOLD: {what} {fields}", flush=True)

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A part of a stage: an exception in it is recorded as a claim that does not hold, and the next part runs."""
        try:
            yield
        except Exception as error:
            self.claim(what, False, error=f"{type(error).__name__}: {error}"[:2000])

    def normals(self, seed: int) -> Callable[..., torch.Tensor]:
        """normals(seed)(rows, ...): float32 on the device, the next ones of the seed's at each call."""
        generator = torch.Generator(self.device).manual_seed(seed)
        return functools.partial(torch.randn, generator=generator, device=self.device)

    def wait(self) -> None:
        """Until the device has done everything that torch asked of it."""
        if not self.dry:
            torch.cuda.synchronize()


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results in a folder, in the order in which they came; a last line that was cut is left out."""
    lines = (folder / RESULTS).read_text().splitlines() if (folder / RESULTS).exists() else []
    results = []
    for number, line in enumerate(lines):
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                raise
    return results
