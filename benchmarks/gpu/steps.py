"""Fixed work for an engine, whatever it commits: single steps of a block, and whole answers of so many tokens a step.
Every call looks at what came of it, so that nothing is timed that was not done.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.shapes import Shape
from llada_rt import _core
from llada_rt.runtime import records


@dataclass(frozen=True, slots=True)
class Sizes:
    """Positions of a canvas, of its blocks, and the steps of a block that are timed together."""

    canvas: int = 512
    block: int = 32
    steps: int = 16

    @property
    def prompt(self) -> int:
        """Half of the canvas; the other half is the answer."""
        return self.canvas // 2

    def gen_length(self, batch: int) -> int:
        """Positions of the answers of `batch` canvases: half of one canvas for all, at least two blocks of each. All
        blocks cost the same, since K and V of the whole canvas are visible from each.
        """
        return max(2, self.prompt // self.block // batch) * self.block

    @property
    def mean_masks(self) -> float:
        """Masks that still want logits in the refine steps that are timed, after the refresh has committed one."""
        return self.block - (self.steps + 1) / 2


SMALL = Sizes(canvas=32, block=8, steps=4)  # of a dry run


def num_steps(block: int, k: float) -> int:
    """Steps of a block, its refresh among them, to commit k tokens a step in the mean. Only whole steps exist, so
    the nearest number is taken, and the first steps of a block commit one token more than the last: 32 tokens at 4.2 a
    step are 8 steps of 4, at 3 a step 10 of 3 and one of 2. `tokens_per_step` is what it comes to.
    """
    return max(1, round(block / k))


def tokens_per_step(block: int, k: float) -> float:
    return block / num_steps(block, k)


def _plan(shape: Shape, slots: list[int]) -> np.ndarray:
    """A row for each of the canvases that step together, without guidance: the schedule's number of surest tokens."""
    plan = records.blank(len(slots))
    records.put(plan, slot=slots, mask_id=shape.config.mask_token_id)
    return plan


def masked(shape: Shape, canvas: int, prompt: int) -> np.ndarray:
    """A random prompt, then masks: (canvas) int32."""
    return np.array(shape.text(prompt) + [shape.config.mask_token_id] * (canvas - prompt), np.int32)


class Steps:
    """`batch` equal canvases, whose first block after the prompt is denoised together, a token a step.

    `reset`, `refresh`, `refine` in this order.
    """

    def __init__(self, runtime: "_core.Runtime", shape: Shape, batch: int, sizes: Sizes) -> None:
        self.runtime, self.sizes = runtime, sizes
        self.block = (sizes.prompt, sizes.prompt + sizes.block)
        self.canvas = masked(shape, sizes.canvas, sizes.prompt)
        self.slots = [runtime.open_slot(self.canvas) for _ in range(batch)]
        self.plan = _plan(shape, self.slots)
        self.plan["block_start"], self.plan["block_stop"] = self.block
        records.put(self.plan, num_masked=sizes.block, num_steps=sizes.block)
        rows = np.arange(batch)
        for name in ("first", "next"):
            self.plan[f"{name}_begin"], self.plan[f"{name}_end"] = rows, rows + 1
        spans = {"refresh": (0, sizes.canvas), "refine": self.block}
        self.spans = {name: np.array([(*span, sizes.canvas)] * batch, _core.SPAN_DTYPE) for name, span in spans.items()}

    def close(self) -> None:
        for slot in self.slots:
            self.runtime.close_slot(slot)

    def reset(self) -> None:
        """The block all masks again."""
        for slot in self.slots:
            self.runtime.write_slot(slot, self.canvas)

    def refresh(self) -> None:
        """The block's first step: all positions of all canvases."""
        self._run("refresh", first=0, count=1)

    def refine(self) -> None:
        """Its next `sizes.steps` steps."""
        self._run("refine", first=1, count=self.sizes.steps)

    def _run(self, phase: str, *, first: int, count: int) -> None:
        records.put(self.plan, next_step=first, step=first)
        outcomes, _ = self.runtime.denoise(self.plan, self.spans[phase], count)
        assert (outcomes["num_steps"] == count).all(), f"{phase}: {outcomes['num_steps']} steps, {count} asked"
        left = self.sizes.block - first - count
        assert (outcomes["num_masked"] == left).all(), f"{phase}: {outcomes['num_masked']} masks left, not {left}"


def answer(runtime: "_core.Runtime", shape: Shape, k: float, *, gen_length: int, batch: int, sizes: Sizes) -> int:
    """Whole answers in `batch` canvases at once: of each block a refresh, then refinements. Returns the steps run.

    The answer is the last `gen_length` positions, whole blocks.
    """
    prompt, asked = sizes.canvas - gen_length, num_steps(sizes.block, k)
    canvas = masked(shape, sizes.canvas, prompt)
    slots = [runtime.open_slot(canvas) for _ in range(batch)]
    plan, rows = _plan(shape, slots), np.arange(batch)
    plan["first_begin"], plan["first_end"] = 2 * rows, 2 * rows + 1
    plan["next_begin"], plan["next_end"] = 2 * rows + 1, 2 * rows + 2
    records.put(plan, num_masked=sizes.block, num_steps=asked)
    total = 0
    try:
        for start in range(prompt, sizes.canvas, sizes.block):
            block = (start, start + sizes.block)
            plan["block_start"], plan["block_stop"] = block
            plan["commit_start"] = start
            spans = [(0, sizes.canvas, sizes.canvas), (*block, sizes.canvas)] * batch
            outcomes, _ = runtime.denoise(plan, np.array(spans, _core.SPAN_DTYPE), sizes.block)
            assert (outcomes["num_steps"] == asked).all(), f"{outcomes['num_steps']} steps of a block, {asked} asked"
            plan["step"] += asked
            total += asked
        for slot in slots:
            assert (runtime.canvas(slot) != shape.config.mask_token_id).all(), "masks are left"
    finally:
        for slot in slots:
            runtime.close_slot(slot)
    return total
