"""A run on the demo's verse: the table [verse] in place of [data]."""

from dataclasses import dataclass
from typing import ClassVar

from training.recipe import Data, RunConfig
from training.tasks import verse
from training.tasks.verse import VerseBook
from training.tasks.verse_batches import VerseBatches, VerseConfig
from training.tokenization import build_tokenizer
from training.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class VerseRun(RunConfig):
    """What every run has, and the demo's poems if it has the table [verse]."""

    data_tables: ClassVar[tuple[str, ...]] = ("data", "verse")
    verse: VerseConfig | None = None  # the demo's poems, in place of [data]

    def own_data(self) -> Data | None:
        return None if self.verse is None else open_verse(self.verse, self.train.seed)


def open_verse(table: VerseConfig, seed: int) -> Data:
    digest = verse.data_hash()
    if table.sha256 not in (None, digest):
        raise ValueError(f"verse.jsonl: sha256: expected {table.sha256}, got {digest}")
    book = VerseBook.select(max_chars=table.max_chars)
    tokenizer = build_tokenizer((poem.text + poem.title + poem.author for poem in book.poems), verse.PHRASES)
    batches = VerseBatches.build(book, tokenizer, table, seed)
    facts = {"poems": len(book.poems), "characters": book.num_chars, "data_sha256": digest}
    return Data(batches, Vocabulary.of(tokenizer), facts)
