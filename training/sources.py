"""[data] of a recipe: where the rows come from, and everything made of them before the first step."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from training.data import BatchConfig, Batches, PackedBatches, RowBatches
from training.rows import DataError, Row, RowConfig, RowEncoder, read_records
from training.store import TokenStore, store_key
from training.tasks import find_task
from training.tokenization import build_tokenizer, load_tokenizer, texts_in
from training.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Rows from files or from a task, and how they are cut into batches."""

    files: Sequence[str] = ()  # .jsonl, .parquet or .txt in the forms of training/rows.py
    task: str | None = None  # rows made by training/tasks instead
    num_rows: int = 50_000  # rows of the task
    task_seed: int = 0  # of the task's rows
    tokenizer: str | None = None  # tokenizer.json or a model folder; none: one token a character of the data
    layout: Literal["rows", "packed"] = "rows"  # rows padded to the longest of a batch, or windows cut from the text
    window: int | None = None  # tokens of a packed window; none: the model's context
    sha256: str | None = None  # of the tokenised data, as a run reports it: another hash is refused
    rows: RowConfig = field(default_factory=RowConfig)
    batches: BatchConfig = field(default_factory=BatchConfig)

    def __post_init__(self) -> None:
        if bool(self.files) == (self.task is not None):
            raise ValueError("expected files or a task, one of the two")
        if self.task is not None:
            find_task(self.task)
            if self.num_rows < 1:
                raise ValueError(f"num_rows: expected at least 1, got {self.num_rows}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a stage needs of its data. `facts`: for the model card and the log."""

    batches: Batches
    store: TokenStore
    vocabulary: Vocabulary
    facts: Mapping[str, Any]


def prepare(
    config: DataConfig,
    folder: Path,
    *,
    seed: int,
    context: int,
    vocabulary: Vocabulary | None = None,
    pairs: bool = False,
) -> Prepared:
    """Rows, tokenizer, store (in `folder`/data, used again if nothing changed) and batches of a run.

    context: positions of the model; no row and no window is longer. vocabulary: that of the checkpoint the run begins
    from; the recipe's own otherwise. pairs: the stage is preference training, which takes better and worse answers and
    nothing else, as the others take everything but these. DataError says which file and line is wrong.
    """
    files = [Path(name) for name in config.files] or [write_task_rows(config, folder / "data")]
    if vocabulary is None:
        tokenizer, added = choose_tokenizer(config, files)
        vocabulary = replace(Vocabulary.of(tokenizer), added=tuple(added))
    limit = min(config.rows.max_length or context, context)
    is_packed = config.layout == "packed"
    rows_config = RowConfig(**{**asdict(config.rows), "max_length": None if is_packed else limit})
    encoder = RowEncoder(vocabulary, rows_config)

    def checked(place: str, record: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if pairs and "chosen" not in record:
            raise DataError(f"{place}: expected the keys prompt, chosen and rejected, got {sorted(record)}")
        if "rejected" in record and not pairs:
            raise DataError(f"{place}: a rejected answer, which only training.preference keeps from being learnt")
        return place, record

    def rows() -> Iterator[Row]:
        records = (checked(place, record) for path in files for place, record in read_records(path, rows_config))
        for row in encoder.rows(records):
            if is_packed and any(example.holes is not None for example in row.examples):
                raise DataError("packed windows have no templates; layout = 'rows' has")
            yield row

    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    store = TokenStore.load_or_build(
        folder / "data" / "store",
        store_key(files, vocabulary.tokenizer, f"{rows_config} {pairs} {vocabulary.key}"),
        rows,
        vocabulary.tokenizer,
    )
    if config.sha256 not in (None, store.data_hash):
        raise DataError(f"data: sha256: expected {config.sha256}, got {store.data_hash}")
    if is_packed:
        window = min(config.window or context, context)
        batches: Batches = PackedBatches(store, config.batches, window=window, seed=seed)
    else:
        batches = RowBatches(store, config.batches, seed=seed, eos_id=vocabulary.eos_id)
    facts: dict[str, Any] = {
        "data": f"task {config.task}, seed {config.task_seed}" if config.task else ", ".join(config.files),
        "rows": len(store),
        "tokens": store.num_tokens,
        "data_sha256": store.data_hash,
    }
    if encoder.num_dropped:
        facts["rows left out as too long"] = encoder.num_dropped
    if is_chat(config):
        facts["chat form"] = vocabulary.chat_form
    if vocabulary.added:
        facts["tokens added to the tokenizer"] = ", ".join(vocabulary.added)
    return Prepared(batches, store, vocabulary, facts)


def is_chat(config: DataConfig) -> bool:
    """Whether rows are conversations: all of them, or the first of a file."""
    if config.rows.chat or config.task is not None:
        return config.rows.chat
    firsts = (next(iter(read_records(Path(name), config.rows)), None) for name in config.files)
    return any(first is not None and "messages" in first[1] for first in firsts)


def choose_tokenizer(config: DataConfig, files: Sequence[Path]) -> tuple[Tokenizer, list[str]]:
    """The recipe's tokenizer and what had to be added to it; else the characters of the task or of the files."""
    if config.tokenizer is not None:
        return load_tokenizer(Path(config.tokenizer))
    if config.task is not None:
        task = find_task(config.task)
        return build_tokenizer(task.texts, task.phrases), []
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
