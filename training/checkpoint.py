"""Checkpoints of a run: `checkpoints/step-0000500/`, written beside the training and never half there.

torch.distributed.checkpoint saves from every rank at once, in a thread, into `step-0000500.partial`; when all ranks
are done the folder gets its name. What has a name is complete; what is partial was cut, and the next save removes it.
Parameters and optimiser states are stored by name, so that any number of ranks can go on from them.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from training.distributed import World

# One process saves and loads without a group, and means to.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)

PARTIAL = ".partial"
RECORD = "run.json"


class CheckpointMismatch(ValueError):
    """A checkpoint that belongs to another model or to other data."""


class Checkpoints:
    """The checkpoints in a folder. Every rank makes one and calls the same methods in the same order."""

    def __init__(self, folder: Path, world: World, keep_last: int) -> None:
        self.folder, self.world, self.keep_last = folder, world, keep_last
        self._pending: tuple[Path, dict[str, Any], Future] | None = None
        # Its own group: the saving thread must not take its turn among the training's messages.
        self._group = dist.new_group(backend="gloo") if world.size > 1 else None

    def complete(self) -> list[Path]:
        """Oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if re.fullmatch(r"step-\d+", path.name))

    def newest(self) -> Path | None:
        return max(self.complete(), default=None)

    def save(self, step: int, state: dict[str, Any], record: Mapping[str, Any]) -> None:
        """Begin to save; returns when the state is copied to host memory. If the save before is not done, waits for it.

        state: nested dictionaries of tensors; record: plain values for run.json.
        """
        self.wait()
        if self.world.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.glob(f"*{PARTIAL}"):
                shutil.rmtree(path)
        self.world.barrier()
        partial = self.folder / f"step-{step:07d}{PARTIAL}"
        options = {"process_group": self._group} if self._group else {"no_dist": True}
        future = cast("Future[Any]", dcp.async_save(state, checkpoint_id=partial, **options))
        self._pending = (partial, dict(record), future)

    def poll(self) -> None:
        """Give a save that is done its name; errors of the saving thread come out here. Cheap: call it every step."""
        if self._pending is not None and self._pending[2].done():
            self._publish()

    def wait(self) -> None:
        """Until the save under way, if there is one, is complete on all ranks."""
        if self._pending is not None:
            self._publish()
        self.world.barrier()

    def _publish(self) -> None:
        assert self._pending is not None
        partial, record, future = self._pending
        self._pending = None
        try:
            future.result()
        except (Exception, dcp.api.CheckpointException) as error:  # the latter is no Exception
            failures = getattr(error, "failures", {})
            ranks = "; ".join(f"rank {rank}: {cause}" for rank, (cause, _) in failures.items())
            raise OSError(
                f"{partial} could not be written, the last complete one is {self.newest()}: {ranks or error}"
            ) from error
        if not self.world.is_first:
            return
        with (partial / RECORD).open("w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, partial.with_suffix(""))
        for old in self.complete()[: -self.keep_last]:
            gone = old.with_name(old.name + PARTIAL)  # half deleted must not look complete
            os.rename(old, gone)
            shutil.rmtree(gone)


def read_record(path: Path) -> dict[str, Any]:
    return json.loads((path / RECORD).read_text(encoding="utf-8"))


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, of those that learn; frozen ones are where the run started from."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def optimizer_state(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, dict[str, Tensor]]:
    """Parameter name -> its tensors. Learning rates and the like are the configuration's, not the checkpoint's."""
    states = {parameter: state for optimizer in optimizers for parameter, state in optimizer.state.items()}
    return {name: dict(states[parameter]) for name, parameter in trained(model).items() if parameter in states}


def load(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], world: World, *, average: bool) -> Any:
    """Fill model and optimisers in place from a complete checkpoint; returns the averaged weights, or None.

    Raises CheckpointMismatch if a name or a shape differs.
    """
    parameters = trained(model)
    stored = stored_tensors(path, parameters)
    state: dict[str, Any] = {"model": {name: parameter.detach() for name, parameter in parameters.items()}}
    owners = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    state["optimizer"] = {}
    for key, value in stored.items():
        if not key.startswith("optimizer."):
            continue
        name, _, part = key.removeprefix("optimizer.").rpartition(".")
        parameter = parameters[name]
        if tuple(value.size) == tuple(parameter.shape):
            tensor = torch.zeros_like(parameter.detach(), dtype=value.properties.dtype)
        else:
            tensor = torch.zeros(value.size, dtype=value.properties.dtype, device=world.device)
        state["optimizer"].setdefault(name, {})[part] = tensor
    if average:
        if not any(key.startswith("average.") for key in stored):
            raise CheckpointMismatch(f"{path}: ema: expected averaged weights, got a checkpoint without them")
        state["average"] = {name: torch.zeros_like(parameter.detach()) for name, parameter in parameters.items()}
    dcp.load(state, checkpoint_id=path, no_dist=world.size == 1)
    for name, tensors in state["optimizer"].items():
        owners[parameters[name]].state[parameters[name]] = tensors
    return state.get("average")


def load_parameters(path: Path, model: nn.Module) -> dict[str, Any]:
    """Fill the trained parameters of a whole model, with their averages if there are any; returns the run's record.

    For one process, whatever number of ranks saved. Raises CheckpointMismatch if a name or a shape differs.
    """
    parameters = trained(model)
    stored = stored_tensors(path, parameters)
    kind = "average" if any(key.startswith("average.") for key in stored) else "model"
    dcp.load({kind: {name: p.detach() for name, p in parameters.items()}}, checkpoint_id=path, no_dist=True)
    return read_record(path)


def stored_tensors(path: Path, parameters: Mapping[str, nn.Parameter]) -> dict[str, Any]:
    """What a complete checkpoint holds, by name, after a check that its model has these parameters."""
    if not (path / RECORD).is_file():
        raise CheckpointMismatch(f"{path}: expected a complete checkpoint, found no {RECORD}")
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    expected = {f"model.{name}": tuple(parameter.shape) for name, parameter in parameters.items()}
    tensors = {key: value for key, value in stored.items() if isinstance(value, TensorStorageMetadata)}
    found = {key: tuple(value.size) for key, value in tensors.items() if key.startswith("model.")}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            raise CheckpointMismatch(
                f"{path}: checkpoint of another shape: {key}: expected {expected.get(key, 'nothing')}, "
                f"got {found.get(key, 'nothing')}"
            )
    return stored
