"""The model folder's chat template: a stranger's program that reaches no Python object and whose cost is bounded.

jinja2 reads the template, set up as in transformers. chat/interpreter.py carries the template out, and chat/budget.py
says what that may cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser

from ..errors import ChatTemplateError
from .chat.budget import Budget
from .chat.interpreter import Interpreter, RefusalError

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_TOKENS = 40_000  # of the template's own text
_LONG_NUMBER = re.compile(r"[0-9A-Fa-f_]{1000}")  # jinja2's lexer takes 250 bytes for each digit of one
CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "  # as in transformers: the blank tells whether the template strips


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: marks what the model said, for training; and counts tokens."""

    tags = {"generation"}  # noqa: RUF012 - the base class has it as a plain attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        budget = Budget()
        for count, token in enumerate(stream):
            budget.work(4)
            if count >= MAX_TOKENS:
                raise ChatTemplateError(f"the chat template is too long: expected at most {MAX_TOKENS} tokens")
            yield token


def _parse(source: str) -> nodes.Template:
    if len(source) > MAX_TEMPLATE_CHARS:
        raise ChatTemplateError(
            f"the chat template is too long: expected at most {MAX_TEMPLATE_CHARS} characters, got {len(source)}"
        )
    if _LONG_NUMBER.search(source):
        raise ChatTemplateError("the chat template is odd: expected numbers and words of less than 1000 characters")
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    try:
        return environment.parse(source)
    except ChatTemplateError:
        raise
    except RecursionError:
        raise ChatTemplateError("the chat template is nested too deeply") from None
    except Exception as error:
        raise ChatTemplateError(f"the chat template cannot be read: {str(error)[:500]}") from error


class ChatTemplate:
    """A template that has been read. `render` gives the text that is then encoded without extra special tokens."""

    def __init__(self, source: str, *, special_tokens: Mapping[str, str] | None = None) -> None:
        self._tree = _parse(source)
        self._special_tokens = dict(special_tokens or {})
        self._texts = frozenset(node.value for node in self._tree.find_all(nodes.Const) if isinstance(node.value, str))
        self._reads_parts = any(_is_content(node.iter) for node in self._tree.find_all(nodes.For))

    @property
    def reads_parts(self) -> bool:
        """Whether it walks over a message's content, and so takes a list of parts; others want text."""
        return self._reads_parts

    def mentions(self, text: str) -> bool:
        """Whether it compares or prints this very text somewhere."""
        return text in self._texts

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
    ) -> str:
        """Text of a conversation and, with `add_generation_prompt`, the header of the answer.

        `variables`: more that the template may ask for. Messages and variables are plain JSON values. `budget`: what
        is left of one that several renderings share; by default a fresh one.
        """
        known = {"tools": None, "documents": None, **self._special_tokens, **(variables or {})}
        known |= {"messages": [dict(message) for message in messages], "add_generation_prompt": add_generation_prompt}
        try:
            return Interpreter(known, budget or Budget()).run(self._tree)
        except ChatTemplateError:
            raise
        except RecursionError:
            raise ChatTemplateError("the chat template calls itself too deeply") from None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ChatTemplateError(f"the chat template fails: {reason[:500]}") from error

    def render_begun(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        variables: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
    ) -> str:
        """Text of a conversation up to the end of the last message, which is to be continued."""
        *before, last = (dict(message) for message in messages)
        content = last["content"]
        if isinstance(content, str):
            last["content"] = content + CONTINUE_TAG
        else:
            *parts, part = content
            last["content"] = [*parts, {**part, "text": part["text"] + CONTINUE_TAG}]
        text = self.render([*before, last], add_generation_prompt=False, variables=variables, budget=budget)
        place = text.rfind(CONTINUE_TAG.strip())
        if place < 0:
            raise ChatTemplateError(
                "the chat template leaves out the last message, which cannot be continued", param="messages"
            )
        return text[:place] if text.startswith(CONTINUE_TAG, place) else text[:place].rstrip()


def _is_content(node: nodes.Node) -> bool:
    """message['content'] or message.content, filtered or not."""
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Getattr) and node.attr == "content"


__all__ = ["CONTINUE_TAG", "MAX_TEMPLATE_CHARS", "ChatTemplate", "RefusalError"]
