"""convert: a model folder in another element type, ready to be loaded, smaller or faster. No calibration data.

The work goes tensor by tensor and in blocks, so that memory stays small whatever the model. The files go into a folder
beside the target, which takes the target's name when everything is on disk. `llada_rt.json` records length and SHA-256
of each file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..config import StoredType, parse_size
from ..errors import ConfigError, LladaRtError, ModelFormatError, OutputError, UnsupportedModelError
from ..excerpt import excerpt, excerpt_of
from ..folder import quantize
from ..folder.checkpoint import (
    INDEX_FILE,
    SINGLE_FILE,
    SafetensorsWriter,
    StoredTensor,
    TensorSpec,
    narrow,
    read_checkpoint,
    widen,
)
from ..folder.model_files import MANIFEST, MANIFEST_VERSION, FileRecord, check_folder, read_json, resolve_file
from ..runtime.runner import describe_model
from .adapter import Adapter, Delta
from .inspection import layout_faults

FLOAT_TYPES = {"float32": "F32", "bfloat16": "BF16"}
# What goes along unchanged, where it is there.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)
COPIED_FILES = ("generation_config.json", "README.md", "LICENSE", "LICENSE.txt", "NOTICE")
DEFAULT_SHARD_BYTES = 5_000_000_000

Report = Callable[[str, int, int], None]  # name of a tensor, bytes of the source done, of all


@dataclass(frozen=True, slots=True)
class Conversion:
    """What came of it. Bytes are those of the weight files."""

    target: Path
    compute_type: str
    source_bytes: int
    target_bytes: int
    files: dict[str, FileRecord]


def convert_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    compute_type: str,
    base: str | os.PathLike[str] | None = None,
    max_shard_bytes: int | str = DEFAULT_SHARD_BYTES,
    overwrite: bool = False,
    report: Report | None = None,
) -> Conversion:
    """Write the model in `source` to the new folder `target`, its matrices as `compute_type`.

    float32, bfloat16: all tensors. int8, int4: the matrices of products, beside their scales; embedding and norms
    become bfloat16. `base`: `source` is a LoRA adapter (a PEFT folder), merged into the model in `base`; the tokenizer
    is the adapter's if it has one. A folder that is there stays as it is unless `overwrite`, and then until the new one
    is complete.

    Raises ConfigError (what was asked makes no sense), ModelError (the source), OutputError (the disk).
    """
    if compute_type not in get_args(StoredType):
        choices = ", ".join(get_args(StoredType))
        raise ConfigError(
            f"compute_type: expected one of {choices}, got {excerpt_of(compute_type)}", param="compute_type"
        )
    if isinstance(max_shard_bytes, str):
        max_shard_bytes = parse_size("max_shard_bytes", max_shard_bytes)
    if type(max_shard_bytes) is not int or max_shard_bytes < 1:
        raise ConfigError(f"max_shard_bytes: expected a positive integer, got {excerpt_of(max_shard_bytes)}")
    folder, out = check_folder(Path(source if base is None else base)), Path(os.path.abspath(target))
    check_target(folder, out, overwrite=overwrite)
    adapter = None if base is None else Adapter.read(Path(source))
    if adapter is not None:
        check_target(adapter.folder, out, overwrite=overwrite)
    if quantize.stored_type(read_json(folder, "config.json")) is not None:
        raise UnsupportedModelError(
            "expected float weights, got a model that is quantised already", hint="convert the folder it was made from"
        )
    deltas = {} if adapter is None else adapter.deltas(describe_model(folder).tensors)
    plans = [_plan(tensor, compute_type, deltas.get(tensor.spec.name)) for tensor in _checked_tensors(folder)]
    needed = sum(spec.num_bytes for plan in plans for spec in plan.specs)
    with _partial_folder(out, needed) as unfinished:
        records = _write_weights(unfinished, plans, max_shard_bytes, compute_type, report)
        records["config.json"] = _write_json(unfinished / "config.json", converted_config(folder, compute_type))
        has_words = adapter is not None and resolve_file(adapter.folder, "tokenizer.json") is not None
        words = adapter.folder if adapter is not None and has_words else folder
        records |= _copy_files(words, unfinished, TOKENIZER_FILES)
        records |= _copy_files(folder, unfinished, COPIED_FILES)
        manifest = {
            "format_version": MANIFEST_VERSION,
            "compute_type": compute_type,
            "files": {name: {"bytes": r.num_bytes, "sha256": r.sha256} for name, r in sorted(records.items())},
        }
        _write_json(unfinished / MANIFEST, manifest)
        _put_in_place(unfinished, out)
    return Conversion(out, compute_type, sum(plan.source.spec.num_bytes for plan in plans), needed, records)


def check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    """The target is new, or a model folder that may be replaced; and it is not the source."""
    try:
        _check_place(source, target, overwrite=overwrite)
    except (OSError, ValueError) as error:
        if isinstance(error, LladaRtError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        place = excerpt(str(target))
        raise ConfigError(f"expected a folder that can be written, got {place}: {reason}", param="target") from error


def _check_place(source: Path, target: Path, *, overwrite: bool) -> None:
    if "\0" in str(target):
        raise ValueError("it holds a NUL")
    if target.exists() or target.is_symlink():
        if target.resolve() == source.resolve() or target.resolve() in source.resolve().parents:
            raise ConfigError(f"expected another folder than the source, got {target}", param="target")
        if not overwrite:
            raise ConfigError(f"expected a new folder, {target} exists", param="target", hint="--overwrite replaces it")
        if not (target / "config.json").is_file() or target.is_symlink():
            raise ConfigError(f"expected a model folder to replace, got {target}", param="target")
    if not target.parent.is_dir():
        raise ConfigError(f"expected an existing folder to write into, got {target.parent}", param="target")


def _checked_tensors(folder: Path) -> list[StoredTensor]:
    """The tensors that config.json calls for, in the order of the forward pass; there must be no others."""
    description, tensors = describe_model(folder), read_checkpoint(folder)
    faults = layout_faults(description, tensors, None)
    if faults:
        more = f" (and {len(faults) - 1} more: see llada-rt inspect)" if len(faults) > 1 else ""
        raise ModelFormatError(faults[0] + more)
    return [tensors[name] for name in description.tensors]


def converted_config(folder: Path, compute_type: str) -> dict[str, Any]:
    """config.json of the source, with the new element type."""
    config = read_json(folder, "config.json")
    if compute_type in FLOAT_TYPES:
        return config | {"torch_dtype": compute_type}
    return config | {"torch_dtype": "bfloat16", "quantization": quantize.record(compute_type)}


# ---------------------------------------------------------------- weights


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor of the source and what is written for it: itself, or integers and scales."""

    source: StoredTensor
    specs: tuple[TensorSpec, ...]
    delta: Delta | None = None  # of a LoRA adapter, to be added

    def arrays(self) -> Iterator[NDArray[Any]]:
        """The elements of `specs`, one after the other, in blocks of rows.

        Raises ModelFormatError for NaN or infinity.
        """
        if len(self.specs) == 1:
            yield from self._floats(self.specs[0].dtype)
            return
        encode = quantize.quantize_int8 if self.specs[0].dtype == "I8" else quantize.quantize_int4
        scales = []
        for block in self._float_blocks():
            self._check_finite(block)
            integers, of_rows = encode(block)
            scales.append(of_rows)
            yield integers
        yield np.concatenate(scales)

    def _float_blocks(self) -> Iterator[NDArray[np.float32]]:
        row = 0
        for block in self.source.float_blocks():
            if self.delta is not None:
                block = block + self.delta.rows(row, row + len(block))
                row += len(block)
            yield block

    def _floats(self, dtype: str) -> Iterator[NDArray[Any]]:
        if self.source.spec.dtype == dtype and self.delta is None:
            for block in self.source.blocks():
                self._check_finite(widen(block, dtype))
                yield block
            return
        for values in self._float_blocks():
            self._check_finite(values)
            if dtype == "BF16":
                rounded = narrow(values)
                self._check_finite(widen(rounded, dtype))  # beyond the largest bfloat16
                yield rounded
            else:
                yield values

    def _check_finite(self, values: NDArray[np.float32]) -> None:
        if not np.isfinite(values).all():
            raise ModelFormatError(f"{self.source.spec.name}: expected finite weights, got NaN or infinity")


