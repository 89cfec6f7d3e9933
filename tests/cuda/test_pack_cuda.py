"""Weights in the order of csrc/cuda/kernels.h, byte by byte."""

import numpy as np
import pytest
import torch

from tests.cuda.matmul_doors import OPERANDS, Operand, pack, weight_of

COMPUTE_TYPES = ["float32", "bfloat16", "int8", "int4", "float8"]  # one for each type of weight


def row_bytes(weight: Operand, dtype: str) -> np.ndarray:
    """(outputs, bytes) as stored, each row filled up with zeros to a multiple of 16 bytes."""
    stored = weight.stored
    if dtype == "bfloat16":
        stored = torch.from_numpy(stored).bfloat16().view(torch.int16).numpy()
    values = np.ascontiguousarray(stored).view(np.uint8).reshape(len(stored), -1)
    return np.pad(values, ((0, 0), (0, -values.shape[1] % 16)))


def pairs(outputs: int) -> list[int]:
    """Stored rows in packed order: eight of the first half, eight of the second; -1 fills up."""
    half = outputs // 2
    order = []
    for begin in range(0, half, 8):
        eight = [row if row < half else -1 for row in range(begin, begin + 8)]
        order += eight + [row + half if row >= 0 else -1 for row in eight]
    return order


def in_order(rows: np.ndarray, order: list[int]) -> np.ndarray:
    return np.stack([rows[row] if row >= 0 else np.zeros_like(rows[0]) for row in order])


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("compute_type", COMPUTE_TYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(2, 1), (14, 33), (16, 64), (66, 257)])
def test_layout(compute_type, outputs, inputs, paired):
    rng = np.random.default_rng(inputs)
    dtype = OPERANDS[compute_type][1]
    weight = weight_of(rng.standard_normal((outputs, inputs)).astype(np.float32), dtype)
    packed, finite = pack(weight, compute_type, (outputs, inputs), paired=paired)
    order = pairs(outputs) if paired else list(range(outputs))
    want = in_order(row_bytes(weight, dtype), order).ravel()
    if weight.scales is not None:
        scales = weight.scales if dtype != "int4" else np.pad(weight.scales, ((0, 0), (0, -weight.scales.shape[1] % 4)))
        want = np.concatenate([want, in_order(scales, order).ravel().view(np.uint8)])
    assert finite
    assert np.array_equal(packed, want)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("compute_type", ["float32", "bfloat16"])
@pytest.mark.parametrize("at", [(0, 0), (3, 40), (8, 16)])
def test_what_is_not_finite_is_told(compute_type, bad, at):
    weight = np.ones((9, 41), np.float32)
    weight[at] = bad
    assert not pack(Operand(weight, weight), compute_type, (9, 41))[1]


def test_what_rounds_to_infinity_is_told():
    weight = np.full((1, 8), np.finfo(np.float32).max)
    assert not pack(Operand(weight, weight), "bfloat16", (1, 8))[1]
    assert pack(Operand(weight, weight), "float32", (1, 8))[1]


def test_a_weight_of_several_pieces():
    """More than is sent at once, and not a whole number of it."""
    weight = weight_of(np.random.default_rng(0).standard_normal((2100, 4096)).astype(np.float32), "bfloat16")
    packed, finite = pack(weight, "bfloat16", (2100, 4096))
    assert finite
    assert np.array_equal(packed, row_bytes(weight, "bfloat16").ravel())
