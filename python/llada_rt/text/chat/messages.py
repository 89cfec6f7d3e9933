"""Conversations: checked, fitted to what a chat template can take, and rendered. A last answer begun is continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ChatRoleError, ChatTemplateError, InvalidRequestError
from ...excerpt import excerpt_of
from ..chat_template import ChatTemplate, RefusalError
from .budget import MAX_INTEGER_BITS, Budget
from .marks import mark_all

ROLES = ("system", "user", "assistant")  # that every template should know
MAX_DEPTH = 32
_KEYS = {"role", "content", "name"}
_TAKEN = ("messages", "add_generation_prompt")
_MARK = " \N{REPLACEMENT CHARACTER}"


def render_chat(template: ChatTemplate, messages: object, variables: object = None) -> str:
    """Text of a conversation and the header of the answer, or up to where its last message, the answer, has got.

    `variables`: what else the template may ask for (`chat_template_kwargs`). All renderings that this takes share one
    budget. What comes from messages and variables is marked in the text (marks.py), the template's own is not.
    """
    checked = check_messages(messages)
    known = check_variables(variables)
    budget = Budget()
    _check_known_roles(template, checked)
    fitted = checked if template.reads_parts else [{**m, "content": text_of(m["content"])} for m in checked]
    fitted, known = mark_all(fitted), mark_all(known)
    try:
        text = _render(template, fitted, known, budget)
    except RefusalError as error:
        role = _refused_role(template, fitted, known, budget)
        if role is None:
            raise
        raise ChatRoleError(
            f"messages: the chat template takes no role {role!r}: {error.message}", param="messages"
        ) from error
    for role in _rare_roles(fitted):
        marked = [_marked(m) if m["role"] == role else m for m in fitted]
        if _render(template, marked, known, budget) == text:
            raise ChatRoleError(
                f"messages: the chat template leaves out what has the role {role!r}",
                param="messages",
                hint="say it in a message of the user",
            )
    return text


def _render(template: ChatTemplate, messages: list[dict[str, Any]], variables: dict[str, Any], budget: Budget) -> str:
    last = messages[-1]
    if last["role"] != "assistant":
        return template.render(messages, variables=variables, budget=budget)
    if not text_of(last["content"]):
        return template.render(messages[:-1], variables=variables, budget=budget)
    return template.render_begun(messages, variables=variables, budget=budget)


def _rare_roles(messages: list[dict[str, Any]]) -> list[str]:
    return sorted({message["role"] for message in messages} - {"user", "assistant"})


def _check_known_roles(template: ChatTemplate, messages: list[dict[str, Any]]) -> None:
    for index, message in enumerate(messages):
        if message["role"] not in ROLES and not template.mentions(message["role"]):
            more = [role for role in ("developer", "tool") if template.mentions(role)]
            raise ChatRoleError(
                f"messages[{index}].role: expected one that the chat template knows ({', '.join([*ROLES, *more])}), "
                f"got {excerpt_of(message['role'])}",
                param="messages",
            )


def _refused_role(
    template: ChatTemplate, messages: list[dict[str, Any]], variables: dict[str, Any], budget: Budget
) -> str | None:
    """The role without whose messages the template would have been content."""
    for role in _rare_roles(messages):
        others = [message for message in messages if message["role"] != role]
        try:
            if others:
                _render(template, others, variables, budget)
                return role
        except ChatTemplateError:
            continue
    return None


def _marked(message: dict[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": content + _MARK}
    *parts, last = content
    return {**message, "content": [*parts, {**last, "text": last["text"] + _MARK}]}


def text_of(content: str | list[dict[str, str]]) -> str:
    """Parts as lines, for templates that want text."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def check_messages(messages: object) -> list[dict[str, Any]]:
    """A conversation as plain dicts; its last message is to be answered, or is the beginning of the answer."""
    if not isinstance(messages, (list, tuple)) or not messages:
        shown = "an empty one" if isinstance(messages, (list, tuple)) else type(messages).__name__
        raise InvalidRequestError(f"messages: expected a non-empty list, got {shown}", param="messages")
    checked = [_check_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if checked[-1]["role"] == "system":
        raise InvalidRequestError(
            "messages: expected the last one from the user, or the assistant's to be continued, got system",
            param="messages",
        )
    if len(checked) == 1 and checked[0]["role"] == "assistant":
        raise InvalidRequestError("messages: expected one from the user, got the assistant's alone", param="messages")
    return checked


def _check_message(message: object, place: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message) <= _KEYS:
        got = ", ".join(sorted(str(key)[:40] for key in message)) if isinstance(message, Mapping) else _kind(message)
        raise InvalidRequestError(
            f"{place}: expected role and content, and perhaps name, got {got[:400] or 'nothing'}", param="messages"
        )
    for key in ("role", "name"):
        if key in message and not isinstance(message[key], str):
            raise InvalidRequestError(f"{place}.{key}: expected text, got {_kind(message[key])}", param="messages")
    content = message["content"]
    if isinstance(content, (list, tuple)) and content:
        content = [_check_part(part, f"{place}.content[{index}]") for index, part in enumerate(content)]
    elif not isinstance(content, str):
        shown = "an empty list" if isinstance(content, (list, tuple)) else _kind(content)
        raise InvalidRequestError(
            f"{place}.content: expected text, or a list of parts with text, got {shown}", param="messages"
        )
    return {**message, "content": content}


def _check_part(part: object, place: str) -> dict[str, str]:
    expected = "expected {'type': 'text', 'text': ...}"
    if not isinstance(part, Mapping):
        raise InvalidRequestError(f"{place}: {expected}, got {_kind(part)}", param="messages")
    if part.get("type") != "text" or set(part) != {"type", "text"}:
        got = str(part.get("type"))[:40] if part.get("type") != "text" else ", ".join(str(key)[:40] for key in part)
        raise InvalidRequestError(f"{place}: {expected}, got {got[:400]}", param="messages")
    if not isinstance(part["text"], str):
        raise InvalidRequestError(f"{place}.text: expected text, got {_kind(part['text'])}", param="messages")
    return {"type": "text", "text": part["text"]}


def check_variables(variables: object) -> dict[str, Any]:
    """What a caller gives the template by name, as plain values of the template's own."""
    param = "chat_template_kwargs"
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise InvalidRequestError(f"{param}: expected a mapping from names, got {_kind(variables)}", param=param)
    checked = {}
    for name, value in variables.items():
        if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN:
            raise InvalidRequestError(
                f"{param}: expected names other than {' and '.join(_TAKEN)}, got {excerpt_of(name)}", param=param
            )
        checked[name] = _plain(value, f"{param}.{name[:40]}", MAX_DEPTH)
    return checked


def _plain(value: object, place: str, depth: int) -> Any:
    param = "chat_template_kwargs"
    if depth == 0:
        raise InvalidRequestError(f"{place}: expected at most {MAX_DEPTH} levels, got more", param=param)
    if value is None or type(value) in (bool, float, str):
        return value
    if type(value) is int:
        if value.bit_length() > MAX_INTEGER_BITS:
            raise InvalidRequestError(f"{place}: expected at most {MAX_INTEGER_BITS} bits, got more", param=param)
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): _plain(item, place, depth - 1) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return [_plain(item, place, depth - 1) for item in value]
    raise InvalidRequestError(f"{place}: expected what JSON can hold, got {_kind(value)}", param=param)


def _kind(value: object) -> str:
    return type(value).__name__
