"""Proof of the attention kernels at the head sizes of published models, 128 and 64, with 512 and 4,096 keys, few rows
(a step) and many (a refresh), grouped heads too, against torch in float32.

Held to: an error of at most twice that of torch's own bfloat16 attention, and the same bits alone and in a batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.flight import Flight
from benchmarks.gpu.rig import table_of
from llada_rt import _core

FLOOR = 2.0**-7  # of the largest result: two roundings to bfloat16


@dataclass(frozen=True, slots=True)
class Heads:
    num_heads: int
    num_kv_heads: int
    head_dim: int


HEADS = (Heads(32, 32, 128), Heads(32, 8, 128), Heads(16, 16, 64))
DRY_HEADS = (Heads(2, 2, 128), Heads(4, 1, 64))


def drawn(flight: Flight, heads: Heads, rows: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """q (rows, heads, head_dim), k, v (keys, K/V heads, head_dim): float32 with values of bfloat16."""
    draw = flight.normals(rows + keys)
    shapes = ((rows, heads.num_heads), (keys, heads.num_kv_heads), (keys, heads.num_kv_heads))
    q, k, v = (draw(*shape, heads.head_dim).bfloat16().float() for shape in shapes)
    return q, k, v


def torch_attention(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, heads, head_dim), computed in dtype."""
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))
    q, k, v = (t.to(dtype).transpose(0, 1).unsqueeze(0) for t in (q, k, v))  # heads first
    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).float()


def check(flight: Flight, ops: "_core.Ops", heads: Heads, rows: int, keys: int) -> None:
    q, k, v = drawn(flight, heads, rows, keys)
    arrays = rows_q, keys_k, keys_v = q.cpu().numpy(), k.cpu().numpy(), v.cpu().numpy()
    spans = np.array([[0, rows, keys]], np.int32)
    whole = torch.from_numpy(ops.attention(rows_q, keys_k, keys_v, spans, "bfloat16"))
    want, plain = (torch_attention(q, k, v, dtype).cpu() for dtype in (torch.float32, torch.bfloat16))
    ours, torchs = (float((t - want).abs().nan_to_num(nan=float("inf")).max()) for t in (whole, plain))
    facts = {"heads": heads.num_heads, "kv_heads": heads.num_kv_heads, "head_dim": heads.head_dim}
    facts |= {"rows": rows, "keys": keys}
    allowed = 2 * torchs + FLOOR * float(want.abs().max())
    flight.claim("attention", ours <= allowed, error=ours, error_of_torch=torchs, allowed=allowed, **facts)

    # A row by itself, and beside a sequence of another length.
    at = rows - 1
    alone = ops.attention(rows_q[at : at + 1], keys_k, keys_v, np.array([[0, 1, keys]], np.int32), "bfloat16")
    flight.claim("attention alone has its bits", np.array_equal(alone[0], whole[at].numpy()), **facts)
    short, few = max(1, keys // 3), min(5, rows)
    both = ops.ragged_attention(
        np.concatenate([arrays[0][:few], arrays[0]]),
        [arrays[1][:short], arrays[1]],
        [arrays[2][:short], arrays[2]],
        np.array([[0, few, short, 0], [few, few + rows, keys, 1]], np.int32),
        "bfloat16",
    )
    flight.claim("attention in company has its bits", np.array_equal(both[few:], whole.numpy()), **facts)


def run(flight: Flight) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    ops = _core.Ops(table_of(flight), 4)
    sizes = ((1, 65), (5, 200)) if flight.small else ((1, 512), (32, 512), (512, 512), (32, 4096), (512, 4096))
    for heads in DRY_HEADS if flight.small else HEADS:
        for rows, keys in sizes:
            with flight.attempt(f"attention, {heads}, {rows} rows, {keys} keys"):
                check(flight, ops, heads, rows, keys)
