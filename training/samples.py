"""Sample texts of a run: some rows of its own data, their answers hidden and written again by the model."""

from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training import sampling
from training.data import Batches
from training.model import LLaDA, ModelConfig

NUM_ROWS = 4
MAX_STEPS = 32  # forward passes of a masked model; an ARM takes one a token
MAX_TOKENS = 64  # that an ARM writes
GIVEN = 0.25  # of a row without a prompt


def sample_texts(batches: Batches, tokenizer: Tokenizer, config: ModelConfig) -> Callable[[LLaDA], str]:
    """A function of the model. Rows are those of step 0: the same ones every time, so that one sees them get better."""

    def text(ids: Tensor) -> str:
        shown = [token for token in ids.tolist() if token != config.eos_token_id]
        return tokenizer.decode(shown, skip_special_tokens=False)

    @torch.no_grad()
    def sample(model: LLaDA) -> str:
        batch = batches.part(0, range(min(NUM_ROWS, batches.num_rows(0))))
        tokens, hidden = batch.tokens, batch.maskable.clone()
        if tokens.dim() == 3:  # preference pairs: the better answer
            tokens, hidden = tokens[:, 0], hidden[:, 0]
        given = round(GIVEN * tokens.shape[1]) + 1
        hidden[hidden.all(1), :given] = False
        made = write_after(model, tokens, hidden) if config.causal else fill(model, tokens, hidden)
        lines = []
        for row, holes, result in zip(tokens, hidden, made, strict=True):
            shown = "".join(text(ids) if not hole else "▁" * len(ids) for hole, ids in runs(row, holes))
            lines.append(f"given  {shown}\nmade   {text(result[holes])}\ntrue   {text(row[holes])}")
        return "\n".join(lines)

    return sample


def runs(row: Tensor, holes: Tensor) -> list[tuple[bool, Tensor]]:
    """A row cut where holes begin and end: (is a hole, ids)."""
    cuts = (holes.diff().nonzero()[:, 0] + 1).tolist()
    return [(bool(hole[0]), ids) for hole, ids in zip(holes.tensor_split(cuts), row.tensor_split(cuts), strict=True)]


def fill(model: LLaDA, tokens: Tensor, hidden: Tensor) -> Tensor:
    """All holes in at most MAX_STEPS passes. tokens, hidden: (rows, length), on the CPU; so is the result."""
    device = next(model.parameters()).device
    canvas = tokens.masked_fill(hidden, model.config.mask_token_id).to(device)
    steps = min(MAX_STEPS, max(1, int(hidden.sum(1).max())))
    sampling.denoise_block(model, canvas, 0, canvas.shape[1], steps)
    return canvas.cpu()


def write_after(model: LLaDA, tokens: Tensor, hidden: Tensor) -> Tensor:
    """The tokens from each row's first hole on, the likeliest one each time. Plain passes, so that shards work too."""
    device = next(model.parameters()).device
    made, rows = tokens.to(device, copy=True), torch.arange(len(tokens), device=device)
    places = hidden.to(torch.uint8).argmax(1).to(device).clamp_min(1)
    for _ in range(min(MAX_TOKENS, int(hidden.sum(1).max()))):
        before = torch.zeros_like(made, dtype=torch.bool)
        before[rows, places - 1] = True
        made[rows, places] = model(made, before).argmax(-1)
        places = (places + 1).clamp_max(made.shape[1] - 1)
    return made.cpu()
