"""Generation on a canvas that streams: a block sees what is done, itself, a window of masks and the last mask of all.

DPad (Chen et al. 2025) and Streaming-dLLM (2026) drop the masks between the window and the last position from the input
and keep the position ids of the rest. So here: a canvas without them, whose last place has the last position.
"""

import numpy as np

from .denoise import Params, Run, SpecialIds, denoise_block, propose, query_rows
from .forward import Model


class StreamingModel(Model):
    """The last place of a canvas has a position of its own."""

    far: tuple[int, int] | None = None  # (place, position)

    def placed(self, x: np.ndarray, positions: np.ndarray, layer: int, name: str) -> np.ndarray:
        if self.far is not None:
            positions = np.where(positions == self.far[0], self.far[1], positions)
        return super().placed(x, positions, layer, name)


def generate(
    model: StreamingModel, prompt: list[int], p: Params, ids: SpecialIds, window: int, *, ends: tuple[int, ...] = ()
) -> Run:
    """The canvas of the run holds what is done. It ends with the block that settles one of `ends`."""
    run, total = Run(np.array(prompt)), len(prompt) + p.gen_length
    starts = range(len(prompt), total, p.block_length)
    for index, start in enumerate(starts):
        block = (start, min(start + p.block_length, total))
        length = min(block[1] + window, total - 1) + 1
        model.far = (length - 1, total - 1) if length < total else None
        run.canvas = np.concatenate([run.canvas, np.full(length - len(run.canvas), ids.mask)])
        slots = [model.open_slot(length) for _ in range(2 if p.cfg_scale > 0 else 1)]
        given = np.arange(length) < len(prompt)

        def propose_step(step: int, block=block, slots=slots, given=given):
            rows = query_rows(run, step, block, (len(prompt), len(run.canvas)), given, p, ids.mask)
            return propose(model, run, slots, given, rows, p, ids, block)

        num_steps = max(1, p.steps // len(starts) + (index < p.steps % len(starts)))
        denoise_block(propose_step, run, block, num_steps, p, ids.mask)
        done = run.canvas[len(prompt) : block[1]]
        run.canvas = run.canvas[: length - (model.far is not None)]
        if np.isin(done, ends).any():
            break
    return run
