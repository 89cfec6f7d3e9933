"""[data] of a recipe: where the rows come from, and everything made of them before the first step."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training.data import BatchConfig, Batches, PackedBatches, RowBatches, VerseBatches, VerseConfig
from training.rows import DataError, Row, RowConfig, RowEncoder, read_records
from training.store import TokenStore, store_key
from training.tasks import find_task, verse
from training.tokenizer import EOS_TOKEN, build_tokenizer, load_tokenizer, texts_in

VERSE = "verse"  # the demo's poems have batches of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is trained on: files of rows (training/rows.py), or a task that makes its own (training/tasks)."""

    files: tuple[str, ...] = ()  # .jsonl, .parquet or .txt
    task: str | None = None  # a name of training/tasks, or "verse": the demo's poems
    num_rows: int = 50_000  # that the task makes
    task_seed: int = 0  # of the task's rows
    tokenizer: str | None = None  # tokenizer.json or a model folder; none: that of --init, or one token a character
    window: int | None = None  # tokens: documents joined and cut into windows; none: every row by itself
    sha256: str | None = None  # expected hash of the data, as a run reports it; none: any
    rows: RowConfig = field(default_factory=RowConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)
    verse: VerseConfig | None = None

    def __post_init__(self) -> None:
        if bool(self.files) == (self.task is not None):
            raise ValueError("expected either files or a task")
        if (self.task == VERSE) != (self.verse is not None):
            raise ValueError("task = 'verse' and the table [data.verse] belong together")
        if self.task not in (None, VERSE):
            find_task(self.task)
        if self.num_rows < 1:
            raise ValueError(f"num_rows expected at least 1, received {self.num_rows}")


@dataclass(frozen=True)
class Data:
    """What a run trains on."""

    batches: Batches
    tokenizer: Tokenizer
    facts: Mapping[str, Any]  # for the log and the model card
    book: verse.VerseBook | None = None  # of the demo


def open_data(config: DataConfig, folder: Path, *, seed: int, context: int, init: Path | None = None) -> Data:
    """Rows, tokenizer, token store (in `folder`, used again if nothing changed) and batches of a run.

    context: positions of the model; no row and no window is longer. init: the model folder a run begins from, whose
    tokenizer is taken if the recipe names none. DataError says which file and line is wrong.
    """
    if config.task == VERSE:
        return _open_verse(config, seed)
    files = [Path(name) for name in config.files] or [write_task_rows(config, folder)]
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    tokenizer, added = _choose_tokenizer(config, files, init)
    if config.window is not None and config.window > context:
        raise DataError(f"data.window expected at most the context of {context}, received {config.window}")
    limit = None if config.window is not None else min(config.rows.max_length or context, context)
    encoder = RowEncoder(tokenizer, replace(config.rows, max_length=limit))

    def rows() -> Iterator[Row]:
        records = (record for path in files for record in read_records(path, config.rows))
        for row in encoder.rows(records):
            if config.window is not None and any(example.holes is not None for example in row.examples):
                raise DataError("templates cannot be joined and cut into windows: expected data.window to be left out")
            yield row

    key = store_key(files, tokenizer, repr(encoder.config))
    store = TokenStore.load_or_build(folder / "tokens", key, rows, tokenizer)
    if config.sha256 not in (None, store.data_hash):
        raise DataError(f"data: sha256 expected {config.sha256}, received {store.data_hash}")
    if config.window is not None:
        batches: Batches = PackedBatches(store, config.batches, window=config.window, seed=seed)
    else:
        batches = RowBatches(store, config.batches, seed=seed, eos_id=tokenizer.token_to_id(EOS_TOKEN))
    facts: dict[str, Any] = {
        "data": f"task {config.task}, seed {config.task_seed}" if config.task else ", ".join(p.name for p in files),
        "rows": len(store),
        "tokens": store.num_tokens,
        "data_sha256": store.data_hash,
    }
    if encoder.num_dropped:
        facts["rows left out as too long"] = encoder.num_dropped
    if added:
        facts["tokens added to the tokenizer"] = ", ".join(added)
    return Data(batches, tokenizer, facts)


def _open_verse(config: DataConfig, seed: int) -> Data:
    table, digest = config.verse, verse.data_hash()
    assert table is not None
    if config.sha256 not in (None, digest):
        raise DataError(f"{verse.VERSE_FILE.name}: sha256 expected {config.sha256}, received {digest}")
    book = verse.VerseBook.select(max_chars=table.max_chars)
    tokenizer = build_tokenizer((poem.text + poem.title + poem.author for poem in book.poems), verse.PHRASES)
    batches = VerseBatches.build(book, tokenizer, table, seed)
    facts = {"poems": len(book.poems), "characters": book.num_chars, "data_sha256": digest}
    return Data(batches, tokenizer, facts, book)


def _choose_tokenizer(config: DataConfig, files: Sequence[Path], init: Path | None) -> tuple[Tokenizer, list[str]]:
    """The recipe's tokenizer, or the first model's, and what had to be added to it; else the characters of the data."""
    if (source := config.tokenizer or init) is not None:
        return load_tokenizer(Path(source))
    if config.task is not None:
        return build_tokenizer(find_task(config.task).texts), []
    records = (record for path in files for _, record in read_records(path, config.rows))
    return build_tokenizer(text for record in records for text in texts_in(record)), []


def write_task_rows(config: DataConfig, folder: Path) -> Path:
    """The task's training rows as a file of the run, so that what was trained on can be read."""
    assert config.task is not None
    path = folder / f"{config.task}-{config.task_seed}-{config.num_rows}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = find_task(config.task).generate(config.task_seed, config.num_rows)
        scratch = path.with_suffix(".partial")
        scratch.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        scratch.replace(path)
    return path
