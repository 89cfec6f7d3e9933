"""Safetensors files as the tools see them: the tensors of a folder, read in blocks, and a writer that streams.

numpy is enough for all of this: bfloat16 is the upper half of a float32. The engine reads through
csrc/model/safetensors.cc, the stricter of the two readers.
Format: https://github.com/huggingface/safetensors (8 bytes of header length, JSON header, data).
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from ..excerpt import excerpt, excerpt_of
from .model_files import FileRecord, check_is_no_pointer, of_os_error, parse_json, read_file, resolve_file

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 16 * 1024 * 1024  # as in csrc/model/safetensors.cc, which says why
MAX_INDEX_BYTES = 16 * 1024 * 1024
MAX_RANK = 8

# Element types of the format and what numpy keeps them in; numpy has no bfloat16.
STORAGE: dict[str, np.dtype[Any]] = {
    name: np.dtype(code) for name, code in (("F32", "<f4"), ("F16", "<f2"), ("BF16", "<u2"), ("I8", "i1"), ("U8", "u1"))
}
FLOATS = ("F32", "F16", "BF16")
BLOCK_ELEMENTS = 1 << 22  # of a tensor at a time: 16 MiB as float32


def widen(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    """Stored floats as float32, exactly."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def narrow(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 to bfloat16, to nearest, ties to even; for values that are no NaN."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as a header describes it; `dtype` in the words of the format."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        return self.num_elements * STORAGE[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file."""

    spec: TensorSpec
    path: Path
    offset: int  # where the tensor's first byte is in the file

    def blocks(self) -> Iterator[NDArray[Any]]:
        """The tensor's rows as stored, in blocks of about BLOCK_ELEMENTS elements.

        The blocks are read, not mapped: if another process shortens a mapped file, a look at the pages ends this one.
        """
        if self.spec.num_elements == 0:
            return
        rows, *rest = self.spec.shape or (1,)
        row_elements = math.prod(rest)
        step = max(1, BLOCK_ELEMENTS // row_elements)
        dtype = STORAGE[self.spec.dtype]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                for begin in range(0, rows, step):
                    block = np.empty((min(step, rows - begin), *rest), dtype)
                    self._fill(file, block)
                    yield block
        except OSError as error:
            raise of_os_error(self.path.name, error) from error

    def _fill(self, file: io.RawIOBase, block: NDArray[Any]) -> None:
        left = block.data.cast("B")
        while left:
            count = file.readinto(left)
            if not count:
                raise ModelFormatError(
                    f"{excerpt(self.path.name)}: {excerpt(self.spec.name)}: expected {len(left)} bytes more, got the "
                    "end of the file (it was shortened while it was read)"
                )
            left = left[count:]

    def float_blocks(self) -> Iterator[NDArray[np.float32]]:
        """The same as float32."""
        if self.spec.dtype not in FLOATS:
            raise UnsupportedModelError(f"{self.spec.name}: expected a type of {FLOATS}, got {self.spec.dtype}")
        for block in self.blocks():
            yield widen(block, self.spec.dtype)


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of model.safetensors, or of the shards that the index names, by name.

    In transformers' order: where both are there and the index does not name the file, the index is an earlier save's.

    Raises ModelNotFoundError, ModelFormatError (with file and tensor), UnsupportedModelError for an element type.
    """
    index = read_file(folder, INDEX_FILE, MAX_INDEX_BYTES)
    if index is None:
        return read_file_tensors(folder, SINGLE_FILE)
    parsed = _object(parse_json(index, INDEX_FILE, unique=True), INDEX_FILE)
    weight_map = _object(parsed.get("weight_map"), f"{INDEX_FILE}: weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise ModelFormatError(
                f"{INDEX_FILE}: {excerpt(name)}: expected the name of a file, got {excerpt_of(file)}"
            )
    if SINGLE_FILE not in weight_map.values() and resolve_file(folder, SINGLE_FILE) is not None:
        return read_file_tensors(folder, SINGLE_FILE)
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        for name, tensor in _read_header(folder, file):
            if weight_map.get(name) != file:
                place = excerpt_of(weight_map.get(name))
                raise ModelFormatError(
                    f"{excerpt(name)}: expected the tensor in {place} by {INDEX_FILE}, got it in {excerpt(file)}"
                )
            tensors[name] = tensor
    for name, file in weight_map.items():
        if name not in tensors:
            raise ModelFormatError(f"{INDEX_FILE}: {excerpt(name)}: expected the tensor in {excerpt(file)}, got none")
    return tensors


def read_file_tensors(folder: Path, file: str) -> dict[str, StoredTensor]:
    """The tensors of one file, by name."""
    return dict(_read_header(folder, file))


def _read_header(folder: Path, name: str) -> Iterator[tuple[str, StoredTensor]]:
    path, file = resolve_file(folder, name), excerpt(name)
    if path is None:
        raise ModelNotFoundError(f"expected the file {file} in {excerpt(str(folder))}", param="model_dir")
    check_is_no_pointer(name, path)
    try:
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            length = int.from_bytes(source.read(8), "little")
            if size < 8 or not length <= min(MAX_HEADER_BYTES, size - 8):
                raise ModelFormatError(
                    f"{file}: expected a header of at most {MAX_HEADER_BYTES} bytes within {size}, got one of {length}"
                )
            header = _object(parse_json(source.read(length), file, unique=True), file)
    except OSError as error:
        raise of_os_error(file, error) from error
    data, end = 8 + length, 0
    for tensor, record in header.items():
        if tensor == "__metadata__":
            continue
        where = f"{file}: {excerpt(tensor)}"
        spec, begin = _spec(tensor, _object(record, where), where)
        if begin + spec.num_bytes > size - data:
            raise ModelFormatError(
                f"{where}: expected {spec.num_bytes} bytes of data within {size - data}, got them from {begin} on "
                "(is the file truncated?)"
            )
        end = max(end, begin + spec.num_bytes)
        yield tensor, StoredTensor(spec, path, data + begin)
    if data + end != size:
        raise ModelFormatError(f"{file}: expected {end} bytes of data, got {size - data}")


def _spec(name: str, record: Mapping[str, Any], where: str) -> tuple[TensorSpec, int]:
    """A tensor of a header, and where in the data it begins."""
    dtype = record.get("dtype")
    if not isinstance(dtype, str) or dtype not in STORAGE:
        raise UnsupportedModelError(f"{where}: expected one of {', '.join(STORAGE)}, got {excerpt_of(dtype)}")
    shape, offsets = (_sizes(record.get(key), f"{where}: {key}") for key in ("shape", "data_offsets"))
    spec = TensorSpec(name, dtype, shape)
    if len(offsets) != 2 or offsets[1] - offsets[0] != spec.num_bytes:
        raise ModelFormatError(
            f"{where}: expected data_offsets that span {excerpt_of(spec.num_bytes)} bytes, got {list(offsets)}"
        )
    return spec, offsets[0]


def _sizes(value: object, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and 0 <= size < 2**48 for size in value[:MAX_RANK]):
        raise ModelFormatError(f"{where}: expected a list of sizes, got {excerpt_of(value)}")
    if len(value) > MAX_RANK:
        raise ModelFormatError(f"{where}: expected at most {MAX_RANK} sizes, got {len(value)}")
    return tuple(value)


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelFormatError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value


class SafetensorsWriter:
    """One file, its tensors written in the order of `specs`; a context manager. The data is on disk when it closes."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        for spec in specs:
            header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [end, end + spec.num_bytes]}
            end += spec.num_bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._expected = 8 + len(text) + end
        self._written = 0
        self._digest = hashlib.sha256()
        self._file = path.open("xb")
        self._put(len(text).to_bytes(8, "little") + text)

    def write(self, values: NDArray[Any]) -> None:
        """The next elements, in their stored form."""
        self._put(np.ascontiguousarray(values).data)

    def _put(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._written += memoryview(data).nbytes

    @property
    def record(self) -> FileRecord:
        """Length and checksum, once everything is written."""
        assert self._written == self._expected, f"{self._file.name}: {self._written} of {self._expected} bytes"
        return FileRecord(self._written, self._digest.hexdigest())

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
