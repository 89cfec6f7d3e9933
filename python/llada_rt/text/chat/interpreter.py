"""Carries out a chat template: a walk over jinja2's syntax tree, each step paid from a budget.

Nothing in a template becomes Python code, and none of its names is ours: a template can do only what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jinja2 import Undefined, nodes
from jinja2.exceptions import TemplateRuntimeError

from ...errors import ChatTemplateError
from .budget import Budget
from .filters import apply_filter, strftime_now
from .tests import apply_test
from .types import Function, Loop, Namespace, check_defined, refuse
from .values import Values

_BREAK, _CONTINUE = "break", "continue"
_SPECIAL_NAMES = ("loop", "caller", "kwargs", "varargs")


class RefusalError(ChatTemplateError):
    """The template itself said no, by raise_exception."""


class _Scope:
    """Variables of a block, and those around it."""

    __slots__ = ("around", "names")

    def __init__(self, names: dict[str, Any], around: _Scope | None) -> None:
        self.names = names
        self.around = around


class Interpreter:
    """One rendering."""

    def __init__(self, variables: Mapping[str, Any], budget: Budget) -> None:
        self._budget = budget
        self._values = Values(budget)
        functions: dict[str, Callable[..., Any]] = {
            "dict": self._dict,
            "joiner": self._joiner,
            "namespace": self._namespace,
            "raise_exception": self._raise_exception,
            "range": self._values.range,
            "strftime_now": lambda format: strftime_now(self._values, format),
        }
        given = {name: Function(name, call) for name, call in functions.items()} | dict(variables)
        self._scope = _Scope({}, _Scope(given, None))
        self._out: list[str] = []
        self._block: Any = None  # what a filter without an operand is applied to
        self._uses: dict[int, set[str]] = {}

    def run(self, template: nodes.Template) -> str:
        self._do(template.body)
        return self._values.concat(self._out)

    # ---------------------------------------------------------------- statements

    def _do(self, body: list[Any]) -> str | None:
        """Returns "break" or "continue" where the innermost loop must do so."""
        for node in body:
            self._budget.work()
            does = _DOES.get(type(node))
            if does is None:
                raise refuse(f"uses a {type(node).__name__.lower()}")
            left: str | None = does(self, node)
            if left is not None:
                return left
        return None

    def _inside(self, body: list[Any], names: dict[str, Any] | None = None, around: _Scope | None = None) -> str | None:
        """The same in a scope of its own."""
        outer = self._scope
        self._scope = _Scope({} if names is None else names, around or outer)
        try:
            return self._do(body)
        finally:
            self._scope = outer

    def _captured(self, body: list[Any], names: dict[str, Any] | None = None, around: _Scope | None = None) -> str:
        outer, self._out = self._out, []
        try:
            self._inside(body, names, around)
            return self._values.concat(self._out)
        finally:
            self._out = outer

    def _put(self, text: str) -> None:
        self._budget.reserve_items(1, 16)
        self._out.append(text)

    def _do_Output(self, node: nodes.Output) -> None:
        for part in node.nodes:
            self._put(self._values.text(part.data if isinstance(part, nodes.TemplateData) else self._value(part)))

    def _do_If(self, node: nodes.If) -> str | None:
        if self._value(node.test):
            return self._do(node.body)
        for other in node.elif_:
            if self._value(other.test):
                return self._do(other.body)
        return self._do(node.else_)

    def _do_For(self, node: nodes.For) -> str | None:
        if node.recursive:
            raise refuse("uses a recursive loop")
        iterable = self._value(node.iter)
        has_loop = "loop" in self._used(node)
        # `loop` may ask for the length, and then keeps all items.
        items: Any = iter(self._values.items(iterable)) if has_loop else self._values.turns(iterable)
        if node.test is not None:
            items = self._chosen(node, items)
        self._budget.reserve_items(1, 600)
        loop = None
        if has_loop:
            loop = items = Loop(items, Undefined)
        is_empty = True
        for item in items:
            is_empty = False
            self._budget.work()
            names: dict[str, Any] = {}
            if loop is not None:
                item = item[0]
                names["loop"] = loop
            self._bind(node.target, item, names)
            if self._inside(node.body, names) == _BREAK:
                break
        return self._inside(node.else_) if is_empty else None

    def _chosen(self, node: nodes.For, items: Any) -> list[Any]:
        assert node.test is not None
        outer, chosen = self._scope, []
        try:
            for item in items:
                self._scope = _Scope({}, outer)
                self._bind(node.target, item, self._scope.names)
                if self._value(node.test):
                    self._budget.reserve_items(1, 80)
                    chosen.append(item)
        finally:
            self._scope = outer
        return chosen

    def _do_Break(self, node: Any) -> str:
        return _BREAK

    def _do_Continue(self, node: Any) -> str:
        return _CONTINUE

    def _do_Assign(self, node: nodes.Assign) -> None:
        self._bind(node.target, self._value(node.node), self._scope.names)

    def _do_AssignBlock(self, node: nodes.AssignBlock) -> None:
        text: Any = self._captured(node.body)
        self._bind(node.target, text if node.filter is None else self._filtered(node.filter, text), self._scope.names)

    def _do_FilterBlock(self, node: nodes.FilterBlock) -> None:
        self._put(self._values.text(self._filtered(node.filter, self._captured(node.body))))

    def _do_With(self, node: nodes.With) -> str | None:
        names: dict[str, Any] = {}
        for target, expression in zip(node.targets, node.values, strict=True):
            self._bind(target, self._value(expression), names)
        return self._inside(node.body, names)

    def _do_Scope(self, node: nodes.Scope) -> str | None:
        return self._inside(node.body)

    def _do_Macro(self, node: nodes.Macro) -> None:
        self._scope.names[node.name] = self._macro(node, node.name)

    def _do_CallBlock(self, node: nodes.CallBlock) -> None:
        self._put(self._values.text(self._call(node.call, {"caller": self._macro(node, "caller")})))

    def _bind(self, target: Any, value: Any, names: dict[str, Any]) -> None:
        """target = value."""
        if isinstance(target, nodes.Name):
            names[target.name] = value
        elif isinstance(target, nodes.NSRef):
            namespace = self._named(target.name)
            if not isinstance(namespace, Namespace):
                raise TemplateRuntimeError("cannot assign attribute on non-namespace object")
            self._set(namespace, target.attr, value)
        else:
            items = self._values.items(value)
            if len(items) != len(target.items):
                raise ValueError(f"expected {len(target.items)} values to unpack, got {len(items)}")
            for part, item in zip(target.items, items, strict=True):
                self._bind(part, item, names)

    def _set(self, namespace: Namespace, name: Any, value: Any) -> None:
        if not isinstance(name, str) or name.startswith("_"):
            raise refuse("names an attribute of a namespace with an underscore first")
        if name not in namespace.values:
            self._budget.reserve_items(1, 200)
        namespace.values[name] = value

    # ---------------------------------------------------------------- functions

    def _macro(self, node: nodes.Macro | nodes.CallBlock, name: str) -> Function:
        self._budget.reserve_items(1, 1024)
        scope = self._scope
        parameters = [argument.name for argument in node.args]
        defaults = dict(zip(parameters[len(parameters) - len(node.defaults) :], node.defaults, strict=True))
        used = self._used(node)

        def call(*args: Any, **kwargs: Any) -> str:
            names = dict(zip(parameters, args, strict=False))
            inner = _Scope(names, scope)
            if len(args) > len(parameters) and "varargs" not in used:
                raise TypeError(f"macro {name!r} takes not more than {len(parameters)} argument(s)")
            if "varargs" in used:
                names["varargs"] = args[len(parameters) :]
            for parameter in parameters[len(args) :]:
                if parameter in kwargs:
                    names[parameter] = kwargs.pop(parameter)
            if "caller" in used and "caller" not in parameters:
                names["caller"] = kwargs.pop("caller") if "caller" in kwargs else self._values.undefined("caller")
            if "kwargs" in used:
                names["kwargs"] = kwargs
            elif kwargs:
                raise TypeError(f"macro {name!r} takes no keyword argument {next(iter(kwargs))[:100]!r}")
            for parameter in parameters:
                if parameter not in names:
                    default = defaults.get(parameter)
                    missing = default is None
                    names[parameter] = self._values.undefined(parameter) if missing else self._value_in(default, inner)
            return self._captured(node.body, names, scope)

        return Function(name, call)

    def _used(self, node: Any) -> set[str]:
        """Those of the names `loop`, `caller`, `varargs`, `kwargs` that the body of a node mentions."""
        used = self._uses.get(id(node))
        if used is None:
            used = self._uses[id(node)] = set()
            around = list(node.body)
            while around:
                part = around.pop()
                self._budget.work()
                if isinstance(part, nodes.Name) and part.name in _SPECIAL_NAMES:
                    used.add(part.name)
                around.extend(part.iter_child_nodes())
        return used

    def _value_in(self, node: Any, scope: _Scope) -> Any:
        outer, self._scope = self._scope, scope
        try:
            return self._value(node)
        finally:
            self._scope = outer

    def _dict(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        pairs: list[tuple[Any, Any]] = []
        for given in (*args, kwargs):
            if isinstance(given, dict):
                self._budget.reserve_items(len(given), 80)
                pairs += given.items()
            else:
                for pair in self._values.turns(given):
                    key, value = self._values.items(pair)
                    pairs.append((key, value))
        return self._values.dictionary(pairs)

    def _namespace(self, *args: Any, **kwargs: Any) -> Namespace:
        self._budget.reserve_items(1, 300)
        namespace = Namespace({})
        for name, value in self._dict(*args, **kwargs).items():
            self._set(namespace, name, value)
        return namespace

    def _joiner(self, sep: Any = ", ") -> Function:
        self._budget.reserve_items(1, 600)
        texts = iter([""])
        return Function("joiner", lambda: next(texts, sep))

    def _raise_exception(self, message: Any = "") -> NoReturn:
        reason = self._values.text(message)[:500]
        raise RefusalError(f"the chat template refuses these messages: {reason}", param="messages")

    def _call(self, node: nodes.Call, more: dict[str, Any]) -> Any:
        function = self._value(node.node)
        args, kwargs = self._arguments(node)
        if not isinstance(function, Function):
            raise TypeError(f"{type(check_defined(function)).__name__} is not callable")
        return function.call(*args, **kwargs, **more)

    def _arguments(self, node: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args = [self._value(argument) for argument in node.args]
        kwargs = {pair.key: self._value(pair.value) for pair in node.kwargs}
        if node.dyn_args is not None:
            args += self._values.items(self._value(node.dyn_args))
        if node.dyn_kwargs is not None:
            given = self._value(node.dyn_kwargs)
            if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
                raise TypeError("arguments by name are expected as a mapping from names")
            self._budget.reserve_items(len(given), 120)
            kwargs |= given
        self._budget.reserve_items(len(args) + len(kwargs), 16)
        return tuple(args), kwargs

    # ---------------------------------------------------------------- expressions

    def _value(self, node: Any) -> Any:
        self._budget.work()
        gives = _GIVES.get(type(node))
        if gives is None:
            raise refuse(f"uses a {type(node).__name__.lower()}")
        return gives(self, node)

    def _named(self, name: str) -> Any:
        scope: _Scope | None = self._scope
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.around
            self._budget.work()
        return self._values.undefined(name)

    def _of_Name(self, node: nodes.Name) -> Any:
        return self._named(node.name)

    def _of_Const(self, node: nodes.Const) -> Any:
        value = node.value
        return self._budget.made(value) if isinstance(value, int) else value

    def _of_TemplateData(self, node: nodes.TemplateData) -> str:
        return node.data

    def _of_List(self, node: nodes.List) -> list[Any]:
        self._budget.reserve_list(len(node.items), 64)
        return [self._value(item) for item in node.items]

    def _of_Tuple(self, node: nodes.Tuple) -> tuple[Any, ...]:
        self._budget.reserve_list(len(node.items), 64)
        return tuple([self._value(item) for item in node.items])

    def _of_Dict(self, node: nodes.Dict) -> dict[Any, Any]:
        return self._values.dictionary([(self._value(pair.key), self._value(pair.value)) for pair in node.items])

    def _of_Getattr(self, node: nodes.Getattr) -> Any:
        return self._values.attribute(self._value(node.node), node.attr)

    def _of_Getitem(self, node: nodes.Getitem) -> Any:
        value = self._value(node.node)
        if not isinstance(node.arg, nodes.Slice):
            return self._values.item(value, self._value(node.arg))
        ends = [None if end is None else self._value(end) for end in (node.arg.start, node.arg.stop, node.arg.step)]
        return self._values.slice(value, *ends)

    def _of_Call(self, node: nodes.Call) -> Any:
        return self._call(node, {})

    def _of_Filter(self, node: nodes.Filter) -> Any:
        value = self._block if node.node is None else self._value(node.node)
        args, kwargs = self._arguments(node)
        return apply_filter(self._values, node.name, value, args, kwargs)

    def _filtered(self, node: nodes.Filter, text: str) -> Any:
        outer, self._block = self._block, text
        try:
            return self._value(node)
        finally:
            self._block = outer

    def _of_Test(self, node: nodes.Test) -> bool:
        value = self._value(node.node)
        args, kwargs = self._arguments(node)
        return apply_test(self._values, node.name, value, args, kwargs)

    def _of_Concat(self, node: nodes.Concat) -> str:
        return self._values.concat([self._values.text(self._value(part)) for part in node.nodes])

    def _of_Compare(self, node: nodes.Compare) -> bool:
        left = self._value(node.expr)
        for operand in node.ops:
            right = self._value(operand.expr)
            if not self._values.compare(operand.op, left, right):
                return False
            left = right
        return True

    def _of_CondExpr(self, node: nodes.CondExpr) -> Any:
        if self._value(node.test):
            return self._value(node.expr1)
        return self._values.undefined("an if without else") if node.expr2 is None else self._value(node.expr2)

    def _of_And(self, node: nodes.And) -> Any:
        return self._value(node.left) and self._value(node.right)

    def _of_Or(self, node: nodes.Or) -> Any:
        return self._value(node.left) or self._value(node.right)

    def _of_Not(self, node: nodes.Not) -> bool:
        return not self._value(node.node)

    def _unary(self, node: Any) -> Any:
        return self._values.unary(node.operator, self._value(node.node))

    def _binary(self, node: Any) -> Any:
        return self._values.binary(node.operator, self._value(node.left), self._value(node.right))

    _of_Neg = _of_Pos = _unary
    _of_Add = _of_Sub = _of_Mul = _of_Div = _of_FloorDiv = _of_Mod = _of_Pow = _binary


def _table(prefix: str) -> dict[type, Callable[[Interpreter, Any], Any]]:
    members = vars(Interpreter).items()
    return {getattr(nodes, name.removeprefix(prefix)): each for name, each in members if name.startswith(prefix)}


_DOES = _table("_do_")
_GIVES = _table("_of_")
