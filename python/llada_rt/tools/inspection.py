"""inspect: what is in a model folder by its headers, what the model would need in memory, and what is wrong."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import LladaRtError
from ..excerpt import excerpt
from ..folder import quantize
from ..folder.checkpoint import FLOATS, StoredTensor, TensorSpec, read_checkpoint
from ..folder.model_files import MANIFEST, of_os_error, read_json, read_manifest, size_fault, unknown_keys_text
from ..runtime.footprint import Footprint, Load, footprint_of, runnable_types
from ..runtime.runner import ModelDescription, describe_model

MOST_LISTED = 100  # kinds of tensors, problems: a header may make up a hundred thousand
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(slots=True)
class TensorKind:
    """Tensors that differ in their layer only."""

    count: int = 0
    shape: tuple[int, ...] = ()  # of the first one
    dtypes: set[str] = field(default_factory=set)
    num_elements: int = 0
    num_bytes: int = 0

    def add(self, spec: TensorSpec) -> None:
        self.count += 1
        self.shape = self.shape or spec.shape
        self.dtypes.add(spec.dtype)
        self.num_elements += spec.num_elements
        self.num_bytes += spec.num_bytes

    def to_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "shape": list(self.shape),
            "dtypes": sorted(self.dtypes),
            "elements": self.num_elements,
            "bytes": self.num_bytes,
        }


def inspect_model(model_dir: str | os.PathLike[str], load: Load) -> dict[str, Any]:
    """Facts of a folder as plain JSON values; "problems" lists what would keep it from loading, or surprise.

    `load`: for which requests the memory is counted. A folder without a readable config.json raises ModelError.
    """
    folder = Path(model_dir)
    try:
        return _inspect(folder, load)
    except OSError as error:
        if isinstance(error, LladaRtError):
            raise
        raise of_os_error(str(folder), error) from error


def _inspect(folder: Path, load: Load) -> dict[str, Any]:
    description = describe_model(folder)
    config = read_json(folder, "config.json")
    problems: list[str] = []
    tensors: dict[str, StoredTensor] = {}
    try:
        tensors = read_checkpoint(folder)
    except LladaRtError as error:
        problems.append(str(error))
    plans: list[Footprint] = []
    try:
        type_in_file = quantize.stored_type(config)
        plans = [footprint_of(folder, load, compute_type=each, process_bytes=0) for each in runnable_types(folder)]
        if tensors:
            problems += layout_faults(description, tensors, type_in_file)
    except LladaRtError as error:
        problems.append(str(error))
    problems += _folder_faults(folder, config, description)
    kinds: dict[str, TensorKind] = {}
    for tensor in tensors.values():
        kind = excerpt(kind_of(tensor.spec.name))
        kinds.setdefault(kind if kind in kinds or len(kinds) < MOST_LISTED else "...", TensorKind()).add(tensor.spec)
    if len(problems) > MOST_LISTED:
        problems[MOST_LISTED:] = [f"... and {len(problems) - MOST_LISTED} more"]
    return {
        "model_dir": str(folder),
        "architecture": config.get("model_type"),
        "model": description.model,
        "quantization": config.get("quantization"),
        "num_parameters": sum(math.prod(shape) for shape in description.tensors.values()),
        "file_bytes": {excerpt(path.name): path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        "tensors": {kind: each.to_dict() for kind, each in kinds.items()},
        "tensor_bytes": sum(kind.num_bytes for kind in kinds.values()),
        "memory": {
            plan.compute_type: {"kv_bytes_per_token": plan.kv_bytes_per_token, **plan.to_dict()} for plan in plans
        },
        "problems": problems,
    }


def kind_of(name: str) -> str:
    """model.transformer.blocks.3.q_proj.weight -> blocks.*.q_proj.weight"""
    return re.sub(r"\.\d+\.", ".*.", name).removeprefix("model.transformer.")


def layout_faults(
    description: ModelDescription, tensors: Mapping[str, StoredTensor], type_in_file: str | None
) -> list[str]:
    """Where the tensors of the files differ from those that config.json calls for."""
    wanted = {spec.name: spec for spec in wanted_tensors(description, type_in_file)}
    faults = [f"{name}: expected, but missing" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        spec, want = tensor.spec, wanted.get(name)
        if want is None:
            faults.append(f"{excerpt(name)}: not a tensor of this layout")
        elif spec.shape != want.shape:
            faults.append(f"{name}: expected shape {want.shape}, got {spec.shape}")
        elif spec.dtype != want.dtype and not (want.dtype in FLOATS and spec.dtype in FLOATS):
            faults.append(f"{name}: expected {want.dtype}, got {spec.dtype}")
    return faults


def wanted_tensors(description: ModelDescription, type_in_file: str | None) -> list[TensorSpec]:
    """The tensors of a folder; any float type may stand in for BF16."""
    specs: list[TensorSpec] = []
    for name, shape in description.tensors.items():
        if type_in_file in quantize.GROUP_SIZE and quantize.is_quantized_tensor(name, shape):
            specs += quantize.specs(name, shape, type_in_file)
        else:
            specs.append(TensorSpec(name, "BF16", shape))
    return specs


def _folder_faults(folder: Path, config: Mapping[str, Any], description: ModelDescription) -> list[str]:
    unknown = unknown_keys_text(description.model)
    faults = [unknown] if unknown else []
    try:
        for name, record in (read_manifest(folder) or {}).items():
            fault = size_fault(folder, name, record)
            faults += [fault] if fault else []
    except LladaRtError as error:
        faults.append(str(error))
    if config.get("quantization") is not None and not (folder / MANIFEST).exists():
        faults.append(f"{MANIFEST}: missing: a folder cut short would not be noticed")
    if description.model["mask_token_id"] is None:
        faults.append("config.json: mask_token_id: missing: an engine must be told, or find it in the tokenizer")
    if not (folder / "tokenizer.json").exists():
        faults.append("tokenizer.json: missing: prompts can only be token ids")
    faults += [
        f"{excerpt(path.name)}: a pickle, which can run code: never opened"
        for path in sorted(folder.iterdir())
        if path.suffix in PICKLES
    ]
    return faults