def _plan(tensor: StoredTensor, compute_type: str, delta: Delta | None = None) -> TensorPlan:
    name, shape = tensor.spec.name, tensor.spec.shape
    if compute_type in FLOAT_TYPES:
        return TensorPlan(tensor, (TensorSpec(name, FLOAT_TYPES[compute_type], shape),), delta)
    if not quantize.is_quantized_tensor(name, shape):
        return TensorPlan(tensor, (TensorSpec(name, "BF16", shape),), delta)
    return TensorPlan(tensor, quantize.specs(name, shape, compute_type), delta)


def split_shards(plans: Sequence[TensorPlan], max_bytes: int) -> list[list[TensorPlan]]:
    """Shards of at most max_bytes, a tensor and its scales together; a larger one has a shard of its own."""
    shards: list[list[TensorPlan]] = [[]]
    filled = 0
    for plan in plans:
        size = sum(spec.num_bytes for spec in plan.specs)
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(plan)
        filled += size
    return shards


def _write_weights(
    folder: Path, plans: Sequence[TensorPlan], max_shard_bytes: int, compute_type: str, report: Report | None
) -> dict[str, FileRecord]:
    shards = split_shards(plans, max_shard_bytes)
    total = sum(plan.source.spec.num_bytes for plan in plans)
    done = 0
    records: dict[str, FileRecord] = {}
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        specs = [spec for plan in shard for spec in plan.specs]
        weight_map |= {spec.name: file for spec in specs}
        with SafetensorsWriter(folder / file, specs, {"format": "pt"}) as writer:
            for plan in shard:
                if report:
                    report(plan.source.spec.name, done, total)
                for array in plan.arrays():
                    writer.write(array.astype(array.dtype.newbyteorder("<"), copy=False))
                done += plan.source.spec.num_bytes
        records[file] = writer.record
    if report:
        report("", total, total)
    if len(shards) > 1:
        size = sum(spec.num_bytes for plan in plans for spec in plan.specs)
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        records[INDEX_FILE] = _write_json(folder / INDEX_FILE, index)
    return records


