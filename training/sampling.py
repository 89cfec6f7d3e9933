"""LLaDA's denoising loop in plain torch: the slow definition that the compiled loop is compared with.

The rule of the published `generate.py` for temperature 0 and `low_confidence` remasking: run the whole canvas, take
each hidden position's best token and its softmax probability (float64), keep the most confident ones of the active
block, repeat. Ties: the lower position, the lower token id.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.model import LLaDA


def commits_per_step(num_masked: int, steps: int) -> list[int]:
    """LLaDA's schedule: num_masked spread evenly over the steps, the remainder on the first ones."""
    base, remainder = divmod(num_masked, steps)
    return [base + (step < remainder) for step in range(steps)]


@torch.no_grad()
def denoise_block(model: LLaDA, canvas: Tensor, start: int, stop: int, steps: int) -> None:
    """Fill the masks in [start, stop) of each row in place. canvas: (batch, length).

    Rows may have different numbers of masks; each follows its own schedule of `steps` steps.
    """
    mask_id = model.config.mask_token_id
    num_masked = (canvas[:, start:stop] == mask_id).sum(1).tolist()
    schedule = [commits_per_step(count, steps) for count in num_masked]
    for step in range(steps):
        masked = canvas == mask_id  # (batch, length)
        masked[:, :start] = False
        masked[:, stop:] = False
        if not masked.any():
            break
        logits = model(canvas, masked)  # (num_masked, vocab_size)
        candidate = logits.argmax(-1)
        probability = logits.double().softmax(-1).gather(-1, candidate[:, None])[:, 0]
        confidence = torch.full(canvas.shape, -1.0, dtype=torch.float64).masked_scatter(masked, probability)
        proposal = canvas.masked_scatter(masked, candidate)
        order = torch.argsort(confidence, dim=1, descending=True, stable=True)  # stable: the lower position wins a tie
        for row, counts in enumerate(schedule):
            chosen = order[row, : counts[step]]
            canvas[row, chosen] = proposal[row, chosen]


def generate(
    model: LLaDA, prompts: Sequence[Sequence[int]], *, gen_length: int, block_length: int, steps: int
) -> list[list[int]]:
    """Canvases (prompt and gen_length answer tokens), one per prompt; any prompt lengths.

    Blocks are decoded from left to right, steps // number of blocks steps each.
    """
    if gen_length % block_length or steps % (gen_length // block_length):
        raise ValueError(f"gen_length {gen_length}, block_length {block_length}, steps {steps} do not divide")
    num_blocks = gen_length // block_length
    mask_id = model.config.mask_token_id

    def run(rows: Tensor) -> None:
        first = rows.shape[1] - gen_length
        for start in range(first, rows.shape[1], block_length):
            denoise_block(model, rows, start, start + block_length, steps // num_blocks)

    return _in_batches_of_one_length([[*prompt, *[mask_id] * gen_length] for prompt in prompts], run)


def generate_block_causal(
    model: LLaDA, prompts: Sequence[Sequence[int]], *, gen_length: int, steps: int
) -> list[list[int]]:
    """The same for a block-causal model: blocks lie at multiples of its block length from position 0, so the prompt's
    tail shares the first one; each takes `steps` steps and runs nothing behind itself (LLaDA2.0's generate).
    """
    block_length = model.config.attention_block_length
    if block_length is None:
        raise ValueError("attention_block_length: expected a number, got none: this model is not block-causal")
    mask_id = model.config.mask_token_id

    def run(rows: Tensor) -> None:
        length = rows.shape[1]
        for start in range((length - gen_length) // block_length * block_length, length, block_length):
            stop = min(start + block_length, length)
            denoise_block(model, rows[:, :stop], start, stop, steps)

    return _in_batches_of_one_length([[*prompt, *[mask_id] * gen_length] for prompt in prompts], run)


def infill(model: LLaDA, canvases: Sequence[Sequence[int]], *, steps: int | None = None) -> list[list[int]]:
    """Fill every mask of each canvas as one block, in `steps` steps (default: one token a step)."""

    def run(rows: Tensor) -> None:
        holes = int((rows == model.config.mask_token_id).sum(1).max())
        if steps is not None:
            return denoise_block(model, rows, 0, rows.shape[1], steps)
        # One token a step: a row with fewer holes than the fullest simply ends earlier.
        return denoise_block(model, rows, 0, rows.shape[1], max(holes, 1))

    return _in_batches_of_one_length(canvases, run)


def _in_batches_of_one_length(canvases: Sequence[Sequence[int]], run, batch: int = 128) -> list[list[int]]:
    """Group canvases by length (no padding: it would be seen by full attention), run each group, keep the order."""
    results: list[list[int]] = [[]] * len(canvases)
    by_length: dict[int, list[int]] = {}
    for index, canvas in enumerate(canvases):
        by_length.setdefault(len(canvas), []).append(index)
    for indices in by_length.values():
        for begin in range(0, len(indices), batch):
            chosen = indices[begin : begin + batch]
            rows = torch.tensor([list(canvases[i]) for i in chosen])
            run(rows)
            for i, row in zip(chosen, rows.tolist(), strict=True):
                results[i] = row
    return results
