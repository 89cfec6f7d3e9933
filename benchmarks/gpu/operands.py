"""Rows and weights on the device in the backend's own form (csrc/cuda/kernels.h, csrc/ops/ops.h), made by torch, and
the values that they stand for: what a product's kernels are held against.
"""

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.cuda.matmul_doors import CUTLASS_TILES, DTYPES, ENDS, OPERANDS, TIERS, TILES, TILES_OF, DeviceCall
from tests.cuda_host import doors

GROUP = 32  # inputs that share a scale of int4


@dataclass(frozen=True, slots=True)
class Operand:
    """`stored`: bytes or bfloat16 as kernels read them; `meant`: float32, what they stand for."""

    stored: Tensor
    meant: Tensor


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to multiply: a tile of the plain tier, or a kernel of CUTLASS."""

    tier: str = "plain"
    tile: str = "64x64"

    def __str__(self) -> str:
        return f"{self.tier} {self.tile}"


def kernels_of(compute_type: str, *, cutlass: bool) -> list[Kernel]:
    """Every kernel that multiplies rows and weights of a compute type; the first one is plain."""
    plain = [Kernel("plain", tile) for tile in TILES_OF.get(compute_type, TILES)]
    if not cutlass or compute_type not in ("bfloat16", "float8"):
        return plain
    tiles = CUTLASS_TILES if compute_type == "bfloat16" else ["64x32", "128x128"]
    fallback = [Kernel("cutlass_sm80", "128x128")] if compute_type == "bfloat16" else []
    return [*plain, *(Kernel("cutlass_sm90", tile) for tile in tiles), *fallback]


def _with_tail(stored: Tensor, tail: Tensor) -> Tensor:
    """Bytes of a matrix, then those of its scales, as one run of memory."""
    return torch.cat([stored.reshape(-1).view(torch.uint8), tail.reshape(-1).contiguous().view(torch.uint8)])


def rows_of(x: Tensor, compute_type: str) -> Operand:
    """x: (rows, inputs) float32."""
    kind = OPERANDS[compute_type][0]
    count = x.shape[1]
    if kind == "bfloat16":
        halves = x.bfloat16()
        return Operand(halves, halves.float())
    largest = x.abs().amax(-1, keepdim=True)
    if kind == "int8":
        scale = largest / 127
        whole = (x * (127 / largest)).round()
        stored = torch.full((x.shape[0], (count + 3) // 4 * 4), 77, dtype=torch.uint8, device=x.device)
        stored[:, :count] = (whole + 128).to(torch.uint8)
        meant = whole * scale
    else:
        scale = largest / 448
        eights = (x * (448 / largest)).to(torch.float8_e4m3fn)
        stored = torch.zeros((x.shape[0], (count + 15) // 16 * 16 + 12), dtype=torch.uint8, device=x.device)
        stored[:, :count] = eights.view(torch.uint8)
        meant = eights.float() * scale
    return Operand(torch.cat([stored, scale.contiguous().view(torch.uint8)], dim=1).contiguous(), meant)


def paired_order(weight: Tensor) -> Tensor:
    """Rows of two matrices, one after the other, as eights of the first and of the second in turn."""
    half = weight.shape[0] // 2
    assert half % 8 == 0
    return weight.view(2, half // 8, 8, -1).transpose(0, 1).reshape(weight.shape)


def weight_of(weight: Tensor, compute_type: str, *, paired: bool = False) -> Operand:
    """weight: (outputs, inputs) float32 with values of bfloat16, inputs a multiple of 128; `meant` keeps its order."""
    kind = OPERANDS[compute_type][1]
    order = paired_order if paired else lambda t: t
    if kind == "bfloat16":
        return Operand(order(weight.bfloat16()).contiguous(), weight)
    if kind == "int4":
        groups = weight.view(weight.shape[0], -1, GROUP)
        scale = groups.abs().amax(-1, keepdim=True) / 7
        whole = (groups / scale).round().clamp(-7, 7)
        meant = (whole * scale).bfloat16().float().view(weight.shape)
        codes = order((whole + 8).to(torch.uint8).view(weight.shape))
        return Operand(_with_tail(codes[:, ::2] | codes[:, 1::2] << 4, order(scale.squeeze(-1))), meant)
    limit = 127 if kind == "int8" else 448
    scale = weight.abs().amax(-1, keepdim=True) / limit
    if kind == "int8":
        whole = (weight / scale).round()
        return Operand(_with_tail(order(whole.to(torch.int8)), order(scale)), whole * scale)
    eights = (weight / scale).to(torch.float8_e4m3fn)
    bits = order(eights.view(torch.uint8))
    return Operand(_with_tail(bits, order(scale)), eights.float() * scale)


class Product:
    """x weight^T by a kernel of one's choice. end: store, accumulate or swiglu (of a paired weight)."""

    def __init__(
        self, compute_type: str, x: Operand, weight: Operand, end: str = "store", out: Tensor | None = None
    ) -> None:
        rows, (outputs, inputs) = x.meant.shape[0], weight.meant.shape
        self.x, self.weight = x, weight
        device = x.meant.device
        if out is None and end == "swiglu":
            out = torch.empty(rows, outputs // 2, dtype=torch.bfloat16, device=device)
        self.out = torch.empty(rows, outputs, device=device) if out is None else out
        self.sums = torch.empty(rows, outputs, device=device)
        self.call = call = DeviceCall()
        call.x, call.weight = x.stored.data_ptr(), weight.stored.data_ptr()
        call.out, call.sums = self.out.data_ptr(), self.sums.data_ptr()
        call.num_rows, call.num_outputs, call.num_inputs = rows, outputs, inputs
        call.out_cols = self.out.shape[1]
        of_rows, of_weight = OPERANDS[compute_type]
        call.rows, call.weight_type = DTYPES[of_rows], DTYPES[of_weight]
        call.out_type = DTYPES["bfloat16" if self.out.dtype == torch.bfloat16 else "float32"]
        call.end, call.paired = ENDS[end], int(end == "swiglu")

    def run(self, kernel: Kernel, stream: int = 0, *, early: bool = False) -> Tensor:
        """Launch; `stream`: a handle, 0 in the imitation. Returns the output, valid once the stream is through.

        Raises RuntimeError, after the reason has gone to stderr.
        """
        call = self.call
        call.tier, call.early_launch = TIERS.index(kernel.tier), int(early)
        if kernel.tier == "plain":
            call.tile = TILES.index(kernel.tile)
        elif kernel.tier == "cutlass_sm90":
            call.cutlass_tile = CUTLASS_TILES.index(kernel.tile)
        if doors().llada_matmul_on_device(ctypes.byref(call), ctypes.c_void_p(stream or None)) != 0:
            raise RuntimeError(f"{kernel} could not be launched")
        return self.out
