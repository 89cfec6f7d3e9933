"""Weights as integers and scales: rounded to nearest, symmetric, without calibration.

The bytes are those that the engine makes of a float checkpoint in memory (csrc/model/quantization.h). int8 has one
scale per output channel. int4 has one per 32 inputs of a channel, and two weights to a byte.
Source of the scheme: absolute-maximum quantisation as in LLM.int8() (Dettmers et al. 2022) without its outlier split,
and group scales as in llama.cpp's Q4_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedModelError
from ..excerpt import excerpt_of
from .checkpoint import TensorSpec

GROUP_SIZE = {"int8": 0, "int4": 32}  # inputs that share a scale; 0: all of a row
METHOD, VERSION = "llada_rt", 1
SCALES = ".scales"  # what follows the name of a tensor in that of its scales
EMBEDDING = "model.transformer.wte.weight"


def is_quantized_tensor(name: str, shape: tuple[int, ...]) -> bool:
    """Every matrix that takes part in a product; the embedding is looked up, not multiplied."""
    return len(shape) == 2 and name != EMBEDDING


def record(compute_type: str) -> dict[str, Any]:
    """What config.json says under "quantization"."""
    group_size = GROUP_SIZE[compute_type]
    return {"method": METHOD, "compute_type": compute_type, "group_size": group_size, "version": VERSION}


def stored_type(config: Mapping[str, Any]) -> str | None:
    """The compute type that a config.json says its weights are quantised to; None: they are floats.

    Raises UnsupportedModelError for a record that this version does not know.
    """
    found = config.get("quantization")
    if found is None:
        return None
    for compute_type in GROUP_SIZE:
        if found == record(compute_type):
            return compute_type
    raise UnsupportedModelError(
        f"config.json: quantization: expected {record('int8')} or {record('int4')}, got {excerpt_of(found)}"
    )


def specs(name: str, shape: tuple[int, ...], compute_type: str) -> tuple[TensorSpec, TensorSpec]:
    """What a folder holds for a quantised matrix (out, in): the integers and their scales."""
    rows, cols = shape
    if compute_type == "int8":
        return TensorSpec(name, "I8", shape), TensorSpec(name + SCALES, "F32", (rows,))
    groups = -(-cols // GROUP_SIZE[compute_type])
    return TensorSpec(name, "U8", (rows, -(-cols // 2))), TensorSpec(name + SCALES, "F32", (rows, groups))


def quantize_int8(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(out, in) finite weights -> integers from -127 to 127 (out, in), scales (out)."""
    scales = _scales(weight, 127)
    return np.clip(np.rint(weight / scales), -127, 127).astype(np.int8), scales[:, 0]


def quantize_int4(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(out, in) finite weights -> (out, ceil(in / 2)) bytes, scales (out, ceil(in / 32)).

    The low half of a byte is the even column, the high half the odd one; each is the integer, -7 to 7, plus 8.
    """
    rows, cols = weight.shape
    group = GROUP_SIZE["int4"]
    groups = np.zeros((rows, -(-cols // group), group), np.float32)
    groups.reshape(rows, -1)[:, :cols] = weight
    scales = _scales(groups, 7)
    integers = np.clip(np.rint(groups / scales), -7, 7).astype(np.int8).reshape(rows, -1)[:, : cols + cols % 2]
    halves = (integers + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = halves[:, ::2] | halves[:, 1::2] << np.uint8(4)
    return packed, scales[..., 0]


def dequantize_int8(integers: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weights that the integers stand for: (out, in)."""
    return integers.astype(np.float32) * scales[:, None]


def dequantize_int4(packed: NDArray[np.uint8], scales: NDArray[np.float32], cols: int) -> NDArray[np.float32]:
    """The weights (out, cols), before the engine rounds them to bfloat16."""
    halves = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)[:, :cols]
    spread = np.repeat(scales, GROUP_SIZE["int4"], -1)[:, :cols]
    return (halves.astype(np.float32) - 8) * spread


def _scales(values: NDArray[np.float32], largest: int) -> NDArray[np.float32]:
    """max|values| / largest over the last axis, which stays as one; 1 where that is 0."""
    scales: NDArray[np.float32] = np.abs(values).max(-1, keepdims=True) / np.float32(largest)
    scales[scales == 0] = 1
    return scales
