"""The training loop: the same on one process and on many, with exact resume.

State = trained parameters, their averages, optimiser, step. Batches and noise are functions of (seed, step, row), the
learning rate of the step, so a run that stops and resumes takes the same steps as one that does not. A step's loss is
divided by the count of its whole global batch, so neither micro-batches nor ranks change it.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from training import checkpoint
from training.checkpoint import CheckpointMismatch, Checkpoints
from training.config import TrainConfig
from training.data import Batch, Batches
from training.distributed import World, local, shard, share, whole
from training.model import Block, LLaDA
from training.objectives import Objective
from training.optim import learning_rate_factor, make_optimizers, set_learning_rates
from training.progress import Progress

HELD_OUT_BATCHES = 8
MEMORY_OF_AVERAGE = 10  # steps; early on the average forgets faster than `ema` says


class NotFinite(ArithmeticError):
    """The loss or the gradient is not a number: nothing is saved after this."""


class Trainer:
    """Trains `model` on `batches` towards `objective`; writes metrics.jsonl and checkpoints/ into `folder`.

    facts: what a checkpoint notes of the run beside its numbers. world: of `distributed.join`; by default one process.
    held_out: batches that are never trained on; their loss goes into the records of every `config.sample_every` steps
    and of the last one. samples: called with the model at these steps; its text goes to samples.txt.
    """

    def __init__(
        self,
        model: LLaDA,
        batches: Batches,
        objective: Objective,
        config: TrainConfig,
        folder: Path,
        *,
        facts: Mapping[str, Any] | None = None,
        world: World | None = None,
        held_out: Batches | None = None,
        samples: Callable[[LLaDA], str] | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.world = world or World()
        self.batches, self.objective, self.config, self.folder = batches, objective, config, folder
        self.facts, self.held_out, self.samples = dict(facts or {}), held_out, samples
        self.model = model if self.world.size > 1 else model.to(self.world.device)
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        for block in blocks:
            if config.activation_checkpointing:
                run = partial(recompute, block.forward, use_reentrant=False, preserve_rng_state=False)
                block.forward = run  # type: ignore[method-assign]
            if config.compile:
                block.compile()
        if self.world.size > 1:
            shard(model, blocks, self.world, bf16=config.bf16)
        self.optimizers = make_optimizers(model, config)
        self.average = self._copy_of_parameters() if config.ema else None
        self.checkpoints = Checkpoints(folder / "checkpoints", self.world, config.keep_last)
        self.progress = Progress(
            folder,
            total=config.steps,
            unit=getattr(objective, "unit", ""),
            is_first=self.world.is_first,
            tensorboard=tensorboard,
        )
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.step = 0
        self.num_tokens = 0  # seen so far, prompts and padding too
        self.cpu_s = 0.0  # of all ranks
        self.interrupted = False  # the last `run` ended by a signal
        self.grad_norm = math.nan  # of the last step that was read
        self._resumed, self._saved = False, 0
        self._unread: list[tuple[int, Tensor, Tensor]] = []  # (step, loss, gradient norm), still on the device

    def run(self, stop: int | None = None) -> list[dict[str, float]]:
        """Train up to step `stop` (default: the end of the schedule); returns the records of metrics.jsonl.

        SIGTERM or SIGINT: the step is finished, the state saved, `interrupted` is true. NotFinite if the loss is not.
        """
        stop = self.config.steps if stop is None else min(stop, self.config.steps)
        if not self._resumed and self.step == 0 and self.checkpoints.newest():
            raise FileExistsError(
                f"{self.folder} holds a run already; resume() goes on with it, or take another folder"
            )
        records: list[dict[str, float]] = []
        began, self.interrupted = self.step, False
        self.model.train()
        self.progress.start(self.step)
        try:
            with _stop_signal() as asked:
                window = _Window()
                while self.step < stop:
                    parts = self.parts(self.step)
                    count = sum(self.objective.count(batch) for batch, weight in parts if weight)
                    # One message a step: the divisor, and whether any rank was told to stop.
                    count, told = self.world.sum([count, float(asked.is_set())])
                    if told:
                        self.interrupted = True
                        break
                    window.add(self.train_step(parts, count))
                    self.progress.advance(self.step)
                    self._after_step(window, records, at_end=self.step == stop)
                    if records and records[-1]["step"] == self.step:
                        window = _Window()
            if self.interrupted:
                if self.step > began and self._saved != self.step:
                    self.save()
                self.progress.say(f"stopped by a signal after step {self.step}; the same command goes on from there")
            self.checkpoints.wait()
        finally:
            self.progress.stop()
        return records

    def _after_step(self, window: "_Window", records: list[dict[str, float]], *, at_end: bool) -> None:
        """Whatever is due: a record, a checkpoint, sample texts."""
        config = self.config

        def due(every: int) -> bool:
            return at_end or (every > 0 and self.step % every == 0)

        self.checkpoints.poll()
        extra: dict[str, float] = {}
        is_sample_due = due(config.sample_every)
        # The newest loss stays on the device for a step, so that nothing waits for it.
        window.losses += self._read_losses(keep=0 if due(config.log_every) or is_sample_due else 1)
        if is_sample_due:
            with window.paused():
                extra = self._look()
        if due(config.log_every) or extra:
            records.append(self._record(window, extra))
        if is_sample_due and not at_end:
            with window.paused():
                self.progress.draw()
        if due(config.checkpoint_every):
            with window.paused():
                self.save()

    def _look(self) -> dict[str, float]:
        """Sample texts and the loss of what is held out."""
        self.model.eval()
        measured = {} if self.held_out is None else {"held_out": self.held_out_loss()}
        text = self.samples(self.model) if self.samples else ""
        self.model.train()
        if text:
            self.progress.samples(self.step, text)
        return measured

    @torch.no_grad()
    def held_out_loss(self, num_batches: int = HELD_OUT_BATCHES) -> float:
        """The objective over the first batches of `held_out`, always under the same noise."""
        assert self.held_out is not None
        total, count = torch.zeros((), dtype=torch.float64, device=self.world.device), 0.0
        for step in range(num_batches):
            for batch, weight in self.parts(step, self.held_out):
                count += self.objective.count(batch) * weight
                total += self._loss_sum(batch).double() * weight
        return (self.world.sum_tensor(total) / self.world.sum([count])[0]).item()

    def parts(self, step: int, batches: Batches | None = None) -> list[tuple[Batch, float]]:
        """This rank's rows of a step, in as many micro-batches as on every other rank: (batch, weight).

        A micro-batch without rows is a copy of some row with weight 0: sharded layers need every rank at every pass.
        """
        batches = batches or self.batches
        num_rows = batches.num_rows(step)
        own = share(num_rows, self.world.rank, self.world.size)
        batch = batches.part(step, own if own else range(1))
        columns = batch[0].shape[1]
        most_rows = len(share(num_rows, 0, self.world.size))
        at_once = max(1, self.config.micro_tokens // columns) if self.config.micro_tokens else most_rows
        num_parts = -(-most_rows // at_once)
        parts = []
        for index in range(num_parts):
            rows = share(len(own), index, num_parts)
            chosen = slice(rows.start, rows.stop) if rows else slice(0, 1)
            parts.append((type(batch)(*(field[chosen] for field in batch)), 1.0 if rows else 0.0))
        return parts

    def _loss_sum(self, batch: Batch) -> Tensor:
        batch = type(batch)(*(field.to(self.world.device, non_blocking=True) for field in batch))
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.bf16):
            return self.objective.loss_sum(self.model, batch)

    def train_step(self, parts: list[tuple[Batch, float]], count: float) -> int:
        """One update from this rank's parts; `count`: the divisor, of all ranks. Returns the global batch's tokens.

        A batch with nothing to learn from (count 0, such as windows of one token for an ARM) changes nothing.
        """
        config, world = self.config, self.world
        num_tokens = self.batches.num_rows(self.step) * parts[0][0][0].shape[1]
        self.num_tokens += num_tokens
        if count > 0:
            loss = torch.zeros((), dtype=torch.float32, device=world.device)
            for batch, weight in parts:
                part = self._loss_sum(batch) * (weight / count)
                (part * world.size).backward()  # sharding averages gradients over ranks; this makes it a sum
                loss += part.detach()
            norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip or math.inf))
            set_learning_rates(self.optimizers, learning_rate_factor(config, self.step))
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self._unread.append((self.step, world.sum_tensor(loss), norm))
        self.step += 1
        if self.average is not None:
            decay = min(config.ema, self.step / (self.step + MEMORY_OF_AVERAGE))
            current = [local(parameter).detach() for parameter in checkpoint.trained(self.model).values()]
            torch._foreach_lerp_([local(value) for value in self.average.values()], current, 1 - decay)
        return num_tokens

    def _read_losses(self, keep: int = 0) -> list[float]:
        """Losses of the steps done, but for the last `keep`, which the device may still be working on."""
        done = self._unread[: len(self._unread) - keep]
        self._unread = self._unread[len(done) :]
        losses = []
        for step, loss, norm in done:
            self.grad_norm = norm.item()
            losses.append(loss.item())
            if not (math.isfinite(losses[-1]) and math.isfinite(self.grad_norm)):
                self._raise_not_finite(step, losses[-1], self.grad_norm)
        return losses

    def _raise_not_finite(self, step: int, loss: float, norm: float) -> None:
        self.checkpoints.wait()
        own = share(self.batches.num_rows(step), self.world.rank, self.world.size)
        ids = getattr(self.batches.part(step, own), "sample_ids", None)
        rows = f", samples {ids[:32].tolist()}{' ...' if len(ids) > 32 else ''}" if ids is not None else ""
        raise NotFinite(
            f"step {step}: loss {loss}, gradient norm {norm}; rows {own.start}..{own.stop} of the batch{rows}. "
            f"Nothing was saved after it; the last good checkpoint is {self.checkpoints.newest()}"
        )

    def _record(self, window: "_Window", extra: Mapping[str, float]) -> dict[str, float]:
        seconds, cpu_s = window.seconds()
        self.cpu_s += self.world.sum([cpu_s])[0]
        if not window.losses:
            raise ValueError(f"the {window.num_steps} steps before step {self.step} had nothing to learn from")
        record = {
            "step": self.step,
            "loss": sum(window.losses) / len(window.losses),
            **extra,
            "lr": self.config.lr * learning_rate_factor(self.config, self.step - 1),
            "grad_norm": self.grad_norm,
            "tokens": self.num_tokens,
            "tokens_per_s": window.num_tokens / seconds,
            "step_s": seconds / window.num_steps,
            "cpu_s": round(self.cpu_s, 3),
        }
        self.progress.record(record)
        return record

    def _copy_of_parameters(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in checkpoint.trained(self.model).items()}

    def save(self) -> None:
        """Begin to write the checkpoint of this step; `run` and `checkpoints.wait` see it through."""
        self._check_unread()
        parameters = checkpoint.trained(self.model)
        state: dict[str, Any] = {
            "model": {name: parameter.detach() for name, parameter in parameters.items()},
            "optimizer": checkpoint.optimizer_state(self.model, self.optimizers),
        }
        if self.average is not None:
            state["average"] = self.average
        record = {
            "step": self.step,
            "tokens": self.num_tokens,
            "cpu_s": self.cpu_s,
            "ranks": self.world.size,
            "data_hash": self.batches.data_hash,
            "frozen": self._frozen_sum(),
            "objective": type(self.objective).__name__,
            "train": asdict(self.config),
            "facts": self.facts,
        }
        self.checkpoints.save(self.step, state, record)
        self._saved = self.step

    def _frozen_sum(self) -> float:
        """The sum of absolute values; 0 where everything learns. Frozen weights are not in a checkpoint."""
        frozen = [local(parameter) for parameter in self.model.parameters() if not parameter.requires_grad]
        return self.world.sum([float(sum(part.detach().abs().sum(dtype=torch.float64) for part in frozen))])[0]

    def _check_unread(self) -> None:
        """A poisoned step must not be saved; its loss stays unread for the record."""
        for step, loss, norm in self._unread:
            if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
                self._raise_not_finite(step, loss.item(), norm.item())

    def resume(self, *, allow_changed_data: bool = False) -> bool:
        """Go on from the newest complete checkpoint of the folder; False if there is none.

        Raises CheckpointMismatch if it is of another shape, objective or seed, or of other data without the permission.
        """
        path = self.checkpoints.newest()
        if path is None:
            return False
        record = checkpoint.read_record(path)
        checks = {
            "data hash": (record["data_hash"], self.batches.data_hash, allow_changed_data),
            "objective": (record["objective"], type(self.objective).__name__, False),
            "seed": (record["train"]["seed"], self.config.seed, False),
        }
        for name, (saved, current, allowed) in checks.items():
            if saved != current and not allowed:
                hint = " (--allow-changed-data goes on all the same)" if name == "data hash" else ""
                raise CheckpointMismatch(f"{path}: {name}: expected {saved}, as the run began, got {current}{hint}")
        if not math.isclose(record["frozen"], self._frozen_sum(), rel_tol=1e-6):
            raise CheckpointMismatch(f"{path}: the weights that do not learn are not those that the run began with")
        self.average = checkpoint.load(path, self.model, self.optimizers, self.world, average=self.average is not None)
        self.step, self.num_tokens, self.cpu_s = record["step"], record["tokens"], record["cpu_s"]
        self._resumed, self._saved = True, self.step
        return True

    def final_weights(self) -> dict[str, Tensor]:
        """What is exported, whole, on the CPU: the averaged weights if there are any. Every rank must ask at once."""
        weights = {name: value.detach() for name, value in self.model.state_dict().items()}
        weights |= self.average or {}
        return {name: whole(value).cpu() for name, value in weights.items()}


class _Window:
    """What happened since the last record."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.num_tokens = self.num_steps = 0
        self._began, self._cpu_began = time.monotonic(), time.process_time()

    def add(self, num_tokens: int) -> None:
        self.num_tokens += num_tokens
        self.num_steps += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile is not training time."""
        seconds, cpu_s = self.seconds()
        yield
        self._began, self._cpu_began = time.monotonic() - seconds, time.process_time() - cpu_s

    def seconds(self) -> tuple[float, float]:
        """Wall and CPU seconds of the window."""
        return time.monotonic() - self._began, time.process_time() - self._cpu_began


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Set by the first SIGTERM or SIGINT; a second one acts as it did before. Nothing outside of the main thread."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
