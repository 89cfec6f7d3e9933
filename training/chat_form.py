"""The chat form of a checkpoint: its own template, and which part of a conversation is the assistant's.

A template that marks it (`{% generation %}`, as transformers) is taken at its word. Of another the reply is what the
template writes after the prompt as it is served (`add_generation_prompt`), up to the first special token behind the
reply's text. Both are checked row by row: a conversation whose prompt as served does not begin the whole is refused, as
the model would be asked in another way than it was taught.
"""

import datetime
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_FILE, SETTINGS_FILES = "chat_template.jinja", ("special_tokens_map.json", "tokenizer_config.json")
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
MARK = "\ufdd0the reply\ufdd1"  # characters that no text has

_FAULTS = (TypeError, ValueError, AttributeError, ArithmeticError, LookupError, RecursionError)  # of a template's code

Message = Mapping[str, str]


class ChatFormError(ValueError):
    """A template that cannot be trained on, or a conversation that it does not write in one piece."""


class Reply(NamedTuple):
    """The last message of a conversation, as it is written."""

    prompt: str  # what the model is given
    answer: str  # what it is to write
    has_end: bool  # `answer` ends in a special token


class ChatForm:
    """The template of a model folder."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], ends: Sequence[str]) -> None:
        """special_tokens: bos_token, eos_token, ... as the template knows them. ends: the special tokens by name."""
        self.source, self._special_tokens = source, dict(special_tokens)
        self.marks_replies = GENERATION.search(source) is not None
        named = "|".join(re.escape(end) for end in sorted(ends, key=len, reverse=True)) or "(?!)"
        self._end = re.compile(rf"\s*(?:{named})")
        self._ended = re.compile(rf"(?:{named})\s*\Z")
        self._only_ends = re.compile(rf"(?:\s|{named})*\Z")
        self._tracker = _environment()
        try:
            self._template = self._tracker.from_string(source)
        except jinja2.TemplateError as error:
            raise ChatFormError(f"the chat template cannot be read: {error}") from None

    def reply(self, messages: Sequence[Message]) -> Reply:
        """The last message, an assistant's, after those before it. ChatFormError says why it can't be learnt."""
        prompt, _ = self._render(messages[:-1], add_generation_prompt=True)
        whole, spans = self._render(messages, add_generation_prompt=False)
        if not whole.startswith(prompt):
            at = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
            raise ChatFormError(
                f"the chat template writes the prompt in another way when the reply is there: served "
                f"{prompt[at : at + 40]!r}, in the whole {whole[at : at + 40]!r}"
            )
        if self.marks_replies:
            return self._marked(prompt, whole, [span for span in spans if span[1] > len(prompt)])
        return self._difference(prompt, whole, messages)

    def _marked(self, prompt: str, whole: str, spans: Sequence[tuple[int, int]]) -> Reply:
        """By {% generation %}. A special token right behind the block is the reply's end, and learnt with it."""
        if not spans:
            raise ChatFormError("the chat template has {% generation %}, but marks nothing of the reply")
        if any(a[1] != b[0] for a, b in itertools.pairwise(spans)):
            raise ChatFormError(f"the chat template marks the reply in {len(spans)} pieces: expected one")
        start, end = spans[0][0], spans[-1][1]
        if start > len(prompt):
            raise ChatFormError(
                f"the chat template writes {whole[len(prompt) : start][:40]!r} between the prompt as it is served and "
                "the reply that it marks"
            )
        answer = whole[len(prompt) : end]
        if self._ended.search(answer):
            return Reply(prompt, answer, True)
        behind = self._end.match(whole, end)
        return Reply(prompt, answer + (behind[0] if behind else ""), behind is not None)

    def _difference(self, prompt: str, whole: str, messages: Sequence[Message]) -> Reply:
        """By what stands around a reply: the same conversation with another one in its place."""
        marked, _ = self._render([*messages[:-1], {**messages[-1], "content": MARK}], add_generation_prompt=False)
        before, _, behind = marked.partition(MARK)
        content = messages[-1]["content"]
        text = next((text for text in (content, content.strip()) if whole == before + text + behind), None)
        if text is None or not before.startswith(prompt):
            raise ChatFormError(
                "the chat template does not write the reply as it stands, and has no {% generation %} that says where "
                "the reply is"
            )
        end = self._end.match(behind)
        written, rest = (end[0], behind[end.end() :]) if end else ("", behind)
        # Some templates, LLaDA's own among them, always end in the header of the next answer.
        if not self._only_ends.fullmatch(rest) and not prompt.endswith(rest):
            raise ChatFormError(f"the chat template writes {rest[:40]!r} behind the reply, which is no special token")
        return Reply(prompt, before[len(prompt) :] + text + written, end is not None)

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where its {% generation %} blocks begin and end."""
        pieces: list[str] = []
        blocks: list[tuple[int, str]] = []
        self._tracker.pieces, self._tracker.blocks = pieces, blocks
        context = {**self._special_tokens, "messages": list(messages), "tools": None, "documents": None}
        try:
            for piece in self._template.generate(**context, add_generation_prompt=add_generation_prompt):
                pieces.append(piece)
        except (jinja2.TemplateError, *_FAULTS) as error:
            raise ChatFormError(f"the chat template refuses the conversation: {error}") from None
        text = "".join(pieces)
        if any(not text.startswith(block, start) for start, block in blocks):
            raise ChatFormError("the chat template has {% generation %} inside a macro, where its place is not known")
        return text, [(start, start + len(block)) for start, block in blocks]


class _Environment(ImmutableSandboxedEnvironment):
    """What transformers gives a template."""

    pieces: list[str]  # of the rendering under way
    blocks: list[tuple[int, str]]  # its generation blocks: where they begin, what they hold


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: notes what was written between."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own declaration
    environment: _Environment

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: Any) -> str:
        text = caller()
        environment = self.environment
        environment.blocks.append((sum(map(len, environment.pieces)), text))
        return text


def _environment() -> _Environment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
    environment.filters["tojson"] = _to_json
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(format: str) -> str:
    return datetime.datetime.now().strftime(format)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


# ------------------------------------------------------------------------------------------------- out of a folder


def find_template(folder: Path) -> str | None:
    """The template of a model folder: chat_template.jinja, else tokenizer_config.json's (of several, the default)."""
    path = folder / TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = _settings(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def named_tokens(folder: Path) -> dict[str, str]:
    """bos_token, eos_token, ... by the folder's own files."""
    tokens = {}
    for file in SETTINGS_FILES:
        for name, value in _settings(folder / file).items():
            token = value.get("content") if isinstance(value, dict) else value
            if name.endswith("_token") and isinstance(token, str):
                tokens[name] = token
    return tokens


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChatFormError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ChatFormError(f"{path}: expected an object, got {type(value).__name__}")
    return value
