"""What a model needs in memory, term by term: weights, K/V, workspace, said before anything is loaded. The arithmetic
is the engine's own (csrc/denoise/memory_needs.h); here are the requests that are counted, and the words.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _core
from .device import CUDA_TABLE, session_bytes


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of an engine at once."""

    num_seqs: int
    length: int  # positions of each canvas
    block_length: int
    max_num_batched_tokens: int
    num_threads: int

    @property
    def num_together(self) -> int:
        """Canvases in the largest step: all, as far as they fit the budget, at least one."""
        return max(1, min(self.num_seqs, self.max_num_batched_tokens // self.length))

    @property
    def num_rows(self) -> int:
        """Positions recomputed in that step."""
        return self.num_together * self.length


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

    compute_type: str
    kv_bytes_per_token: int
    terms: tuple[Term, ...]

    @property
    def num_bytes(self) -> int:
        return sum(term.num_bytes for term in self.terms)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        terms = {term.name: {"bytes": term.num_bytes, "formula": term.formula} for term in self.terms}
        return {"bytes": self.num_bytes, "terms": terms}


def footprint_of(
    folder: Path, load: Load, *, compute_type: str = "auto", table: str = "", process_bytes: int
) -> Footprint:
    """The footprint of a model folder that a table of ops computes ("": the processor's best). The weights are not
    read; the compute type "auto" reads their headers.

    `process_bytes`: of a process without a model, no part of a GPU's memory. Raises ModelError, ConfigError for a
    compute type that the folder or the table cannot run in.
    """
    needs = _core.footprint(
        os.fsencode(folder),
        load.length,
        load.num_rows,
        load.num_together * load.block_length,
        compute_type=compute_type,
        table=table,
        num_threads=load.num_threads,
    )
    own: str = needs["compute_type"]
    positions, columns, per_token = needs["angle_positions"], needs["angle_columns"], needs["kv_bytes_per_token"]
    return Footprint(
        own,
        per_token,
        (
            Term("weights", needs["weights"], f"{own}, packed"),
            Term("rotary angles", needs["angles"], f"{positions} positions x {columns} x 4"),
            Term(
                "K/V",
                load.num_seqs * needs["kv_slot"],
                f"{load.num_seqs} sequences x {needs['kv_positions']} positions x {per_token} bytes",
            ),
            Term(
                "workspace",
                needs["workspace"],
                f"{load.num_rows} rows in the largest step, candidates for blocks of {load.block_length}",
            ),
            Term("staging", session_bytes(), "what steps exchange with the host, sums of split attention")
            if table == CUDA_TABLE
            else Term("process", process_bytes, "the interpreter and its libraries, measured now"),
        ),
    )


def runnable_types(folder: Path, table: str = "") -> tuple[str, ...]:
    """Compute types that a folder can run in, by its config.json, with a table of ops ("": the processor's best)."""
    return _core.runnable_types(os.fsencode(folder), table)
