"""What a run tells: metrics.jsonl always, a live line or plain lines, TensorBoard if asked for, curves, sample texts.

Only the first rank speaks; on the others everything here does nothing.
"""

import json
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


class Progress:
    """Writes the records of a run into `folder` and shows them. `unit`: of the loss, e.g. nats per token."""

    def __init__(
        self, folder: Path, *, total: int, unit: str = "", is_first: bool = True, tensorboard: bool = False
    ) -> None:
        self.folder, self.total, self.unit, self.is_first = folder, total, unit, is_first
        self._writer = open_tensorboard(folder) if tensorboard and is_first else None
        self._bar: Any = None
        self._task: Any = None

    def start(self, step: int) -> None:
        """Records of steps that are not in the checkpoint (a run that was cut) are dropped: they come again."""
        if not self.is_first:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / METRICS
        kept = "".join(json.dumps(record) + "\n" for record in read_metrics(self.folder) if record["step"] <= step)
        if path.exists() and path.read_text(encoding="utf-8") != kept:
            scratch = path.with_suffix(".partial")
            scratch.write_text(kept, encoding="utf-8")
            os.replace(scratch, path)
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = [TextColumn("{task.completed}/{task.total}"), BarColumn(12), TextColumn("{task.description}")]
            clock = TimeRemainingColumn(compact=True)
            self._bar = Bar(*columns, clock, console=Console(stderr=True), refresh_per_second=2)
            self._task = self._bar.add_task("", total=self.total, completed=step)
            self._bar.start()

    def advance(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def record(self, record: Mapping[str, float]) -> None:
        if not self.is_first:
            return
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
        if self._writer is not None:
            for name, value in record.items():
                self._writer.add_scalar(name, value, record["step"])
        held_out = f"  held out {record['held_out']:.4f}" if "held_out" in record else ""
        speed = f"{record['tokens_per_s']:,.0f} tokens/s"
        text = f"loss {record['loss']:.4f}{held_out}  lr {record['lr']:.2e}  {speed}"
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], description=text)
        else:
            left = timedelta(seconds=round((self.total - record["step"]) * record["step_s"]))
            print(f"step {record['step']}/{self.total}  {text}  left {left}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A sentence for people, above the live line."""
        if not self.is_first:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def samples(self, step: int, text: str) -> None:
        if self.is_first:
            with (self.folder / "samples.txt").open("a", encoding="utf-8") as file:
                file.write(f"== step {step}\n{text.rstrip()}\n\n")

    def draw(self) -> None:
        """curves.png of what is recorded so far."""
        if self.is_first:
            draw_curves(self.folder, unit=self.unit)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._writer is not None:
            self._writer.flush()


def open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("tensorboard: expected the package, got none: pip install tensorboard") from None
    return SummaryWriter(str(folder / "tensorboard"))


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The records of a run, oldest first. A last line that was cut in the middle is left out."""
    path = folder / METRICS
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def draw_curves(folder: Path, *, unit: str = "") -> Path | None:
    """curves.png: loss over tokens seen, with the learning rate below. None if there is nothing to draw."""
    records = read_metrics(folder)
    if len(records) < 2:
        return None
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    tokens = [record["tokens"] for record in records]
    figure, (upper, lower) = pyplot.subplots(
        2, 1, sharex=True, figsize=(8, 5), height_ratios=[3, 1], layout="constrained"
    )
    upper.plot(tokens, [record["loss"] for record in records], linewidth=1, label="loss")
    held_out = [(record["tokens"], record["held_out"]) for record in records if "held_out" in record]
    if held_out:
        upper.plot(*zip(*held_out, strict=True), marker="o", markersize=3, label="held out")
        upper.legend()
    upper.set_ylabel(unit or "loss")
    upper.grid(alpha=0.3)
    lower.plot(tokens, [record["lr"] for record in records], linewidth=1, color="tab:gray")
    lower.set_ylabel("learning rate")
    lower.set_xlabel("tokens seen")
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
