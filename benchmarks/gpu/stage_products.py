"""Proof of the products: every kernel that multiplies, forced, at the weight shapes of LLaDA-8B, against torch in
float32 with TF32 off; equal bits where they are promised.

Promised: all kernels of bfloat16 give a row the same bits, alone and in any batch; in the other types all tiles of the
plain tier, and all of CUTLASS's.
"""

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.operands import Kernel, Operand, Product, kernels_of, rows_of, weight_of

ROWS = (1, 32, 33, 64, 128, 512)
FEW_ROWS = (33, 128)  # of what is not bfloat16 or float8
SMALL_ROWS = (1, 33)


def weights_of(flight: Flight) -> dict[str, tuple[int, int, str]]:
    """Name -> outputs, inputs, what becomes of the sums."""
    config = flight.shape.config
    d, hidden = config.d_model, config.mlp_hidden_size
    if flight.small:
        return {"kv": (96, d, "store"), "gate_up": (64, d, "swiglu"), "down": (40, 128, "accumulate")}
    return {
        "kv": (2 * d, d, "store"),
        "query": (d, d, "store"),
        "attn_out": (d, d, "accumulate"),
        "gate_up": (2 * hidden, d, "swiglu"),
        "down": (d, hidden, "accumulate"),
    }


# Shares of the sum of absolute terms. Sums of tensor cores are cut, not rounded, after each 16 inputs; those of float8
# on sm_90 keep 12 bits behind the point of the largest until they are added to float32, every 128 inputs.
FLOAT8_SUMS = 2.0**-12


def expected(x: Operand, weight: Operand, end: str, before: Tensor, *, float8: bool) -> tuple[Tensor, Tensor]:
    """In float32, and what its error may be."""
    sums = x.meant @ weight.meant.T
    terms = x.meant.abs() @ weight.meant.abs().T
    allowed = terms * (FLOAT8_SUMS if float8 else 2.0**-23 * max(8, weight.meant.shape[1] / 16))
    if end == "accumulate":
        return before + sums, allowed + before.abs() * 2.0**-22
    if end == "swiglu":
        gate, up = sums.chunk(2, dim=1)
        of_gate, of_up = allowed.chunk(2, dim=1)
        want = F.silu(gate) * up
        return want, want.abs() * 2.0**-8 + of_gate * up.abs() * 1.1 + of_up * gate.abs() + 1e-30
    return sums, allowed


class Case:
    """One weight of one compute type, and the rows that meet it."""

    def __init__(self, flight: Flight, compute_type: str, name: str, most_rows: int) -> None:
        self.flight, self.compute_type, self.name = flight, compute_type, name
        outputs, inputs, self.end = weights_of(flight)[name]
        draw = flight.normals(len(name) + outputs)
        drawn = (draw(outputs, inputs) * inputs**-0.5).bfloat16().float()
        self.weight = weight_of(drawn, compute_type, paired=self.end == "swiglu")
        self.values = draw(most_rows, inputs)
        self.before = draw(most_rows, outputs)

    def run(self, kernel: Kernel, rows: slice, *, early: bool = False) -> Tensor:
        x = rows_of(self.values[rows], self.compute_type)
        residual = self.before[rows].clone() if self.end == "accumulate" else None
        product = Product(self.compute_type, x, self.weight, self.end, residual)
        if residual is None:
            product.out.fill_(float("nan"))  # whatever is not written shows
        stream = 0 if self.flight.dry else torch.cuda.current_stream().cuda_stream
        out = product.run(kernel, stream, early=early)
        self.flight.wait()
        return out

    def check(self, kernels: list[Kernel], num_rows: int) -> None:
        """All kernels on the first `num_rows` rows."""
        rows = slice(0, num_rows)
        where = {"compute_type": self.compute_type, "weight": self.name, "rows": num_rows}
        want, allowed = expected(
            rows_of(self.values[rows], self.compute_type),
            self.weight,
            self.end,
            self.before[rows],
            float8=self.compute_type == "float8",
        )
        first: dict[str, Tensor] = {}  # of each tier
        for kernel in kernels:
            with self.flight.attempt(f"product {kernel} {where}"):
                got = self.run(kernel, rows)
                excess = ((got.float() - want).abs() / allowed).nan_to_num(nan=float("inf")).max()
                facts: dict[str, Any] = {**where, "kernel": str(kernel), "error_over_allowed": float(excess)}
                if kernel.tier in first:
                    facts["equal_bits"] = torch.equal(got, first[kernel.tier])
                elif first:
                    facts["bits_of_plain"] = torch.equal(got, first["plain"])
                first.setdefault(kernel.tier, got)
                equal = facts.get("equal_bits", True)
                if self.compute_type == "bfloat16":
                    equal = equal and facts.get("bits_of_plain", True)
                self.flight.claim("product", float(excess) <= 1 and equal, **facts)

    def check_alone(self, kernels: list[Kernel], most_rows: int) -> None:
        """A row by itself, with the first tile of its tier, gets the bits that it has in the largest batch."""
        for tier in dict.fromkeys(kernel.tier for kernel in kernels):
            of_tier = [kernel for kernel in kernels if kernel.tier == tier]
            with self.flight.attempt(f"alone, {tier}"):
                together = self.run(of_tier[-1], slice(0, most_rows))
                at = most_rows - 2
                alone = self.run(of_tier[0], slice(at, at + 1))
                facts = {"compute_type": self.compute_type, "weight": self.name, "tier": tier, "rows": most_rows}
                self.flight.claim("a row alone has its bits", torch.equal(alone[0], together[at]), **facts)

    def check_early(self, kernels: list[Kernel], num_rows: int) -> None:
        """Launched early, behind a kernel that is still writing the rows, a product reads what was written."""
        for kernel in kernels:
            with self.flight.attempt(f"early launch, {kernel}"):
                same = torch.equal(
                    self.run(kernel, slice(0, num_rows)), self.run(kernel, slice(0, num_rows), early=True)
                )
                facts = {"compute_type": self.compute_type, "weight": self.name, "kernel": str(kernel)}
                self.flight.claim("early launch has the same bits", same, **facts)


def run(flight: Flight) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    cutlass = False
    if not flight.dry and os.environ.get("LLADA_CUDA_PRODUCTS") != "plain":
        from llada_rt import _cuda

        cutlass = _cuda.HAS_CUTLASS
    for compute_type in ("bfloat16", "float8", "int8", "int8_bfloat16", "int4"):
        kernels = kernels_of(compute_type, cutlass=cutlass)
        wanted = ROWS if compute_type in ("bfloat16", "float8") else FEW_ROWS
        counts = SMALL_ROWS if flight.small else wanted
        for name in weights_of(flight):
            with flight.attempt(f"products of {name}, {compute_type}"):
                case = Case(flight, compute_type, name, max(counts))
                for num_rows in counts:
                    case.check(kernels, num_rows)
                case.check_alone(kernels, max(counts))
                if compute_type in ("bfloat16", "float8"):
                    case.check_early(kernels, max(counts))
