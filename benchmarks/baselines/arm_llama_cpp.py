"""The ARM twin in llama.cpp, through llama-cpp-python's low-level functions: the same C calls as llama-bench makes.

A call of `answer` is one batch: all prompts in one decode, each a sequence of its own, then one token of each sequence
that has not ended. The likeliest token is found by numpy in llama.cpp's own logits, without a copy. The high-level
`Llama.generate` copies the logits of each token into an array: 2050 tokens a CPU second of the trained verse ARM in the
place of 2460, 190 of shape s in the place of 209 (bf16, one thread).
"""

import ctypes
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from benchmarks.baselines.contract import Answer, Kind, NotInstalled, Question, check_room, cut
from benchmarks.baselines.gguf_file import GgufType, export_gguf
from training.model import ModelConfig

WeightType = Literal[GgufType, "q4_k_m"]


class LlamaCppArm:
    """The folder is exported to a temporary GGUF file, which is gone when the model is loaded; for q4_k_m, llama.cpp's
    own quantiser makes it of the float32 one (rows that are no multiple of 256 get one of its other types).

    `stop_ids` end an answer; without any, every answer has all the tokens asked for. Keys and values in `kv_type`,
    which is float16 unless weights are f32: llama.cpp's default. Raises NotInstalled, ValueError as export_gguf does,
    RuntimeError where llama.cpp refuses the file or a batch.
    """

    kind: Kind = "arm"

    def __init__(
        self, folder: Path, *, gguf_type: WeightType = "bf16", threads: int, stop_ids: Sequence[int] = ()
    ) -> None:
        self.name = f"llama.cpp {gguf_type}"
        try:
            import llama_cpp
        except ImportError as error:
            package = "llama-cpp-python" if error.name == "llama_cpp" else str(error.name)
            raise NotInstalled(self.name, package, "pip install llama-cpp-python (compiles for some minutes)") from None
        self.lib, self.threads, self.stop_ids = llama_cpp, threads, tuple(stop_ids)
        self.config = ModelConfig.from_json(folder / "config.json")
        self.kv_type = llama_cpp.GGML_TYPE_F32 if gguf_type == "f32" else llama_cpp.GGML_TYPE_F16
        self.context: Any = None
        self.batch: Any = None
        self.num_rows = self.capacity = self.room = 0
        _silence(llama_cpp)
        llama_cpp.llama_backend_init()
        with tempfile.TemporaryDirectory() as name:
            path = self._file(folder, Path(name), gguf_type)
            options = llama_cpp.llama_model_default_params()
            options.use_mmap = False
            self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        if not self.model:
            raise RuntimeError(f"llama.cpp did not load the {gguf_type} file made from {folder}")

    def _file(self, folder: Path, target: Path, weight_type: WeightType) -> Path:
        if weight_type in get_args(GgufType):
            return export_gguf(folder, target / "model.gguf", cast("GgufType", weight_type))
        if weight_type not in get_args(WeightType):
            raise ValueError(f"type: expected one of {', '.join(get_args(WeightType))}, got {weight_type!r}")
        whole, small = export_gguf(folder, target / "whole.gguf", "f32"), target / "model.gguf"
        options = self.lib.llama_model_quantize_default_params()
        options.ftype, options.nthread = self.lib.LLAMA_FTYPE_MOSTLY_Q4_K_M, self.threads
        if status := self.lib.llama_model_quantize(str(whole).encode(), str(small).encode(), ctypes.byref(options)):
            raise RuntimeError(f"llama.cpp did not quantise {folder} to {weight_type}: status {status}")
        return small

    def close(self) -> None:
        self._free_context()
        if self.model:
            self.lib.llama_model_free(self.model)
            self.model = None

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        began = time.perf_counter()
        prompt_lengths = [len(question.prompt) for question in questions]
        limits = [question.max_new_tokens for question in questions]
        longest = check_room(questions, self.config.max_sequence_length)
        self._reserve(len(questions), longest, sum(prompt_lengths))
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)
        entries = (
            (token, position, row, position + 1 == len(question.prompt))
            for row, question in enumerate(questions)
            for position, token in enumerate(question.prompt)
        )
        self._decode(entries)
        last = np.cumsum(prompt_lengths) - 1  # where each row's logits stand in the batch
        written: list[list[int]] = [[] for _ in questions]
        ended_s = [0.0] * len(questions)
        first_s = 0.0
        open_rows = list(range(len(questions)))
        while True:
            chosen = [self._best(int(at)) for at in last]
            now = time.perf_counter() - began
            first_s = first_s or now
            for row, token in zip(open_rows, chosen, strict=True):
                written[row].append(token)
                if token in self.stop_ids or len(written[row]) == limits[row]:
                    ended_s[row] = now
            open_rows = [row for row in open_rows if not ended_s[row]]
            if not open_rows:
                break
            self._decode(
                (written[row][-1], prompt_lengths[row] + len(written[row]) - 1, row, True) for row in open_rows
            )
            last = np.arange(len(open_rows))
        return [
            Answer(
                tokens=cut(row, self.stop_ids),
                total_s=end,
                first_token_s=first_s,
                num_forwards=len(row),
                num_computed=prompt_length + len(row) - 1,
                num_written=len(row),
            )
            for row, end, prompt_length in zip(written, ended_s, prompt_lengths, strict=True)
        ]

    def _reserve(self, num_rows: int, length: int, num_prompt_tokens: int) -> None:
        """A context for so many sequences, kept for later calls that need no more."""
        if self.context and num_rows <= self.num_rows and length <= self.capacity and num_prompt_tokens <= self.room:
            return
        self._free_context()
        lib = self.lib
        self.num_rows, self.capacity = num_rows, length
        self.room = max(num_prompt_tokens, num_rows)
        options = lib.llama_context_default_params()
        options.n_ctx = num_rows * (length + (-length % 256))
        options.n_batch = options.n_ubatch = self.room
        options.n_seq_max = num_rows
        options.n_threads = options.n_threads_batch = self.threads
        options.type_k = options.type_v = self.kv_type
        options.no_perf = True
        self.context = lib.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError(f"llama.cpp made no context for {num_rows} sequences of {length} positions")
        self.batch = lib.llama_batch_init(self.room, 0, 1)

    def _free_context(self) -> None:
        if self.context:
            self.lib.llama_batch_free(self.batch)
            self.lib.llama_free(self.context)
            self.context = None

    def _decode(self, entries: Iterator[tuple[int, int, int, bool]]) -> None:
        """entries: (token, position, sequence, whether its logits are wanted)."""
        batch, count = self.batch, 0
        for token, position, row, wanted in entries:
            batch.token[count], batch.pos[count], batch.logits[count] = token, position, wanted
            batch.n_seq_id[count], batch.seq_id[count][0] = 1, row
            count += 1
        batch.n_tokens = count
        if status := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama.cpp did not decode a batch of {count} tokens: status {status}")

    def _best(self, index: int) -> int:
        """The likeliest token after the batch's entry `index`."""
        logits = self.lib.llama_get_logits_ith(self.context, index)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self.config.vocab_size,))))


_KEPT: list[object] = []  # called from C as long as the process lives


def _silence(llama_cpp: Any) -> None:
    """Its log goes to stderr by the hundred lines; what fails raises."""

    @llama_cpp.llama_log_callback
    def drop(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        pass

    _KEPT.append(drop)
    llama_cpp.llama_log_set(drop, None)
