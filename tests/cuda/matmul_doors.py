"""The doors of csrc/cuda/doors.cu: one kernel of a matmul, the pass after it, the choice of a kernel."""

import ctypes
from dataclasses import dataclass

import numpy as np
import torch

from tests.cuda_host import doors
from tests.reference.quantization import pack_int4, quantize_rows, quantize_weight

DTYPES = {"float32": 0, "bfloat16": 1, "int8": 3, "int4": 4, "float8": 5}
TILES = ["32x32", "32x64", "32x128", "64x64", "128x128", "128x256"]
# Those that a compute type has.
TILES_OF = {"float32": ["64x64"], "float8": TILES[:-1]}
ENDS = {"store": 0, "accumulate": 1, "swiglu": 2}
TIERS = ["plain", "cutlass_sm80", "cutlass_sm90"]
CUTLASS_TILES = ["64x32", "64x64", "64x128", "128x128", "128x256 pairs"]

# What rows and weights are made of, by the name of a compute type.
OPERANDS = {
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "int8": ("int8", "int8"),
    "int8_bfloat16": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
    "float8": ("float8", "float8"),
}


class Call(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "weight", "scales", "row_index", "out")],
        *[(name, ctypes.c_int64) for name in ("x_bytes", "out_bytes")],
        *[(name, ctypes.c_int64) for name in ("num_rows", "num_outputs", "num_inputs", "out_cols")],
        *[(name, ctypes.c_int32) for name in ("rows", "weight_type", "out_type", "end")],
        *[(name, ctypes.c_int32) for name in ("tier", "tile", "cutlass_tile", "paired")],
    ]


class DeviceCall(ctypes.Structure):
    """The same for arrays that lie on the device already, with the weight packed."""

    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("x", "weight", "out", "sums")],
        *[(name, ctypes.c_int64) for name in ("num_rows", "num_outputs", "num_inputs", "out_cols")],
        *[(name, ctypes.c_int32) for name in ("rows", "weight_type", "out_type", "end")],
        *[(name, ctypes.c_int32) for name in ("tier", "tile", "cutlass_tile", "paired", "early_launch", "unused")],
    ]


@dataclass
class Operand:
    """`stored` as the backend reads it, `meant` the float64 values."""

    stored: np.ndarray
    meant: np.ndarray
    scales: np.ndarray | None = None


def _float8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    eights = torch.from_numpy(np.ascontiguousarray(values)).to(torch.float8_e4m3fn)
    return eights.view(torch.uint8).numpy(), eights.double().numpy()


