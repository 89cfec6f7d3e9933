"""Weights on disk in the published layout: one model.safetensors, or shards and model.safetensors.index.json."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PREFIX = "model."  # published name = PREFIX + the name of the parameter in model.py
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The one file, or those that the index names; both may be there: an index that does not name the file is old."""
    index, single = folder / INDEX_FILE, folder / WEIGHTS_FILE
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if single.is_file() and WEIGHTS_FILE not in shards:
            return [single]
        if absent := [name for name in shards if not (folder / name).is_file()]:
            raise FileNotFoundError(f"{index}: expected {len(shards)} files, of which {absent} are missing")
        return [folder / name for name in shards]
    if not single.is_file():
        raise FileNotFoundError(f"{folder}: expected {WEIGHTS_FILE} or {INDEX_FILE}, found neither")
    return [single]


def load_weights(model: nn.Module, folder: Path) -> None:
    """Copy a folder's tensors, of whatever stored type, into the model's.

    Missing, unknown and misshapen tensors are errors. One shard is in memory beside the model at a time.
    """
    missing = model.state_dict()
    for shard in weight_files(folder):
        for name, stored in load_file(shard).items():
            if (weight := missing.pop(name.removeprefix(PREFIX), None)) is None:
                raise ValueError(f"{shard}: {name}: a tensor twice, or one that config.json leaves no place for")
            if stored.shape != weight.shape:
                expected, received = tuple(weight.shape), tuple(stored.shape)
                raise ValueError(f"{shard}: {name}: expected shape {expected} from config.json, got {received}")
            weight.copy_(stored)
    if missing:
        names = ", ".join(PREFIX + name for name in [*missing][:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"{folder}: expected {names}{more}, which are missing")


def save_weights(
    tensors: Mapping[str, Tensor], folder: Path, dtype: torch.dtype, *, max_shard_bytes: int | None = None
) -> None:
    """Write tensors, by the names of model.py, rounded to `dtype`, in their order.

    One file if they fit into `max_shard_bytes`; else shards of at most so much (a single tensor may be larger).
    """
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes: expected a positive number, got {max_shard_bytes}")
    shards: list[list[str]] = [[]]
    sizes = {name: tensor.numel() * dtype.itemsize for name, tensor in tensors.items()}
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and max_shard_bytes is not None and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        files = [WEIGHTS_FILE]
    else:
        files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        weight_map = {PREFIX + name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    for file, names in zip(files, shards, strict=True):
        path = folder / file
        path.touch()
        mode = path.stat().st_mode  # safetensors makes files that only their owner may read
        rounded = {PREFIX + name: tensors[name].detach().to("cpu", dtype).contiguous() for name in names}
        save_file(rounded, path, metadata={"format": "pt"})
        path.chmod(mode)
