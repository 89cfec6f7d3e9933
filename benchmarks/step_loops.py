"""One block of a canvas, step by step: in the compiled loop and in the Fast-dLLM step in torch, on the same weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from benchmarks.shapes import BLOCK_LENGTH, CANVAS_LENGTH, PROMPT_LENGTH, Shape
from llada_rt import _core
from llada_rt.folder import quantize
from llada_rt.runtime import records
from training.model import LLaDA

BLOCK = (PROMPT_LENGTH, PROMPT_LENGTH + BLOCK_LENGTH)
REFINE_STEPS = 16  # of the block's 31 after its refresh; each commits one token
# Largest error of logits, relative to the largest of them, of rows in int8: each product adds a rounding of 1/254.
INT8_ROWS_ERROR = 0.1


def num_steps(step: str) -> int:
    """In one timed run."""
    return 1 if step == "refresh" else REFINE_STEPS


class CompiledLoop:
    """The same canvas and block through the compiled loop."""

    def __init__(self, runtime: "_core.Runtime", shape: Shape) -> None:
        self.runtime, self.canvas = runtime, np.array(shape.canvas(), np.int32)
        self.slot = runtime.open_slot(self.canvas)
        self.plan = records.blank(1)
        self.plan["slot"] = self.slot
        self.plan["block_start"], self.plan["block_stop"] = BLOCK
        mask_id = shape.config.mask_token_id
        records.put(self.plan, num_masked=BLOCK_LENGTH, num_steps=BLOCK_LENGTH, mask_id=mask_id)

    def _run(self, span: tuple[int, int], next_step: int, num_steps: int) -> None:
        spans = np.array([(*span, CANVAS_LENGTH)], _core.SPAN_DTYPE)
        self.plan["first_end"] = self.plan["next_end"] = 1
        records.put(self.plan, next_step=next_step, step=next_step)
        outcomes, _ = self.runtime.denoise(self.plan, spans, num_steps)
        assert outcomes["num_steps"][0] == num_steps

    def refresh(self) -> None:
        """As at the start of a block that follows others: the slot is there, and the block is all masks."""
        self.runtime.write_slot(self.slot, self.canvas)
        self._run((0, CANVAS_LENGTH), 0, 1)

    def refine(self) -> None:
        self._run(BLOCK, 1, REFINE_STEPS)

    def compact(self) -> None:
        """The same steps with row compaction: the first one after the refresh has all 32 rows."""
        self.plan["compact"] = 1
        self._run(BLOCK, 1, REFINE_STEPS)
        self.plan["compact"] = 0


class TorchLoop:
    """The baseline with the same two methods."""

    def __init__(self, model: LLaDA, shape: Shape, *, lean: bool) -> None:
        self.make: Callable[[], DualCacheLoop] = lambda: DualCacheLoop(model, shape.canvas(), BLOCK, lean=lean)
        self.loop = self.make()

    def refresh(self) -> None:
        self.loop = self.make()
        self.loop.refresh(1)

    def refine(self) -> None:
        for _ in range(REFINE_STEPS):
            self.loop.refine(1)


def round_weights(model: LLaDA, compute_type: str) -> None:
    """The weights that a quantised model stands for, as floats."""
    stored = "int4" if compute_type == "int4" else "int8"
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight.data.float().numpy()
            if stored == "int8":
                back = quantize.dequantize_int8(*quantize.quantize_int8(weight))
            else:
                back = quantize.dequantize_int4(*quantize.quantize_int4(weight), weight.shape[1])
            module.weight.data = torch.from_numpy(back)


def check_logits(folder: Path, runtime: "_core.Runtime", model: LLaDA, shape: Shape, kind: str) -> dict[str, float]:
    """Largest error of the block's logits against torch float32 on the same weights; ours at most twice torch's."""
    tokens = torch.tensor([shape.canvas()])
    with torch.no_grad():
        exact = LLaDA.from_folder(folder, dtype=torch.float32)
        truth = exact(tokens)[0, slice(*BLOCK)]
        scale = truth.abs().max().item()
        plain = (model(tokens)[0, slice(*BLOCK)].float() - truth).abs().max().item() / scale
        if kind not in ("float32", "bfloat16"):
            round_weights(exact, kind)
            truth = exact(tokens)[0, slice(*BLOCK)]
    ours = runtime.forward(tokens[0].int().numpy())[slice(*BLOCK)]
    error = np.abs(ours - truth.numpy()).max() / scale
    if not error <= 2 * plain + 1e-5 + (INT8_ROWS_ERROR if kind == "int8" else 0):
        raise SystemExit(f"{shape.name}: logits are off by {error:.2g} (torch {plain:.2g}): not timed")
    return {"error": float(error), "torch_error": plain}