# ---------------------------------------------------------------- files


def _write_json(path: Path, value: Mapping[str, Any]) -> FileRecord:
    return _write_file(path, [(json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()])


def _copy_files(source: Path, target: Path, names: Sequence[str]) -> dict[str, FileRecord]:
    records = {}
    for name in names:
        path = resolve_file(source, name)
        if path is not None:
            with path.open("rb") as file:
                records[name] = _write_file(target / name, iter(partial(file.read, 1 << 20), b""))
    return records


def _write_file(path: Path, chunks: Sequence[bytes] | Iterator[bytes]) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(size, digest.hexdigest())


@contextlib.contextmanager
def _partial_folder(target: Path, num_bytes: int) -> Iterator[Path]:
    """A folder beside the target, removed at the end unless it has been moved. What the disk says is an OutputError."""
    try:
        free = shutil.disk_usage(target.parent).free
        if free < num_bytes:
            raise OutputError(f"expected {num_bytes} free bytes in {target.parent}, got {free}")
        unfinished = _beside(target, "partial")
        unfinished.mkdir()
        try:
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except LladaRtError:
        raise
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror or error}") from error


def _put_in_place(unfinished: Path, target: Path) -> None:
    """Give the finished folder its name; what was there leaves only then."""
    _sync_folder(unfinished)
    old = _beside(target, "old")
    is_replacement = target.exists()
    if is_replacement:
        target.rename(old)
    try:
        unfinished.rename(target)
    except OSError:
        if is_replacement:
            old.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(target: Path, purpose: str) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{purpose}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
