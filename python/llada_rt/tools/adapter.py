"""LoRA adapters as PEFT writes them (adapter_config.json, adapter_model.safetensors): what is added to which matrix.

Only plain LoRA is taken: W + scale * B A, with scale = alpha / r, or alpha / sqrt(r) where `use_rslora` says so. An
adapter that asks for more (DoRA, other methods, trained biases, whole modules) is refused by the name of the method.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from ..excerpt import excerpt, excerpt_of
from ..folder.checkpoint import StoredTensor, read_file_tensors
from ..folder.model_files import ADAPTER_CONFIG, check_exists, read_json, resolve_file

MOST_ALPHA = 1e9
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before the name that a matrix has in its model

# Keys of adapter_config.json that say nothing of what is added to which tensor: the names of the tensors say that.
_HARMLESS = (
    *("peft_type", "r", "lora_alpha", "use_rslora", "bias", "base_model_name_or_path", "revision", "inference_mode"),
    *("auto_mapping", "task_type", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("lora_dropout", "peft_version", "init_lora_weights", "eva_config", "corda_config", "loftq_config"),
    *("lora_ga_config", "megatron_core", "qalora_group_size", "runtime_config"),
)
# Ways to begin that change the base's own weights: the adapter does not fit the base as it was published.
_CHANGING_STARTS = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True, slots=True)
class Delta:
    """What is added to a matrix: scale * b a."""

    a: NDArray[np.float32]  # (r, columns)
    b: NDArray[np.float32]  # (rows, r)
    scale: float

    def rows(self, begin: int, end: int) -> NDArray[np.float32]:
        """Those rows of it."""
        product: NDArray[np.float32] = (self.b[begin:end] @ self.a) * np.float32(self.scale)
        return product


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's folder, its settings checked."""

    folder: Path
    rank: int
    scale: float

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Raises ModelError for a folder that holds no plain LoRA adapter."""
        if not (folder / ADAPTER_CONFIG).is_file():
            check_exists(folder)
            raise ModelNotFoundError(
                f"expected a LoRA adapter beside its base, got a folder without {ADAPTER_CONFIG}: {folder}",
                param="base",
            )
        settings = read_json(folder, ADAPTER_CONFIG)
        _check_plain(settings)
        rank, alpha = settings.get("r"), settings.get("lora_alpha")
        if type(rank) is not int or not 1 <= rank <= 1 << 20:
            raise ModelFormatError(f"{ADAPTER_CONFIG}: r: expected a positive integer, got {excerpt_of(rank)}")
        # The bounds keep a NaN out too.
        if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not -MOST_ALPHA <= alpha <= MOST_ALPHA:
            raise ModelFormatError(f"{ADAPTER_CONFIG}: lora_alpha: expected a number, got {excerpt_of(alpha)}")
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        if resolve_file(folder, WEIGHTS_FILE) is None:
            raise ModelNotFoundError(f"expected the file {WEIGHTS_FILE} in {folder}", param="model_dir")
        return cls(folder, rank, scale)

    def deltas(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Delta]:
        """What it adds, by the names of the model's tensors. `shapes`: of these."""
        halves: dict[str, dict[str, StoredTensor]] = {}
        for name, tensor in read_file_tensors(self.folder, WEIGHTS_FILE).items():
            match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])(?:\.default)?\.weight", name)
            if match is None:
                raise UnsupportedModelError(
                    f"{WEIGHTS_FILE}: {excerpt(name)}: expected lora_A or lora_B of a matrix, as plain LoRA has"
                )
            pair = halves.setdefault(_target(match[1], shapes), {})
            if match[2] in pair:
                raise ModelFormatError(
                    f"{WEIGHTS_FILE}: {excerpt(name)}: expected one lora_{match[2]} of the matrix, got another before"
                )
            pair[match[2]] = tensor
        if not halves:
            raise ModelFormatError(f"{WEIGHTS_FILE}: expected matrices of an adapter, got none")
        return {name: self._delta(name, pair, shapes[name]) for name, pair in halves.items()}

    def _delta(self, name: str, halves: Mapping[str, StoredTensor], shape: tuple[int, ...]) -> Delta:
        wanted = {"A": (self.rank, shape[-1]), "B": (shape[0], self.rank)}
        arrays = {}
        for half, size in wanted.items():
            if half not in halves:
                raise ModelFormatError(f"{WEIGHTS_FILE}: {name}: lora_{half}: expected, but missing")
            got = halves[half].spec.shape
            if len(shape) != 2 or got != size:
                raise ModelFormatError(f"{WEIGHTS_FILE}: {name}: lora_{half}: expected shape {size}, got {got}")
            arrays[half] = np.concatenate(list(halves[half].float_blocks()))
        return Delta(arrays["A"], arrays["B"], self.scale)


def _check_plain(settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(f"{ADAPTER_CONFIG}: peft_type: expected LORA, got {excerpt_of(kind)}")
    if settings.get("bias") not in (None, "none"):
        raise UnsupportedModelError(f"{ADAPTER_CONFIG}: bias: expected none, got {excerpt_of(settings['bias'])}")
    if not isinstance(settings.get("use_rslora", False), (bool, type(None))):
        raise ModelFormatError(f"{ADAPTER_CONFIG}: use_rslora: expected true or false")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGING_STARTS):
        raise UnsupportedModelError(
            f"{ADAPTER_CONFIG}: init_lora_weights: expected an adapter to the base as it is, got {excerpt(start)}, "
            "which changes the base's weights too",
            hint="PEFT's path_initial_model_for_weight_conversion saves such an adapter as a plain one",
        )
    for key, value in settings.items():
        if key not in _HARMLESS and value:  # nothing, false, 0 and empty ask for nothing
            raise UnsupportedModelError(
                f"{ADAPTER_CONFIG}: {excerpt(key)}: expected nothing, as plain LoRA has, got {excerpt_of(value)}"
            )


def _target(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The model's tensor of a module that an adapter names; this project's own training leaves `model.` out."""
    for candidate in (f"{name}.weight", f"model.{name}.weight"):
        if candidate in shapes:
            return candidate
    raise ModelFormatError(f"{WEIGHTS_FILE}: {excerpt(name)}: not a matrix of the base model")
