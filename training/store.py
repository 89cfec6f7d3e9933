"""TokenStore: rows as one flat array of tokens with an index, in memory or memory-mapped from a folder.

A folder is written once and used again as long as its key (sources, tokenizer, options) is the same:

    tokens.bin    uint16 or uint32    all tokens, row after row
    holes.bin     uint8               beside each token, 1 where a template has a hole; only if there are templates
    examples.bin  int64 (n, 4)        where an example begins, where its answer begins, where it ends, 1 for a template
    rows.bin      int64 (rows + 1)    the first example of each row
    index.json                        sizes, types, key, hash; written last
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray
from tokenizers import Tokenizer

from training.rows import Row
from training.tokenization import tokenizer_hash

VERSION = 1
CHUNK_TOKENS = 1 << 20  # kept in memory while writing


class StoreError(ValueError):
    """A store folder that cannot be read."""


class TokenStore:
    """Rows of tokens. Index arrays are small; `tokens` may be a memory map larger than the memory."""

    def __init__(
        self,
        tokens: NDArray[np.unsignedinteger],  # (num_tokens,)
        holes: NDArray[np.uint8] | None,  # (num_tokens,), None: no templates
        examples: NDArray[np.int64],  # (num_examples, 4)
        rows: NDArray[np.int64],  # (num_rows + 1,)
        index: Mapping[str, Any],
    ) -> None:
        self.tokens, self.holes, self.examples, self.rows, self.index = tokens, holes, examples, rows, index

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows) - 1

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def data_hash(self) -> str:
        """sha256 of the tokens, of how they are divided, and of the tokenizer."""
        return self.index["data_hash"]

    def pick(self, rows: NDArray[np.int64], draws: NDArray[np.float64]) -> NDArray[np.int64]:
        """An example of each row, by a draw in [0, 1)."""
        first, count = self.rows[rows], self.rows[rows + 1] - self.rows[rows]
        return first + np.minimum((draws * count).astype(np.int64), count - 1)

    def examples_of(self, row: int) -> range:
        """Numbers of a row's examples."""
        return range(int(self.rows[row]), int(self.rows[row + 1]))

    def lengths(self, examples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of each of these examples."""
        return self.examples[examples, 2] - self.examples[examples, 0]

    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of the longest example of each row."""
        return np.maximum.reduceat(self.examples[:, 2] - self.examples[:, 0], self.rows[:-1])

    def example(self, example: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Its tokens and which of them may be hidden: (length,) both."""
        begin, answer, end, template = (int(value) for value in self.examples[example])
        tokens = self.tokens[begin:end].astype(np.int64)
        if template:
            assert self.holes is not None
            return tokens, self.holes[begin:end].astype(bool)
        return tokens, np.arange(begin, end) >= answer

    def prompt_length(self, example: int) -> int:
        return int(self.examples[example, 1] - self.examples[example, 0])

    def is_template(self, example: int) -> bool:
        return bool(self.examples[example, 3])

    # ---------------------------------------------------------------- making one

    @classmethod
    def from_rows(cls, rows: Iterable[Row], tokenizer: Tokenizer) -> "TokenStore":
        """A store in memory."""
        streams = {name: io.BytesIO() for name in _STREAMS}
        index = _write(rows, tokenizer, streams)
        arrays = {name: np.frombuffer(stream.getvalue(), _dtype(name, index)) for name, stream in streams.items()}
        return cls._of(arrays, index)

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Map a folder that was written before."""
        try:
            index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise StoreError(f"{folder}: no token store: {error}") from None
        if index.get("version") != VERSION:
            raise StoreError(f"{folder}: expected a store of version {VERSION}, got {index.get('version')}")
        arrays = {}
        for name in _STREAMS:
            path, count = folder / f"{name}.bin", index["counts"][name]
            dtype = _dtype(name, index)
            size = path.stat().st_size if path.exists() else -1
            if size != count * dtype.itemsize and not (size == -1 and count == 0):
                raise StoreError(f"{path}: expected {count * dtype.itemsize} bytes, got {max(size, 0)}")
            arrays[name] = np.memmap(path, dtype, "r") if count else np.empty(0, dtype)
        return cls._of(arrays, index)

    @classmethod
    def load_or_build(
        cls, folder: Path, key: str, rows: Callable[[], Iterable[Row]], tokenizer: Tokenizer
    ) -> "TokenStore":
        """The folder's store if it was made under this key, else a new one in its place.

        Written beside and moved in whole, so a cut leaves nothing half made. Several processes may call it at once, but
        each would do the work: let one go first.
        """
        try:
            store = cls.open(folder)
            if store.index["key"] == key:
                return store
        except StoreError:
            pass
        partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            streams = {name: (partial / f"{name}.bin").open("wb") for name in _STREAMS}
            try:
                index = _write(rows(), tokenizer, streams)
            finally:
                for stream in streams.values():
                    stream.close()
            (partial / "index.json").write_text(json.dumps({**index, "key": key}, indent=1), encoding="utf-8")
            if not index["counts"]["holes"]:
                (partial / "holes.bin").unlink()
            if folder.exists():
                if not (folder / "index.json").exists() and any(folder.iterdir()):
                    raise StoreError(f"{folder}: expected a token store or nothing, got other files")
                shutil.rmtree(folder)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def _of(cls, arrays: Mapping[str, NDArray[Any]], index: Mapping[str, Any]) -> "TokenStore":
        holes = arrays["holes"] if index["counts"]["holes"] else None
        return cls(arrays["tokens"], holes, arrays["examples"].reshape(-1, 4), arrays["rows"], index)


_STREAMS = ("tokens", "holes", "examples", "rows")


def _dtype(name: str, index: Mapping[str, Any]) -> np.dtype:
    fixed = {"tokens": index["dtype"], "holes": "uint8", "examples": "int64", "rows": "int64"}
    return np.dtype(fixed[name])


def _write(rows: Iterable[Row], tokenizer: Tokenizer, streams: Mapping[str, BinaryIO]) -> dict[str, Any]:
    """Write every row; the index that describes them. `holes` is left empty if no row is a template."""
    dtype = np.dtype(np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32)
    digest = hashlib.sha256(tokenizer_hash(tokenizer).encode())
    hashes = {name: hashlib.sha256() for name in _STREAMS}
    counts = dict.fromkeys(_STREAMS, 0)
    pending: dict[str, list[int]] = {name: [] for name in _STREAMS}
    types: dict[str, DTypeLike] = {"tokens": dtype, "holes": np.uint8, "examples": np.int64, "rows": np.int64}
    place = num_examples = 0
    has_templates = False

    def flush() -> None:
        for name, values in pending.items():
            data = np.array(values, types[name]).tobytes()
            streams[name].write(data)
            hashes[name].update(data)
            counts[name] += len(values)
            values.clear()

    pending["rows"].append(0)
    for row in rows:
        for prompt, answer, holes in row.examples:
            begin, place = place, place + len(prompt) + len(answer)
            pending["tokens"] += [*prompt, *answer]
            pending["examples"] += [begin, begin + len(prompt), place, int(holes is not None)]
            marks = np.zeros(place - begin, np.uint8)
            if holes is not None:
                marks[list(holes)], has_templates = 1, True
            pending["holes"] += marks.tolist()
            num_examples += 1
        pending["rows"].append(num_examples)
        if len(pending["tokens"]) > CHUNK_TOKENS:
            flush()
    flush()
    if not has_templates:
        streams["holes"].truncate(0)
        counts["holes"] = 0
    for name in _STREAMS:
        digest.update(hashes[name].digest())
    return {
        "version": VERSION,
        "dtype": dtype.name,
        "counts": counts,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "data_hash": digest.hexdigest(),
    }


def store_key(sources: Sequence[Path], tokenizer: Tokenizer, options: str) -> str:
    """sha256 of the files' contents, the tokenizer and whatever else decides the tokens."""
    digest = hashlib.sha256(f"{VERSION}\n{tokenizer_hash(tokenizer)}\n{options}".encode())
    for path in sources:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
