"""What a model needs in memory, term by term: weights, K/V, workspace. The same arithmetic as the engine's own buffers
(csrc/model/weights.cc, kv_pool.cc, transformer.cc, the candidates op; on a GPU csrc/cuda/pack.h and device/session.h),
so that it can be said before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PANEL = 64  # outputs of a packed panel, and K/V positions that are allotted together
ROW_STATE_BYTES = 64  # of a row and a chunk of the vocabulary in the candidates op
CHUNK_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of an engine at once."""

    num_seqs: int
    length: int  # positions of each canvas
    block_length: int
    max_num_batched_tokens: int
    num_threads: int

    @property
    def num_rows(self) -> int:
        """Positions recomputed in the largest step: all canvases, as far as they fit the budget, at least one."""
        together = max(1, min(self.num_seqs, self.max_num_batched_tokens // self.length))
        return together * self.length


@dataclass(frozen=True, slots=True)
class Term:
    """One summand and how it comes about."""

    name: str
    num_bytes: int
    formula: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """Terms of the peak while requests run. Reading the model in needs its files' pages for a moment on top: they
    belong to the page cache and give way.
    """

    terms: tuple[Term, ...]

    @property
    def num_bytes(self) -> int:
        return sum(term.num_bytes for term in self.terms)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        terms = {term.name: {"bytes": term.num_bytes, "formula": term.formula} for term in self.terms}
        return {"bytes": self.num_bytes, "terms": terms}


@dataclass(frozen=True, slots=True)
class ComputeType:
    """Element types of the rows of attention (embedding, K and V too), of rows that meet a weight, and of weights."""

    rows: str
    operand: str
    weight: str


COMPUTE_TYPES = {
    "float32": ComputeType("float32", "float32", "float32"),
    "bfloat16": ComputeType("bfloat16", "bfloat16", "bfloat16"),
    "int8": ComputeType("bfloat16", "int8", "int8"),
    "int8_bfloat16": ComputeType("bfloat16", "bfloat16", "int8"),
    "int4": ComputeType("bfloat16", "bfloat16", "int4"),
}
GPU_COMPUTE_TYPES = COMPUTE_TYPES | {"float8": ComputeType("bfloat16", "float8", "float8")}
STAGING_BYTES = 2 << 20  # what a session takes first for what steps read and write
SPLIT_BYTES = 68 << 20  # of the sums of attention that is split over keys, at most
_SIZE = {"float32": 4, "bfloat16": 2}


def _row_bytes(dtype: str, cols: int) -> int:
    """Bytes of a row of activations; int8 ends with a whole pack of 4 and its scale, float8 with 16 and 16."""
    if dtype == "float8":
        return _round_up(cols, 16) + 16
    return _round_up(cols, 4) + 4 if dtype == "int8" else cols * _SIZE[dtype]


def _packed_bytes(dtype: str, num_out: int, num_in: int, *, paired: bool = False) -> int:
    """A matrix in panels of 64 outputs; of two paired ones 32 each."""
    num_panels = -(-num_out // 2 // (PANEL // 2)) if paired else -(-num_out // PANEL)
    if dtype == "int8":  # with a scale and a sum for each output
        panel = PANEL * (_round_up(num_in, 4) + 8)
    elif dtype == "int4":  # groups of 32 inputs: a scale and 16 bytes for each output
        panel = PANEL * -(-num_in // 32) * 20
    else:
        panel = PANEL * _round_up(num_in, 4 // _SIZE[dtype]) * _SIZE[dtype]
    return num_panels * panel


def _device_bytes(dtype: str, num_out: int, num_in: int, *, paired: bool = False) -> int:
    """A matrix on a GPU: rows of whole 16 bytes, of paired ones whole eights, then scales (csrc/cuda/kernels.h)."""
    rows = 2 * _round_up(num_out // 2, 8) if paired else num_out
    if dtype == "int4":
        row, scales = _round_up(-(-num_in // 2), 16), _round_up(-(-num_in // 32), 4)
    else:
        row = _round_up(num_in * _SIZE.get(dtype, 1), 16)
        scales = 0 if dtype in _SIZE else 1
    return rows * (row + 4 * scales)


def weight_bytes(model: Mapping[str, Any], compute_type: str, *, gpu: bool = False) -> int:
    """Packed matrices, norms as float32, the embedding by rows; a tied head is a second, packed copy."""
    packed_bytes = _device_bytes if gpu else _packed_bytes
    kind = GPU_COMPUTE_TYPES[compute_type]
    total = 0
    for form, count, num_out, num_in in model["weights"]:
        if form == "vector":
            num_bytes = 4 * num_in
        elif form == "table":
            num_bytes = num_out * num_in * _SIZE[kind.rows]
        else:
            num_bytes = packed_bytes(kind.weight, num_out, num_in, paired=form == "paired")
        total += count * num_bytes
    return total


def kv_bytes_per_token(model: Mapping[str, Any], compute_type: str) -> int:
    """K, and V with its head dimension rounded up to 16, of all layers."""
    per_head = model["head_dim"] + _round_up(model["head_dim"], 16)
    return int(model["num_layers"] * model["num_kv_heads"] * per_head * _SIZE[GPU_COMPUTE_TYPES[compute_type].rows])


def workspace_bytes(model: Mapping[str, Any], compute_type: str, load: Load, *, gpu: bool = False) -> int:
    """Buffers of the largest step, kept between steps."""
    d, heads = model["d_model"], model["num_heads"] * model["head_dim"]
    kv, mlp = model["num_kv_heads"] * model["head_dim"], model["mlp_hidden_size"]
    kind = GPU_COMPUTE_TYPES[compute_type]
    # Rows that are quantised before a product are float32 until then.
    written, quantized = ("float32", max(heads, mlp)) if kind.operand not in _SIZE else (kind.operand, 0)
    # On a GPU K, V and Q come of one product where weights are floats.
    projected = 2 * kv + heads if gpu and kind.weight in _SIZE and model["num_layers"] > 1 else max(2 * kv, heads)
    row = 4 * d + _row_bytes(kind.operand, d) + 4 * projected + _row_bytes(kind.rows, heads)
    row += _row_bytes(written, heads) + _row_bytes(written, _round_up(mlp, 2))
    row += _row_bytes(kind.operand, quantized) if quantized else 0
    num_candidates = load.num_rows // load.length * load.block_length
    num_chunks = -(-model["vocab_size"] // CHUNK_TOKENS)
    candidates = num_candidates * (num_chunks * ROW_STATE_BYTES + load.num_threads * PANEL * 4)
    return int(load.num_rows * row + candidates)


def footprint_of(
    model: Mapping[str, Any], compute_type: str, load: Load, *, process_bytes: int, gpu: bool = False
) -> Footprint:
    """`model`: the shape as `llada_rt.Engine.info()["model"]` has it; `process_bytes`: of a process without a model,
    no part of a GPU's memory.
    """
    capacity = _round_up(load.length, PANEL)
    per_token = kv_bytes_per_token(model, compute_type)
    # Made for 4,096 positions, then by doubling as canvases need them.
    positions = min(model["max_sequence_length"], max(4096, 1 << (load.length - 1).bit_length()))
    angles = 4 * positions * model["head_dim"]
    return Footprint(
        (
            Term("weights", weight_bytes(model, compute_type, gpu=gpu), f"{compute_type}, packed"),
            Term("rotary angles", angles, f"{positions} positions x {model['head_dim']} x 4"),
            Term(
                "K/V",
                load.num_seqs * capacity * per_token,
                f"{load.num_seqs} sequences x {capacity} positions x {per_token} bytes",
            ),
            Term(
                "workspace",
                workspace_bytes(model, compute_type, load, gpu=gpu),
                f"{load.num_rows} rows in the largest step, candidates for blocks of {load.block_length}",
            ),
            Term("staging", STAGING_BYTES + SPLIT_BYTES, "what steps exchange with the host, sums of split attention")
            if gpu
            else Term("process", process_bytes, "the interpreter and its libraries, measured now"),
        )
    )


def resident_bytes(pid: str = "self") -> int:
    """Resident memory of a process; 0 where the system does not say."""
    try:
        fields = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return int(fields["VmRSS"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
