"""Quantised weights and rows, and their integer products: the rule of csrc/model/quantization.h in numpy.

Unlike the other twins this one is exact: integers are equal, and scales are float32 of one division.
"""

import numpy as np

GROUP = 32  # columns of a row that share a scale of int4
LIMIT = {"int8": 127, "int4": 7}


def quantize_groups(groups: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """groups: (..., n) float32. Returns integers like it, and scales (...)."""
    scales = np.abs(groups).max(-1, initial=0) / np.float32(limit)
    scales[scales == 0] = 1
    q = np.rint(groups / scales[..., None])
    return np.clip(q, -limit, limit).astype(np.int8), scales.astype(np.float32)


def quantize_weight(weight: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """weight: (out, in). Returns integers (out, in) and scales: int8 (out, 1), int4 (out, in / 32 rounded up)."""
    weight = np.asarray(weight, np.float32)
    num_out, num_in = weight.shape
    if dtype == "int8":
        q, scales = quantize_groups(weight, LIMIT[dtype])
        return q, scales[:, None]
    padded = np.zeros((num_out, -(-num_in // GROUP) * GROUP), np.float32)
    padded[:, :num_in] = weight
    q, scales = quantize_groups(padded.reshape(num_out, -1, GROUP), LIMIT[dtype])
    return q.reshape(num_out, -1)[:, :num_in], scales


def pack_int4(q: np.ndarray) -> np.ndarray:
    """q: (out, in), -7 to 7. Returns bytes (out, in / 2 rounded up): q + 8, the even column in the low half."""
    padded = np.zeros((q.shape[0], (q.shape[1] + 1) // 2 * 2), np.uint8)
    padded[:, : q.shape[1]] = q + 8
    padded[:, q.shape[1] :] = 8
    return padded[:, ::2] | padded[:, 1::2] << 4


def dequantize(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 (out, in); of int4 one product before it is rounded to bfloat16."""
    wide = np.repeat(scales, GROUP if scales.shape[1] > 1 else q.shape[1], axis=1)[:, : q.shape[1]]
    return q.astype(np.float32) * wide


def quantize_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x: (n, k) float32. Returns int8 like it and scales (n,), as ops.h defines int8 rows."""
    x = np.asarray(x, np.float32)
    largest = np.abs(x).max(-1, initial=0)
    usable = largest >= np.float32(2.0**-100)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(usable, np.float32(127) / largest, 0).astype(np.float32)
    scales = np.where(usable, largest / np.float32(127), 0).astype(np.float32)
    return np.rint(x * inverse[:, None]).astype(np.int8), scales


def matmul_int8(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Rows and weights quantised, exact integer sums, then float32 scales: (n, out)."""
    rows, row_scales = quantize_rows(x)
    q, scales = quantize_weight(weight, "int8")
    exact = rows.astype(np.int64) @ q.astype(np.int64).T
    return exact.astype(np.float32) * (row_scales[:, None] * scales[:, 0])
