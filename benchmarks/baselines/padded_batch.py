"""A padded batch of requests through the dual-cache loop in torch: how published code serves many at once.

As in the evaluation script of Fast-dLLM (NVlabs/Fast-dLLM, llada/eval_llada.py): prompts are padded on the left with
the pad token to the longest, every row gets the longest response, all rows step together and none ends before the last.
Nor is there an attention mask: that script builds one and does not pass it on, so a padded row sees its padding and
answers otherwise than alone. A mask would give right answers and cost more; this is the cheaper of the two.
"""

from collections.abc import Sequence

from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from training.model import LLaDA


class PaddedBatch:
    """`prompts` and the `gen_lengths` asked for, one each; `num_steps` for every block of `block_length` positions."""

    def __init__(
        self,
        model: LLaDA,
        prompts: Sequence[Sequence[int]],
        gen_lengths: Sequence[int],
        *,
        block_length: int,
        num_steps: int,
        lean: bool,
    ) -> None:
        config = model.config
        self.model, self.lean, self.num_steps = model, lean, num_steps
        self.gen_lengths = list(gen_lengths)
        self.prompt_length, longest = max(map(len, prompts)), max(gen_lengths)
        self.canvases = [  # (batch, prompt_length + longest)
            [*[config.pad_token_id] * (self.prompt_length - len(prompt)), *prompt, *[config.mask_token_id] * longest]
            for prompt in prompts
        ]
        starts = range(self.prompt_length, self.prompt_length + longest, block_length)
        self.blocks = [(start, start + block_length) for start in starts]

    def loop(self) -> DualCacheLoop:
        return DualCacheLoop(self.model, self.canvases, self.blocks[0], lean=self.lean)

    def warm_up(self) -> None:
        """One step of each kind."""
        loop = self.loop()
        loop.refresh(1)
        loop.refine(1)

    def run(self) -> list[list[int]]:
        """The tokens that each request asked for."""
        loop = self.loop()
        for block in self.blocks:
            loop.denoise(block, self.num_steps)
        rows = loop.canvas[:, self.prompt_length :].tolist()
        return [row[:length] for row, length in zip(rows, self.gen_lengths, strict=True)]
