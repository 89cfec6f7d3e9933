"""Runner: the only module that calls the compiled loop. Packs a StepPlan into arrays, unpacks the StepResult."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..config import EngineConfig
from ..errors import ConfigError, OutOfMemoryError
from ..planning.logits import piece_bytes, pieces
from ..planning.plan import Alternative, Commit, QuerySpan, SequenceResult, Span, StepPlan, StepResult
from ..planning.visibility import FULL
from .device import cpu_tables, device_facts, place, stream_handle
from .memory import MemoryPlan, check_weights, machine_bytes, resident_bytes
from .records import SPAN, pack


class Runner:
    """A loaded model and its open slots."""

    def __init__(self, config: EngineConfig) -> None:
        self.tables = cpu_tables()  # that this machine can run, best first
        self.placement = place(config.device, config.cpu_isa)
        threads = config.threads or default_num_threads()
        self._check_needs(config, threads)
        self._runtime = _core.Runtime(
            os.fsencode(config.model_dir),
            compute_type=config.compute_type,
            table=self.placement.table,
            num_threads=threads,
            device_index=self.placement.index,
            stream=stream_handle(config.stream),
        )
        self.config: dict[str, Any] = dict(self._runtime.config)
        self.visibility = FULL  # the attention of every model that this runtime implements
        self.compute_type: str = self._runtime.compute_type
        self.table: str = self._runtime.table
        self.num_threads: int = self._runtime.num_threads
        self.num_parameters: int = self._runtime.num_parameters
        self.weight_bytes: int = self._runtime.weight_bytes
        self.kv_bytes_per_token: int = self._runtime.kv_bytes_per_token
        self.memory = self._plan_memory(config)
        self._is_limited = config.memory_limit is not None
        self._runtime.reserve_kv(self.memory.kv_bytes)

    def _check_needs(self, config: EngineConfig, threads: int) -> None:
        """Raises ConfigError or OutOfMemoryError for a model that cannot fit, by its headers: nothing is read yet."""
        model = describe_model(config.model_dir).model
        _, weights, workspace, least_kv = _core.memory_needs(
            os.fsencode(config.model_dir), config.compute_type, self.placement.table, threads, _most_rows(config, model)
        )
        if config.memory_limit is not None:
            MemoryPlan.of(
                config.memory_limit,
                total_bytes=0,
                weight_bytes=weights,
                workspace_bytes=workspace + self._python_bytes(model),
                least_kv_bytes=least_kv,
                most_kv_bytes=least_kv,
            )
        elif not self.placement.is_gpu:  # there the free memory of the device counts, which loading asks for
            check_weights(weights)

    def _plan_memory(self, config: EngineConfig) -> MemoryPlan:
        longest, rows = int(self.config["max_sequence_length"]), _most_rows(config, self.config)
        free_bytes = self._runtime.free_device_bytes
        is_gpu = self.placement.is_gpu
        return MemoryPlan.of(
            config.memory_limit,
            total_bytes=free_bytes + self.weight_bytes if is_gpu else machine_bytes(),
            weight_bytes=self.weight_bytes,
            workspace_bytes=self._runtime.workspace_bytes(rows) + self._python_bytes(self.config),
            least_kv_bytes=self.slot_bytes(1),
            # Each sequence with its guide, and the rows that score and forward work on.
            most_kv_bytes=2 * config.max_num_seqs * self.slot_bytes(longest) + self.slot_bytes(2 * rows),
            process_bytes=0 if is_gpu else max(0, resident_bytes() - self.weight_bytes),
        )

    def _python_bytes(self, model: Mapping[str, Any]) -> int:
        """Logits that audits and recall hold; no part of a GPU's memory."""
        return 0 if self.placement.is_gpu else piece_bytes(int(model["vocab_size"]))

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        return int(self.config["vocab_size"])

    def gpu(self) -> dict[str, Any] | None:
        """What the GPU is; None on the processor."""
        return device_facts(self.placement.index) if self.placement.is_gpu else None

    def slot_bytes(self, length: int) -> int:
        """Bytes of K/V memory that a canvas of `length` takes."""
        return self._runtime.kv_slot_bytes(length)

    @property
    def num_open_slots(self) -> int:
        return self._runtime.num_open_slots

    def open(
        self, tokens: Sequence[int], guide: Sequence[int] | None, last_position: int | None = None
    ) -> tuple[int, int]:
        """Slots for a canvas and, with guidance, for the unconditional one (without: -1). Raises OutOfMemoryError.

        last_position: of the last token, where that is not its index.
        """
        last = -1 if last_position is None else last_position
        slot = self._runtime.open_slot(np.asarray(tokens, dtype=np.int32), last)
        if guide is None:
            return slot, -1
        try:
            return slot, self._runtime.open_slot(np.asarray(guide, dtype=np.int32), last)
        except BaseException:
            self._runtime.close_slot(slot)
            raise

    def close_slots(self, *slots: int) -> None:
        """Give slots back; -1 stands for none."""
        for slot in slots:
            if slot >= 0:
                self._runtime.close_slot(slot)

    def copy_slot(self, slot: int) -> int:
        """A slot with the same tokens; its keys and values are yet to be computed."""
        return self._runtime.copy_slot(slot)

    def denoise(self, plan: StepPlan) -> StepResult:
        """Run the plan's steps; returns when a sequence has completed its block, or at the plan's limits."""
        sequences, spans = pack(plan.sequences)
        targets = [target for row in plan.sequences for target in row.targets]
        sets = [each for row in plan.sequences for each in row.allowed]
        outcomes, commits, scored, ranked = self._runtime.denoise(
            sequences,
            spans,
            plan.max_steps,
            np.asarray(targets, dtype=np.int32),
            plan.max_seconds,
            alternatives=True,
            allowed_positions=np.array([each.position for each in sets], dtype=np.int32) if sets else None,
            allowed=np.stack([each.tokens for each in sets]) if sets else None,
        )
        alternatives = iter(ranked.tolist())
        by_row: list[list[Commit]] = [[] for _ in plan.sequences]
        columns = ("sequence", "position", "token", "confidence", "step", "log_prob", "replaced")
        told: Iterator[tuple[Any, ...]] = zip(*(commits[c].tolist() for c in columns), strict=True)
        for row, position, token, confidence, step, log_prob, replaced in told:
            own = islice(alternatives, plan.sequences[row].sampling.num_alternatives)
            beside = tuple(Alternative(*each) for each in own if each[0] >= 0)
            by_row[row].append(
                Commit(position, token, confidence, step, log_prob, beside, replaced if replaced >= 0 else None)
            )
        results, begin = [], 0
        for row, (rows, refreshes, steps, masked, done, bad, post_steps, stop) in enumerate(outcomes.tolist()):
            wanted = sum(target >= 0 for target in plan.sequences[row].targets) if steps and bad < 0 else 0
            log_probs = tuple(scored[begin : begin + wanted].tolist())
            begin += wanted
            is_proposed = plan.sequences[row].select.kind == "propose"
            results.append(
                SequenceResult(
                    rows,
                    refreshes,
                    steps,
                    masked,
                    bool(done),
                    () if is_proposed else tuple(by_row[row]),
                    log_probs=log_probs,
                    bad_position=bad if bad >= 0 else None,
                    proposals=tuple(by_row[row]) if is_proposed else (),
                    num_post_steps=post_steps,
                    block_stop=stop if plan.sequences[row].border_stop else None,
                )
            )
        return StepResult(tuple(results))

    def recall(self, tokens: Sequence[int], positions: Sequence[int], mask_id: int) -> float:
        """Mean log-probability of what stands at ascending positions, were they masked together."""
        canvas = np.asarray(tokens, dtype=np.int32)  # (length,)
        wanted = canvas[list(positions)]
        canvas[list(positions)] = mask_id
        slot = self._runtime.open_slot(canvas)
        try:
            rows = self.hidden(slot, self.visibility.query(Span(0, len(canvas)), len(canvas)), positions)
        finally:
            self._runtime.close_slot(slot)
        log_probs = np.zeros(len(wanted))
        for begin, end in pieces(rows, self.vocab_size):
            shifted = rows.logits(begin, end).astype(np.float64)
            shifted -= np.max(shifted, axis=-1, keepdims=True)
            chosen = shifted[np.arange(end - begin), wanted[begin:end]]
            log_probs[begin:end] = chosen - np.log(np.sum(np.exp(shifted, out=shifted), axis=-1))
        return float(log_probs.mean())

    def canvas(self, slot: int) -> list[int]:
        """The tokens in a slot."""
        tokens: list[int] = self._runtime.canvas(slot).tolist()
        return tokens

    def forward(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits of every position: (length, vocabulary). Raises OutOfMemoryError if a memory_limit has no room."""
        self._check_result(len(tokens), 4 * self.vocab_size)
        return self._runtime.forward(np.asarray(tokens, dtype=np.int32))

    def forward_in_place(self, tokens: Sequence[int], *, hidden: bool) -> _core.Array:
        """The same where it was computed, by DLPack; `hidden`: what the head reads instead of what it gives."""
        self._check_result(len(tokens), 4 * (int(self.config["d_model"]) if hidden else self.vocab_size))
        return self._runtime.forward_in_place(np.asarray(tokens, dtype=np.int32), hidden)

    def _check_result(self, length: int, bytes_each: int) -> None:
        """What a forward gives lies beside its K/V, in what the plan leaves. On a GPU's host nothing is limited."""
        if not self._is_limited or self.placement.is_gpu or length > int(self.config["max_sequence_length"]):
            return
        left = self.memory.kv_bytes - self._runtime.kv_used_bytes - self.slot_bytes(length)
        room = max(0, left) + self._python_bytes(self.config)
        if length * bytes_each > room:
            raise OutOfMemoryError(
                f"the result takes {length * bytes_each} bytes, and the memory_limit has {room} left for it",
                hint="a larger memory_limit, or fewer tokens",
            )

    def write(self, slot: int, tokens: Sequence[int], last_position: int | None = None) -> None:
        """Replace the tokens of a slot; there may be more than before where `slot_bytes` of them are as many."""
        last = -1 if last_position is None else last_position
        self._runtime.write_slot(slot, np.asarray(tokens, dtype=np.int32), last)

    def hidden(self, slot: int, spans: Sequence[QuerySpan], positions: Sequence[int]) -> _core.HiddenRows:
        """Recompute the spans of a slot as a step would; what logits at positions within them are made of.

        The slot's tokens stay as they are.
        """
        packed = np.array([(q.start, q.stop, q.visible) for q in spans], dtype=SPAN)
        return self._runtime.hidden(slot, packed, np.asarray(positions, dtype=np.int32))

    def keep_for_ever(self) -> None:
        """Never free it, not even when the interpreter ends."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runtime))

    def close(self) -> None:
        """Free the weights and every slot."""
        self._runtime.close()


def _most_rows(config: EngineConfig, model: Mapping[str, Any]) -> int:
    """Positions in the largest step. One guided canvas may be more than the row budget."""
    return max(config.max_num_batched_tokens, 2 * int(model["max_sequence_length"]))


class ModelDescription(NamedTuple):
    """What config.json says, checked: the shape as `Engine.info()["model"]` has it, and the tensors that the folder
    must hold, name -> shape, in the order of the forward pass.
    """

    model: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]


def describe_model(folder: Path) -> ModelDescription:
    """A model folder, without its weights. Raises ModelError for a config.json that this runtime does not implement."""
    model, tensors = _core.describe_model(os.fsencode(folder))
    return ModelDescription(dict(model), {name: tuple(shape) for name, _, shape in tensors})


def default_num_threads() -> int:
    """Threads where no option says: LLADA_THREADS, else OMP_NUM_THREADS (its first number), else what affinity mask and
    cgroup quota allow. What OMP_NUM_THREADS says wrongly is passed over, as OpenMP does.
    """
    asked = os.environ.get("LLADA_THREADS", "").strip()
    if asked:
        if not _is_count(asked):
            raise ConfigError(f"LLADA_THREADS: expected an integer from 1 to 1024, got {asked[:40]!r}", param="threads")
        return int(asked)
    foreign = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if _is_count(foreign):
        return int(foreign)
    return _core.default_num_threads()


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 4 and 1 <= int(text) <= 1024


def build_info() -> dict[str, Any]:
    """How the compiled module was built.

    Returns:
        Plain JSON values by name: the version, the compiler, a hash of the sources, whether nvcc was there.
    """
    return cast("dict[str, Any]", dict(_core.build_info()))
