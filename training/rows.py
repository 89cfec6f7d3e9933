"""Files of rows, and what a row becomes: token lists with a place where the answer begins.

A file is JSON Lines, Parquet with the same columns, or plain text. A record has the keys of one form:

    {"text": ...}                              a document, all of it to be learnt
    {"prompt": ..., "answer": ...}             a question and its answer
    {"messages": [{"role", "content"}, ...]}   a dialogue: each of the assistant's replies is an answer
    {"template": "1_3_", "answer": "1234"}     a text with holes: every character that is `_` is to be filled
    {"prompt", "chosen", "rejected"}           a question with a better and a worse answer

Whatever is wrong with a record is said with its file and line (or row).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from tokenizers import Tokenizer

from training.chat_form import ChatFormError
from training.tokenization import EOT_TOKEN, render_chat
from training.vocabulary import Vocabulary

HOLE = "_"  # in a template, one character to be filled
ROLES = ("system", "user", "assistant")
FORMS = (
    ("text",),
    ("prompt", "answer"),
    ("messages",),
    ("template", "answer"),
    ("prompt", "chosen", "rejected"),
)
SUFFIXES = (".jsonl", ".parquet", ".txt")


class DataError(ValueError):
    """A file or a record that cannot be trained on; the message begins with its place."""


class Example(NamedTuple):
    """One thing to learn. `answer` ends in the end token that belongs there."""

    prompt: tuple[int, ...]  # never hidden; empty for a document or a template
    answer: tuple[int, ...]  # what may be hidden; of a template, the whole text without an end token
    holes: tuple[int, ...] | None = None  # of a template: places in `answer` that may be hidden


class Row(NamedTuple):
    """One record: its examples, of which a visit takes one (of a preference row: the better, then the worse)."""

    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowConfig:
    """How records become rows."""

    chat: bool = False  # questions and answers through the chat template; dialogues always are
    max_length: int | None = None  # tokens that a row may have; none: as many as it likes (packed text)
    too_long: Literal["refuse", "drop"] = "refuse"  # what happens to a longer row
    mask_in_text: Literal["refuse", "escape"] = "refuse"  # a text that holds the mask token: an error, or characters
    columns: Mapping[str, str] = field(default_factory=dict)  # our key -> the file's; with it other keys are ignored
    text_unit: Literal["paragraph", "file"] = "paragraph"  # of .txt files: what one document is

    def __post_init__(self) -> None:
        known = sorted({key for form in FORMS for key in form})
        if unknown := sorted(set(self.columns) - set(known)):
            raise ValueError(f"columns: expected some of {known}, got {unknown}")
        for name in ("too_long", "mask_in_text", "text_unit"):
            choices = get_args(get_type_hints(RowConfig)[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {list(choices)}, got {getattr(self, name)!r}")


# ------------------------------------------------------------------------------------------------- files to records


def read_records(path: Path, config: RowConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of every record of a file, read as it goes."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    readers = {".jsonl": _read_json_lines, ".parquet": _read_parquet, ".txt": _read_text}
    if path.suffix not in readers:
        raise DataError(f"{path}: expected one of {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'!r}")
    for place, record in readers[path.suffix](path, config):
        if config.columns:
            record = {key: record[column] for key, column in config.columns.items() if column in record}
        check_characters(record, place)
        yield place, record


def check_characters(value: object, place: str) -> None:
    """DataError for half a character (a surrogate alone, as JSON may write it): no tokenizer reads it."""
    left = [value]  # not recursive: JSON nests deeper than Python calls
    while left:
        part = left.pop()
        if isinstance(part, str):
            try:
                part.encode()
            except UnicodeEncodeError as error:
                half = error.start
                raise DataError(f"{place}: character {half} is half a character, {part[half]!a}") from None
        elif isinstance(part, Mapping):
            left += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            left += part


def _read_json_lines(path: Path, config: RowConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # ValueError: also an integer of 5,000 digits
                raise DataError(f"{place}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise DataError(f"{place}: expected an object, got {type(record).__name__}")
            yield place, record


def _read_parquet(path: Path, config: RowConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not Parquet: {error}") from None
    number = 0
    for batch in file.iter_batches(batch_size=1024, columns=sorted(config.columns.values()) or None):
        for record in batch.to_pylist():
            number += 1
            # A file that holds several forms has nulls in the columns of the others.
            yield f"{path}:{number}", {key: value for key, value in record.items() if value is not None}


def _read_text(path: Path, config: RowConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    lines: list[str] = []
    began = number = 1
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip() or (config.text_unit == "file" and lines):
                    began = began if lines else number
                    lines.append(line)
                elif lines:
                    yield f"{path}:{began}", {"text": "".join(lines).rstrip("\n")}
                    lines = []
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8: {error}") from None
    if lines:
        yield f"{path}:{began}", {"text": "".join(lines).rstrip("\n")}


# ------------------------------------------------------------------------------------------------- records to rows


class RowEncoder:
    """Records to rows. Counts what it drops: `num_dropped`."""

    def __init__(self, source: Tokenizer | Vocabulary, config: RowConfig) -> None:
        """source: that of a checkpoint, or a tokenizer with LLaDA's special tokens."""
        self.vocabulary, self.config = Vocabulary.of(source), config
        self.tokenizer = self.vocabulary.tokenizer
        if config.chat and not self.has_chat_form:
            raise ValueError(f"chat rows need {EOT_TOKEN} in the tokenizer; training.tokenization.complete adds it")
        self.num_dropped = 0

    @property
    def has_chat_form(self) -> bool:
        return self.vocabulary.form is not None or self.vocabulary.eot_id is not None

    def rows(self, records: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Row]:
        """Every row that is not dropped; DataError if there is none."""
        kept = 0
        for place, record in records:
            row = self.encode(record, place)
            if row is not None:
                kept += 1
                yield row
        if not kept:
            dropped = f": all {self.num_dropped} rows were too long" if self.num_dropped else ""
            raise DataError(f"the corpus is empty{dropped}")

    def encode(self, record: Mapping[str, Any], place: str) -> Row | None:
        """The row of one record, or None if it is too long and such rows are dropped."""
        check_characters(record, place)
        form = tuple(sorted(record))
        encoders = {
            ("text",): self._document,
            ("answer", "prompt"): self._answer,
            ("messages",): self._dialogue,
            ("answer", "template"): self._template,
            ("chosen", "prompt", "rejected"): self._preference,
        }
        if form not in encoders:
            expected = " or ".join(str(list(form)) for form in FORMS)
            raise DataError(f"{place}: expected the keys {expected}, got {list(form)}")
        for key, value in record.items():
            if key != "messages" and not isinstance(value, str):
                raise DataError(f"{place}: {key}: expected text, got {type(value).__name__}")
        row = encoders[form](record, place)
        limit = self.config.max_length
        longest = max(len(example.prompt) + len(example.answer) for example in row.examples)
        if limit is None or longest <= limit:
            return row
        if self.config.too_long == "drop":
            self.num_dropped += 1
            return None
        example = max(row.examples, key=lambda example: len(example.prompt) + len(example.answer))
        raise DataError(
            f"{place}: {longest} tokens (prompt {len(example.prompt)}, answer with its end {len(example.answer)}), "
            f"the context has {limit}; too_long = 'drop' leaves such rows out"
        )

    def _document(self, record: Mapping[str, Any], place: str) -> Row:
        if not record["text"].strip():
            raise DataError(f"{place}: the text is empty")
        return Row((Example((), (*self._tokens(record["text"], place), self.vocabulary.eos_id)),))

    def _answer(self, record: Mapping[str, Any], place: str) -> Row:
        return Row((self._pair(record["prompt"], record["answer"], place),))

    def _preference(self, record: Mapping[str, Any], place: str) -> Row:
        pairs = tuple(self._pair(record["prompt"], record[key], place, key) for key in ("chosen", "rejected"))
        if pairs[0] == pairs[1]:
            raise DataError(f"{place}: chosen and rejected are the same answer")
        return Row(pairs)

    def _pair(self, prompt: str, answer: str, place: str, key: str = "answer") -> Example:
        if not answer.strip():
            raise DataError(f"{place}: the row has no {key}")
        if self.config.chat:
            return self._reply([{"role": "user", "content": prompt}], answer, place)
        begin, end = self.vocabulary.beginning, self.vocabulary.eos_id
        return Example((*begin, *self._tokens(prompt, place)), (*self._tokens(answer, place), end))

    def _reply(self, messages: Sequence[Mapping[str, str]], answer: str, place: str) -> Example:
        if self.vocabulary.form is not None:
            return self._reply_in_own_form([*messages, {"role": "assistant", "content": answer}], place)
        assert self.vocabulary.eot_id is not None
        prompt = self._tokens(render_chat(messages, add_generation_prompt=True), place)
        return Example(prompt, (*self._tokens(answer.strip(), place), self.vocabulary.eot_id))

    def _reply_in_own_form(self, messages: Sequence[Mapping[str, str]], place: str) -> Example:
        """The reply in the checkpoint's own form. The prompt has the tokens that it is served with."""
        assert self.vocabulary.form is not None
        try:
            reply = self.vocabulary.form.reply(messages)
        except ChatFormError as error:
            raise DataError(f"{place}: {error}") from None
        prompt, whole = (self._tokens(text, place) for text in (reply.prompt, reply.prompt + reply.answer))
        answer = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt:  # a token of the whole reaches over the seam
            answer = self._tokens(reply.answer, place)
            shown = [self.tokenizer.decode(ids, skip_special_tokens=False) for ids in (whole, (*prompt, *answer))]
            if shown[0] != shown[1]:
                raise DataError(f"{place}: the tokenizer writes the reply in another way behind its prompt than alone")
        return Example(prompt, answer if reply.has_end else (*answer, self.vocabulary.eos_id))

    def _dialogue(self, record: Mapping[str, Any], place: str) -> Row:
        messages = record["messages"]
        if not self.has_chat_form:
            raise DataError(f"{place}: a dialogue needs {EOT_TOKEN} in the tokenizer")
        if not isinstance(messages, list) or not messages:
            raise DataError(f"{place}: messages: expected a list, got {messages!r:.60}")
        for message in messages:
            if not isinstance(message, dict) or set(message) != {"role", "content"}:
                raise DataError(f"{place}: a message: expected the keys ['role', 'content'], got {message!r:.60}")
            if message["role"] not in ROLES or not isinstance(message["content"], str):
                raise DataError(f"{place}: expected a role of {list(ROLES)} and text, got {message!r:.60}")
        replies = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not replies or replies[0] == 0:
            raise DataError(f"{place}: expected an assistant's reply after a message, got none")
        if empty := [index for index in replies if not messages[index]["content"].strip()]:
            raise DataError(f"{place}: messages[{empty[0]}] is a reply without an answer")
        return Row(tuple(self._reply(messages[:index], messages[index]["content"], place) for index in replies))

    def _template(self, record: Mapping[str, Any], place: str) -> Row:
        template, answer = record["template"], record["answer"]
        if len(template) != len(answer):
            raise DataError(f"{place}: the template has {len(template)} characters, the answer {len(answer)}")
        for index, (shown, right) in enumerate(zip(template, answer, strict=True)):
            if shown not in (HOLE, right):
                raise DataError(f"{place}: character {index} is {shown!r} in the template, {right!r} in the answer")
        if HOLE not in template:
            raise DataError(f"{place}: the template has no hole ({HOLE})")
        encoding = self.tokenizer.encode(answer, add_special_tokens=False)
        if self.vocabulary.mask_token in answer:
            raise DataError(f"{place}: {self.vocabulary.mask_token} in a template: holes are written {HOLE}")
        holes = tuple(place for place, (a, b) in enumerate(encoding.offsets) if HOLE in template[a:b])
        return Row((Example((), tuple(encoding.ids), holes),))

    def _tokens(self, text: str, place: str) -> tuple[int, ...]:
        """Token ids of a text; never the mask."""
        mask = self.vocabulary.mask_token
        if mask in text and self.config.mask_in_text == "refuse":
            raise DataError(
                f"{place}: the text holds {mask}, which would be trained on as a hole; "
                f"mask_in_text = 'escape' reads it as plain characters"
            )
        # Cut inside each occurrence, so that the pieces are ordinary text: the same characters come back.
        pieces = text.split(mask)
        parts = [
            ("" if index == 0 else mask[1:]) + piece + ("" if index == len(pieces) - 1 else mask[0])
            for index, piece in enumerate(pieces)
        ]
        ids = [id for part in parts for id in self.tokenizer.encode(part, add_special_tokens=False).ids]
        if self.vocabulary.mask_id in ids:
            raise DataError(f"{place}: the text becomes the mask token {self.vocabulary.mask_id} in this tokenizer")
        return tuple(ids)
