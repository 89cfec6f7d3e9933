"""Configuration: frozen dataclasses, read from a recipe (TOML) and overridden on the command line.

A field is written once, with its default, and the comment behind it is its help: `python -m training.pretrain --help`.
Names that do not exist are refused with the nearest one that does.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How a run trains. Token counts are those of the global batch, whatever the number of ranks."""

    seed: int  # of weights, order and noise
    steps: int  # updates in the whole schedule
    lr: float  # peak of AdamW: embedding, head and norms; everything if the matrices have no optimiser of their own
    matrix_lr: float | None = None  # peak of Muon, for the matrices of the blocks; none: AdamW for all
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    weight_decay: float = 0.0  # of matrices and embedding, relative to the learning rate; never of norms
    schedule: Literal["wsd", "wsd_llada", "cosine"] = "wsd"  # learning rate over the steps: see optim.py
    warmup_steps: int = 50  # linear, from zero
    decay_share: float = 0.3  # of the steps, at the end: linear decay (wsd: to zero; wsd_llada: to `final`)
    drop_at: float = 0.52  # share of the steps after which wsd_llada drops
    drop: float = 0.25  # of the peak, after the drop of wsd_llada
    final: float = 0.0  # of the peak, at the end of wsd_llada and cosine
    clip: float = 1.0  # largest norm of the gradient of all parameters together; 0: no clipping
    normalisation: Literal["tokens", "answers"] | None = None  # each token or each row counts the same; none: by stage
    counted_masks: bool = True  # exactly l hidden tokens a row; false: each token by itself, as LLaDA publishes it
    ema: float = 0.0  # decay of the averaged weights that are exported; 0: no averaging
    bf16: bool = True  # autocast; parameters stay float32
    micro_tokens: int | None = None  # tokens of a forward pass on one rank; the rest accumulates; none: all at once
    activation_checkpointing: bool = False  # keep only each block's input and compute the rest again: less memory
    compile: bool = False  # torch.compile of each block: minutes at the start, worth it on a GPU
    log_every: int = 25  # steps between records of metrics.jsonl
    checkpoint_every: int = 500  # steps between checkpoints
    keep_last: int = 2  # complete checkpoints that are kept
    sample_every: int = 0  # steps between sample texts, held-out losses and curves.png; 0: only at the end

    def __post_init__(self) -> None:
        at_least = {
            "steps": 1,
            "log_every": 1,
            "checkpoint_every": 1,
            "keep_last": 1,
            "warmup_steps": 0,
            "sample_every": 0,
        }
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")
        if self.micro_tokens is not None and self.micro_tokens < 1:
            raise ValueError(f"micro_tokens: expected at least 1 or none, got {self.micro_tokens}")
        for name in ("lr", "matrix_lr", "clip", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"{name}: expected a number from 0, got {value}")
        for name in ("decay_share", "drop_at", "drop", "final", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0..1, got {getattr(self, name)}")


def nearest(name: str, known: Sequence[str]) -> str:
    """`, did you mean 'x'?` or the known names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"expected one of {sorted(known)}"


def make(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """A dataclass out of a TOML table. Errors begin with `where` and say what was expected and what came."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: expected a table, got {table!r}")
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for name, value in table.items():
        if name not in known:
            raise ValueError(f"{where}: unknown field {name!r}, {nearest(name, known)}")
        is_table = any(dataclasses.is_dataclass(kind) for kind in (hints[name], *typing.get_args(hints[name])))
        values[name] = _convert(hints[name], value, f"{where}: " + (f"[{name}]" if is_table else name))
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"{where}: expected the fields {missing}, which are missing")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint` asks for; integers pass as floats, lists as tuples, nothing else changes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return make(hint, value, where)
    if origin in (Union, types.UnionType):
        errors = []
        for choice in arguments:
            try:
                return _convert(choice, value, where)
            except ValueError as error:
                errors.append(error)
        raise errors[0]
    if origin is Literal:
        if value in arguments:
            return value
        raise ValueError(f"{where}: expected one of {list(arguments)}, got {value!r}")
    if hint is float and type(value) is int:
        return float(value)
    if hint in (int, float, bool, str):
        if type(value) is not hint:
            raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")
        return value
    if hint is Path:
        return Path(_convert(str, value, where))
    if hint is type(None):
        if value is not None:
            raise ValueError(f"{where}: expected nothing, got {value!r}")
        return None
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a table, got {value!r}")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where}: expected a list, got {value!r}")
        if origin is tuple and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise ValueError(f"{where}: expected {len(arguments)} values, got {value!r}")
            return tuple(_convert(a, item, where) for a, item in zip(arguments, value, strict=True))
        return tuple(_convert(arguments[0], item, where) for item in value)
    raise TypeError(f"{where}: fields of type {hint} are not read from TOML")


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such recipe") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def to_toml(config: Any) -> str:
    """The resolved configuration as TOML that `make` reads back. Fields without a value are left out."""
    lines: list[str] = []
    _write_table(dataclasses.asdict(config), (), lines)
    return "\n".join(lines).strip() + "\n"


def _write_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    if path:
        lines += ["", f"[{'.'.join(path)}]"]
    nested = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines += [f"{key} = {_toml(value)}" for key, value in table.items() if key not in nested and value is not None]
    for key, value in nested.items():
        _write_table(value, (*path, key), lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # A TOML basic string has the escapes of a JSON string.
    import json

    return json.dumps(str(value), ensure_ascii=False)
