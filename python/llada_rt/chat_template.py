"""The model folder's chat template, rendered in a sandbox with limits.

A template is data from a stranger: it reaches no Python object, and its work and its output are bounded. So that
nothing grows unseen, loops, comparisons, `~` and dict keys are rewritten to pass through this file before compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .errors import ChatTemplateError

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_SIZE = 2 * 1024 * 1024  # characters or items of any value on the way, and of the output
MAX_WORK = 1_000_000  # loop turns, calls, and characters handled / 64, of one rendering
MAX_INTEGER_BITS = 64

_STRING_METHODS = frozenset(
    (
        *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "upper", "lower"),
        *("title", "capitalize", "replace", "find", "join", "removeprefix", "removesuffix", "isdigit", "isalpha"),
    )
)
_CONTAINER_METHODS = frozenset(["items", "keys", "values", "get"])
_TEXT_FILTERS = ("capitalize", "lower", "string", "title", "trim", "upper")  # turn whatever they get into text
_OTHER_FILTERS = (
    *("count", "default", "d", "first", "float", "int", "items", "last", "length", "map", "reject", "rejectattr"),
    *("reverse", "round", "select", "selectattr"),
)
_TESTS = (
    *("boolean", "callable", "defined", "even", "false", "float", "integer", "iterable", "mapping", "none", "number"),
    *("odd", "sequence", "string", "true", "undefined"),
)

_work_left: ContextVar[list[int]] = ContextVar("work_left")


def _charge(units: int) -> None:
    left = _work_left.get()
    left[0] -= units
    if left[0] < 0:
        raise ChatTemplateError(f"the chat template does too much work: expected at most {MAX_WORK} turns")


def _limit(size: int) -> None:
    if size > MAX_SIZE:
        raise ChatTemplateError(f"the chat template makes a value of more than {MAX_SIZE} characters or items")


def _size(value: object) -> int:
    return len(value) if isinstance(value, (str, list, tuple, dict)) else 1


def _flat(value: Any) -> Any:
    """The value, if comparing, hashing or printing it costs no more than its length."""
    if isinstance(value, (list, tuple, dict)):
        items = value.values() if isinstance(value, dict) else value
        if any(isinstance(item, (list, tuple, dict)) for item in items):
            raise ChatTemplateError("the chat template compares or prints a nested value, which is not supported")
    _charge(1 + _size(value) // 64)
    return value


def _text(value: object) -> str:
    if isinstance(value, (list, tuple, dict)):
        raise ChatTemplateError(f"the chat template prints a {type(value).__name__}, which is not supported")
    if isinstance(value, jinja2.Undefined) and value._undefined_exception is SecurityError:
        raise ChatTemplateError("the chat template reaches for something that is out of bounds")
    text = str(value)
    _charge(1 + len(text) // 64)
    return text


def _turns(iterable: Iterable[Any]) -> Iterator[Any]:
    for item in iterable:
        _charge(1)
        yield item


def _concat(*parts: object) -> str:
    texts = [_text(part) for part in parts]
    _limit(sum(map(len, texts)))
    return "".join(texts)


def _replace(value: object, old: object, new: object, count: int = -1) -> str:
    text, old, new = _text(value), _text(old), _text(new)
    times = text.count(old) if count < 0 else min(text.count(old), count)
    _limit(len(text) + times * max(len(new) - len(old), 0))
    return text.replace(old, new, count)


def _join(items: Iterable[Any], d: object = "") -> str:
    separator = _text(d)
    texts = [_text(item) for item in items]
    _limit(sum(map(len, texts)) + len(separator) * len(texts))
    return separator.join(texts)


def _list(items: Iterable[Any]) -> list[Any]:
    return list(_turns(items))


def _contains(item: object, container: Any) -> bool:
    return _flat(item) in _flat(container)


def _equal(left: object, right: object) -> bool:
    return bool(_flat(left) == _flat(right))


def _raise_exception(message: object = "") -> NoReturn:
    raise ChatTemplateError(f"the chat template refuses these messages: {_text(message)[:500]}", param="messages")


def _as_text_filter(filter_: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *args: filter_(_text(value), *map(_text, args))


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with methods by allow-list and operators that cannot blow up."""

    intercepted_binops = frozenset(["+", "-", "*", "**", "%", "//", "/"])

    def wrap_str_format(self, value: Any) -> None:
        return None  # str.format is an attribute like any other, and not allowed

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _STRING_METHODS
        if isinstance(obj, (dict, list, tuple)):
            return attr in _CONTAINER_METHODS
        return bool(super().is_safe_attribute(obj, attr, value))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, _flat(argument))

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _charge(1)
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, (str, list, tuple, dict)):
            _charge(_size(owner) // 64)
            args = tuple(map(_flat, args))
            if isinstance(owner, str) and obj.__name__ == "replace":
                return _replace(owner, *args)
            if isinstance(owner, str) and obj.__name__ == "join":
                return _join(args[0] if args else (), owner)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, (str, bytes)):
            raise ChatTemplateError("the chat template formats a string with %, which is not supported")
        if operator == "+":
            _limit(_size(left) + _size(right))
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    _limit(len(value) * max(times, 0))
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * max(right, 0))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int):
            _check_bits(result.bit_length())
        _charge(1 + _size(result) // 64)
        return result


def _check_bits(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise ChatTemplateError(f"the chat template computes an integer of more than {MAX_INTEGER_BITS} bits")


class _Bounded(NodeTransformer):
    """Sends what could grow or run on through the functions above."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise ChatTemplateError("the chat template uses a recursive loop, which is not supported")
        self.generic_visit(node)
        node.iter = _call("__turns", [node.iter])
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("__concat", node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _call("__flat", [node.expr])
        for operand in node.ops:
            operand.expr = _call("__flat", [operand.expr])
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _call("__flat", [node.key])
        return node


def _call(name: str, arguments: list[Any]) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], finalize=_text
    )
    known = environment.filters
    environment.filters = {name: known[name] for name in _OTHER_FILTERS}
    environment.filters |= {name: _as_text_filter(known[name]) for name in _TEXT_FILTERS}
    environment.filters |= {"replace": _replace, "join": _join, "list": _list}
    environment.tests = {name: test for name, test in environment.tests.items() if name in _TESTS}
    environment.tests |= {"in": _contains} | dict.fromkeys(("eq", "equalto", "=="), _equal)
    environment.tests |= dict.fromkeys(("ne", "!="), lambda left, right: not _equal(left, right))
    environment.globals = {
        "range": environment.globals["range"],
        "namespace": environment.globals["namespace"],
        "raise_exception": _raise_exception,
        "__turns": _turns,
        "__concat": _concat,
        "__flat": _flat,
    }
    return environment


class ChatTemplate:
    """A compiled template. `render` gives the text that is then encoded without extra special tokens."""

    def __init__(self, source: str, *, special_tokens: Mapping[str, str] | None = None) -> None:
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ChatTemplateError(
                f"the chat template is too long: expected at most {MAX_TEMPLATE_CHARS} characters, got {len(source)}"
            )
        environment = _environment()
        # Constant parts are computed while compiling, and are work too.
        token = _work_left.set([MAX_WORK])
        try:
            tree = _Bounded().visit(environment.parse(source))
            tree.set_environment(environment)
            self._template = jinja2.Template.from_code(environment, environment.compile(tree), environment.globals)
        except ChatTemplateError:
            raise
        except RecursionError:
            raise ChatTemplateError("the chat template is nested too deeply") from None
        except Exception as error:
            raise ChatTemplateError(f"the chat template cannot be compiled: {str(error)[:500]}") from error
        finally:
            _work_left.reset(token)
        self._special_tokens = dict(special_tokens or {})

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Text of a conversation, the header of the answer included."""
        token = _work_left.set([MAX_WORK])
        pieces: list[str] = []
        length = 0
        try:
            for piece in self._template.generate(
                **self._special_tokens, messages=[dict(m) for m in messages], add_generation_prompt=True
            ):
                length += len(piece)
                _limit(length)
                pieces.append(piece)
        except ChatTemplateError:
            raise
        except RecursionError:
            raise ChatTemplateError("the chat template calls itself too deeply") from None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ChatTemplateError(f"the chat template fails: {reason[:500]}") from error
        finally:
            _work_left.reset(token)
        return "".join(pieces)