def rows_of(x: np.ndarray, dtype: str) -> Operand:
    """x: (n, k) float32, in rows as csrc/ops/ops.h describes them; what fills a row up is as bad as it may be."""
    n, k = x.shape
    if dtype == "float32":
        return Operand(np.ascontiguousarray(x), x.astype(np.float64))
    if dtype == "bfloat16":
        padded = np.zeros((n, (k + 1) // 2 * 2), np.float32)
        padded[:, :k] = x
        halves = torch.from_numpy(padded).bfloat16()
        return Operand(halves.view(torch.int16).numpy(), halves.double().numpy()[:, :k])
    if dtype == "int8":
        q, scales = quantize_rows(x)
        stored = np.full((n, (k + 3) // 4 * 4 + 4), 77, np.uint8)
        stored[:, :k] = q.astype(np.int16) + 128
        meant = q * scales.astype(np.float64)[:, None]
    else:
        largest = np.abs(x).max(-1, initial=0).astype(np.float32)
        scales = largest / np.float32(448)
        inverse = np.where(largest > 0, np.float32(448) / np.maximum(largest, np.float32(2.0**-100)), 0)
        bits, values = _float8(x * inverse.astype(np.float32)[:, None])
        stored = np.zeros((n, (k + 15) // 16 * 16 + 16), np.uint8)
        stored[:, :k] = bits
        meant = values * scales.astype(np.float64)[:, None]
    stored[:, -4:] = scales[:, None].view(np.uint8).reshape(n, 4)
    return Operand(stored, meant)


def weight_of(weight: np.ndarray, dtype: str) -> Operand:
    """weight: (out, in) float32, values of bfloat16 where that is the type."""
    if dtype in {"float32", "bfloat16"}:
        return Operand(np.ascontiguousarray(weight), weight.astype(np.float64))
    if dtype == "float8":
        scales = (np.abs(weight).max(-1, keepdims=True) / np.float32(448)).astype(np.float32)
        bits, values = _float8(weight / scales)
        return Operand(bits, values * scales.astype(np.float64), scales)
    q, scales = quantize_weight(weight, dtype)
    if dtype == "int8":
        return Operand(q, q * scales.astype(np.float64), scales)
    wide = np.repeat(scales, 32, axis=1)[:, : q.shape[1]]
    meant = torch.from_numpy(q.astype(np.float32) * wide).bfloat16().double().numpy()
    return Operand(pack_int4(q), meant, scales)


def _address(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def call_of(
    compute_type: str, x: Operand, weight: Operand, shape: tuple[int, int, int], out: np.ndarray, **more
) -> Call:
    """shape: (rows, outputs, inputs); more: end, tier, tile, cutlass_tile, row_index."""
    rows, weights = OPERANDS[compute_type]
    end = more.get("end", "store")
    call = Call()
    call.x, call.weight, call.scales = _address(x.stored), _address(weight.stored), _address(weight.scales)
    call.row_index, call.out = _address(more.get("row_index")), _address(out)
    call.x_bytes, call.out_bytes = x.stored.nbytes, out.nbytes
    call.num_rows, call.num_outputs, call.num_inputs = shape
    call.out_cols = out.shape[1]
    call.tier = TIERS.index(more.get("tier", "plain"))
    call.cutlass_tile = CUTLASS_TILES.index(more.get("cutlass_tile", "64x32"))
    call.rows, call.weight_type, call.out_type = DTYPES[rows], DTYPES[weights], DTYPES["float32"]
    if out.dtype == np.uint16:
        call.out_type = DTYPES["bfloat16"]
    call.keep = (x, weight, out, more)  # the arrays that it points into
    call.end, call.tile, call.paired = ENDS[end], TILES.index(more.get("tile", "64x64")), int(end == "swiglu")
    return call


def run_tile(call: Call) -> None:
    assert doors().llada_matmul(ctypes.byref(call)) == 0


def finish_sums(call: Call, sums: np.ndarray) -> None:
    assert doors().llada_finish_sums(ctypes.byref(call), sums.ctypes.data_as(ctypes.c_void_p)) == 0


def pack(
    weight: Operand, compute_type: str, shape: tuple[int, int], *, paired: bool = False
) -> tuple[np.ndarray, bool]:
    """shape: (outputs, inputs). Returns the bytes on the device, and whether all was finite."""
    call = Call()
    call.weight, call.scales = _address(weight.stored), _address(weight.scales)
    call.num_outputs, call.num_inputs = shape
    call.weight_type, call.paired = DTYPES[OPERANDS[compute_type][1]], int(paired)
    doors().llada_packed_bytes.restype = ctypes.c_int64
    packed = np.full(doors().llada_packed_bytes(ctypes.byref(call)), 0xAA, np.uint8)
    finite = ctypes.c_int32()
    assert doors().llada_pack(ctypes.byref(call), packed.ctypes.data_as(ctypes.c_void_p), ctypes.byref(finite)) == 0
    return packed, finite.value == 1


@dataclass(frozen=True)
class Choice:
    tier: str
    tile: str
    cutlass_tile: str


def choose(
    rows: int,
    outputs: int,
    inputs: int,
    compute_type: str = "bfloat16",
    *,
    aligned: bool = True,
    capability: int = 90,
    processors: int = 132,
    shared_bytes: int = 227 << 10,
    cutlass: bool = False,
) -> Choice:
    of_rows, of_weight = OPERANDS[compute_type]
    shape = (ctypes.c_int64 * 6)(rows, outputs, inputs, DTYPES[of_rows], DTYPES[of_weight], aligned)
    device = (ctypes.c_int64 * 4)(capability, processors, shared_bytes, cutlass)
    choice = (ctypes.c_int32 * 3)()
    doors().llada_choose_matmul(shape, device, choice)
    return Choice(TIERS[choice[0]], TILES[choice[1]], CUTLASS_TILES[choice[2]])
