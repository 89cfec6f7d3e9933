"""EngineConfig: what an engine is made of. Frozen and checked on construction."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, get_args

from .errors import ConfigError
from .excerpt import excerpt_of
from .options.docstrings import with_options
from .options.renamed import by_new_names, warn_renamed

Kind = TypeVar("Kind")
ComputeType = Literal["auto", "float32", "bfloat16", "int8", "int8_bfloat16", "int4", "float8"]

# What the matrices of a model folder can be stored as.
StoredType = Literal["float32", "bfloat16", "int8", "int4"]

# The model that comes with the package.
DEMO_DIR = Path(__file__).parent / "demo"


def _option(default: Any, text: str, *, is_size: bool = False) -> Any:
    return field(default=default, metadata={"help": text, "is_size": is_size})


def _takes_old_names(kind: type[Kind]) -> type[Kind]:
    """A dataclass whose constructor takes the old names of its fields too."""
    made = kind.__init__

    @functools.wraps(made)
    def init(self: Kind, *values: Any, **options: Any) -> None:
        made(self, *values, **by_new_names(options))

    kind.__init__ = init  # type: ignore[assignment, method-assign]
    return kind


@_takes_old_names
@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Options of an Engine, checked when they are given. Frozen.

    Args:
        model_dir: Folder in the published Hugging Face layout. An Engine without one takes the demo model.

    Raises:
        ConfigError: A value is none of those that the option may have.
    """

    model_dir: Path
    device: str = _option("auto", "cpu, cuda, or cuda:1 for the second GPU; by default a GPU if there is one.")
    compute_type: ComputeType = _option("auto", "Arithmetic; by default the checkpoint's own.")  # noqa: RUF009
    threads: int | None = _option(
        None,
        "Threads; by default LLADA_THREADS, else OMP_NUM_THREADS, else what affinity and the container's quota allow.",
    )
    cpu_isa: str | None = _option(
        None, "Instruction set of the CPU kernels: avx2, avx512, ...; by default the best of this machine."
    )
    max_num_seqs: int = _option(8, "Requests that run together.")
    max_num_batched_tokens: int = _option(4096, "Positions recomputed in one step, over all requests.")
    max_num_queued_reqs: int = _option(256, "Requests that may wait, a sample each; one more is refused.")
    memory_limit: int | None = _option(
        None,
        "For weights, work, keys and values together: bytes, or 8GB, 500MiB; by default nine tenths of what there is.",
        is_size=True,
    )
    stream: Any = _option(None, "CUDA stream of the caller for all work: of cuda.core, torch, cupy, or its handle.")  # noqa: RUF009
    mask_token_id: int | None = _option(None, "Mask token, where the model folder does not name it.")
    eos_token_id: int | tuple[int, ...] | None = _option(
        None, "End-of-text token, or several, in place of those that the model folder names."
    )
    eot_token_id: int | tuple[int, ...] | None = _option(
        None, "End-of-turn token, or several, in place of those that the model folder names."
    )

    def __post_init__(self) -> None:
        if not isinstance(self.model_dir, (str, os.PathLike)) or not str(self.model_dir):
            raise ConfigError(
                f"model_dir: expected the path of a folder, got {excerpt_of(self.model_dir)}", param="model_dir"
            )
        object.__setattr__(self, "model_dir", Path(self.model_dir))
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", self.device):
            raise ConfigError(
                f"device: expected auto, cpu, cuda, cuda:0, cuda:1, ..., got {excerpt_of(self.device)}", param="device"
            )
        _check_choice("compute_type", self.compute_type, get_args(ComputeType))
        if self.cpu_isa is not None and not isinstance(self.cpu_isa, str):
            raise ConfigError(f"cpu_isa: expected a name or None, got {excerpt_of(self.cpu_isa)}", param="cpu_isa")
        _check_integer("threads", self.threads, 1, 1024, optional=True)
        _check_integer("max_num_seqs", self.max_num_seqs, 1, 65536)
        _check_integer("max_num_batched_tokens", self.max_num_batched_tokens, 1, 2**31 - 1)
        _check_integer("max_num_queued_reqs", self.max_num_queued_reqs, 1, 2**31 - 1)
        if isinstance(self.memory_limit, str):
            object.__setattr__(self, "memory_limit", parse_size("memory_limit", self.memory_limit))
        _check_integer("memory_limit", self.memory_limit, 1, 2**62, optional=True)
        _check_integer("mask_token_id", self.mask_token_id, 0, 2**31 - 1, optional=True)
        for name in ("eos_token_id", "eot_token_id"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, name, tuple(value) or None)
                for each in value:
                    _check_integer(name, each, 0, 2**31 - 1)
            else:
                _check_integer(name, value, 0, 2**31 - 1, optional=True)

    @property
    def table(self) -> str | None:
        """The old name of `cpu_isa`, for one version."""
        warn_renamed("table", "cpu_isa")
        return self.cpu_isa


class EngineOptions(TypedDict, total=False):
    """What Engine takes by name, as type checkers and editors see it; a test holds the names equal to the fields."""

    device: str
    compute_type: ComputeType
    threads: int | None
    cpu_isa: str | None
    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_queued_reqs: int
    memory_limit: int | str | None
    stream: Any
    mask_token_id: int | None
    eos_token_id: int | Sequence[int] | None
    eot_token_id: int | Sequence[int] | None
    table: str | None  # the old name of cpu_isa


ENGINE_FIELDS = {spec.name: spec for spec in fields(EngineConfig) if spec.name != "model_dir"}
EngineConfig.__doc__ = with_options(EngineConfig.__doc__, EngineConfig)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"{name}: expected one of {', '.join(choices)}, got {excerpt_of(value)}", param=name)


def _check_integer(name: str, value: object, low: int, high: int, *, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{name}: expected an integer from {low} to {high}, got {excerpt_of(value)}", param=name)


def parse_size(name: str, text: str) -> int:
    """ "500MB" -> 500,000,000, as in the names of published shards; "500MiB" -> 524,288,000."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,3})?)\s*(?:([KMGT])(i?))?B?", text.strip(), re.IGNORECASE | re.ASCII)
    size = 0
    if match is not None:
        power = " KMGT".index((match[2] or " ").upper())
        size = int(Decimal(match[1]) * (1024 if match[3] else 1000) ** power)
    if not 1 <= size <= 2**62:
        raise ConfigError(
            f"{name}: expected bytes or a size like 2GB or 500MiB, got {excerpt_of(text, 40)}", param=name
        )
    return size
