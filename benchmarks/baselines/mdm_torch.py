"""The published loops of masked diffusion models in torch as compared systems: LLaDA's, and Fast-dLLM's three.

Questions whose prompts and answers are of equal length step together; other ones have their turn after them, as these
loops have no attention mask (padded_batch.py is what the published script does instead, at the price of other answers).
No loop ends at the end token: all positions are written, then the answer is cut.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from benchmarks.baselines.contract import Answer, Kind, Question, check_room, cut
from benchmarks.baselines.fast_dllm_torch import DualCacheLoop, PrefixCacheLoop
from benchmarks.baselines.llada_torch import FullLoop
from benchmarks.baselines.rules import Rule, factor, schedule, threshold, top
from training.model import LLaDA

Cache = Literal["none", "prefix", "dual"]
Loop = FullLoop | DualCacheLoop


class TorchMdm:
    """One of the loops. Commits `tokens_per_step`, or by `threshold` or `factor`: exactly one of the three.

    `lean`, of a loop with a cache: without the published code's four costly habits (fast_dllm_torch.py). A response
    that is not a multiple of `block_length` ends with a shorter block. Threads are torch's (`torch.set_num_threads`).
    """

    kind: Kind = "mdm"

    def __init__(
        self,
        folder: Path,
        *,
        cache: Cache = "none",
        lean: bool = False,
        block_length: int = 32,
        tokens_per_step: int | None = None,
        threshold: float | None = None,
        factor: float | None = None,
        dtype: torch.dtype = torch.bfloat16,
        stop_ids: Sequence[int] = (),
    ) -> None:
        rules = {"k": tokens_per_step, "threshold": threshold, "factor": factor}
        given = {name: value for name, value in rules.items() if value is not None}
        if len(given) != 1 or cache not in ("none", "prefix", "dual") or (lean and cache == "none"):
            raise ValueError(
                f"expected one of tokens_per_step, threshold, factor, and cache none, prefix or dual, lean only with "
                f"the last two, got {given}, cache {cache!r}, lean {lean}"
            )
        ((self.rule, self.value),) = given.items()
        who = "LLaDA" if cache == "none" and self.rule == "k" else "lean" if lean else "Fast-dLLM"
        self.name = f"torch {who} {cache} {self.rule}={self.value} {str(dtype).removeprefix('torch.')}"
        self.model = LLaDA.from_folder(folder, dtype=dtype)
        if self.model.config.causal:
            raise ValueError(f"{folder}: expected a masked diffusion model, got a causal one (an ARM)")
        self.cache, self.lean, self.block_length, self.stop_ids = cache, lean, block_length, tuple(stop_ids)

    def close(self) -> None:
        del self.model

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        began = time.perf_counter()
        check_room(questions, self.model.config.max_sequence_length)
        alike: dict[tuple[int, int], list[int]] = {}
        for index, question in enumerate(questions):
            alike.setdefault((len(question.prompt), question.max_new_tokens), []).append(index)
        answers: dict[int, Answer] = {}
        for (prompt_length, gen_length), indices in alike.items():
            mask_id = self.model.config.mask_token_id
            loop = self._loop([[*questions[index].prompt, *[mask_id] * gen_length] for index in indices])
            first_s = self._run(loop, prompt_length, began)
            total_s = time.perf_counter() - began
            for row, index in enumerate(indices):
                answers[index] = Answer(
                    tokens=cut(loop.canvas[row, prompt_length:].tolist(), self.stop_ids),
                    total_s=total_s,
                    first_token_s=first_s[row],
                    num_forwards=loop.num_forwards,
                    num_computed=loop.num_rows,
                    num_written=gen_length,
                )
        return [answers[index] for index in range(len(questions))]

    def _loop(self, canvases: list[list[int]]) -> Loop:
        if self.cache == "none":
            return FullLoop(self.model, canvases, self.model.config.mask_token_id)
        kind = {"prefix": PrefixCacheLoop, "dual": DualCacheLoop}[self.cache]
        return kind(self.model, canvases, (0, 0), lean=self.lean)

    def _run(self, loop: Loop, prompt_length: int, began: float) -> list[float | None]:
        """Fills the canvases. Returns when each had its first token."""
        length, mask_id = loop.canvas.shape[1], self.model.config.mask_token_id
        first_s: list[float | None] = [None] * len(loop.canvas)
        for start in range(prompt_length, length, self.block_length):
            block = (start, min(start + self.block_length, length))
            for index, rule in enumerate(self._rules(block[1] - start)):
                num_masked = (loop.canvas[:, slice(*block)] == mask_id).sum(1)  # (batch,)
                if not num_masked.any():
                    break
                loop.step(block, index, rule)
                if self.rule != "k":
                    still = (loop.canvas[:, slice(*block)] == mask_id).sum(1)
                    if ((still == num_masked) & (num_masked > 0)).any():
                        raise RuntimeError(f"{self.name}: a step proposed the mask token only; the loop would not end")
                if None in first_s:
                    now = time.perf_counter() - began
                    is_there = (loop.canvas[:, prompt_length] != mask_id).tolist()
                    first_s = [s or (now if there else None) for s, there in zip(first_s, is_there, strict=True)]
        return first_s

    def _rules(self, num_tokens: int) -> list[Rule]:
        """What each step of a block commits. By confidence that is at least one token, so no more steps than tokens."""
        if self.rule == "k":
            return [top(count) for count in schedule(num_tokens, -(-num_tokens // int(self.value)))]
        return [{"threshold": threshold, "factor": factor}[self.rule](self.value)] * num_tokens
