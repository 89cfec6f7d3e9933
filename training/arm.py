"""The autoregressive model (ARM) at work: generation with a key-value cache, and log-likelihood. Plain torch.

The twin of a comparison: same network, same weights layout, but each token sees only what stands before it and is
written after it. Batches may hold prompts of any lengths; the answers are those of each prompt alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.model import LLaDA, rope_angles


class ArmCache:
    """Keys and values of all positions of a batch, allocated once; rows stand at positions of their own.

    A prompt shorter than its neighbours is filled up behind: what is written there is never looked at before it is
    overwritten, as a query sees only positions up to its own.
    """

    def __init__(self, model: LLaDA, num_rows: int, length: int) -> None:
        config = model.config
        if not config.causal:
            raise ValueError("expected a causal model (an ARM), got one with full attention")
        if length > config.max_sequence_length:
            raise ValueError(f"prompt and answer take {length} positions, the context has {config.max_sequence_length}")
        parameter = next(model.parameters())
        shape = (config.n_layers, 2, num_rows, config.n_kv_heads, length, config.head_dim)
        self.model, self.length = model, length
        self.stored = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        angles = rope_angles(length, config.rotary_dim, config.rope_theta, parameter.device)
        self.cos, self.sin = angles.cos(), angles.sin()  # (length, rotary_dim)

    @torch.no_grad()
    def forward(self, tokens: Tensor, positions: Tensor, last: Tensor) -> Tensor:
        """Logits of one position of each row: (rows, vocab_size).

        tokens: (rows, count), the next tokens of each row; positions: (rows, count) int64, where they stand; last:
        (rows,) int64, which of the `count` each row wants its logits of.
        """
        model, config = self.model, self.model.config
        rows = torch.arange(len(tokens), device=tokens.device)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (rows, 1, count, rotary_dim)
        stop = int(positions.max()) + 1
        keys_at = torch.arange(stop, device=tokens.device)
        visible = (keys_at <= positions[..., None])[:, None]  # (rows, 1, count, stop)
        x = model.embedding(tokens)  # (rows, count, d_model)
        for block, (keys, values) in zip(model.blocks, self.stored, strict=True):
            q, k, v = block.project(block.attn_norm(x), cos, sin)  # (rows, heads, count, head_dim)
            keys[rows[:, None], :, positions] = k.transpose(1, 2)
            values[rows[:, None], :, positions] = v.transpose(1, 2)
            mixed = F.scaled_dot_product_attention(
                q,
                keys[:, :, :stop],
                values[:, :, :stop],
                attn_mask=visible,
                enable_gqa=config.n_kv_heads != config.n_heads,
            )
            x = x + block.attn_out(mixed.transpose(1, 2).flatten(2))
            h = block.ff_norm(x)
            x = x + block.ff_out(F.silu(block.ff_proj(h)) * block.up_proj(h))
        return F.linear(model.final_norm(x[rows, last]), model.head_weight)


@torch.no_grad()
def generate(
    model: LLaDA,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    batch: int = 64,
) -> list[list[int]]:
    """The answer to each prompt: up to `max_new_tokens` tokens, ending with the first of `stop_ids` if there is one.

    temperature 0: the likeliest token each time; otherwise drawn from the softmax of
    logits / temperature with `generator`.
    """
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("expected prompts of at least one token, got an empty one")
    if max_new_tokens < 1 or temperature < 0:
        raise ValueError(f"expected max_new_tokens > 0 and temperature >= 0, got {max_new_tokens}, {temperature}")
    answers: list[list[int]] = []
    for begin in range(0, len(prompts), batch):
        answers += _generate(
            model, prompts[begin : begin + batch], max_new_tokens, set(stop_ids), temperature, generator
        )
    return answers


def _generate(
    model: LLaDA,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: set[int],
    temperature: float,
    generator: torch.Generator | None,
) -> list[list[int]]:
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    longest = int(lengths.max())
    cache = ArmCache(model, len(prompts), longest + max_new_tokens)
    tokens = torch.zeros(len(prompts), longest, dtype=torch.int64, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(list(prompt))
    positions = torch.arange(longest, device=device).expand(tokens.shape)
    logits = cache.forward(tokens, positions, lengths - 1)  # (rows, vocab_size)
    answers: list[list[int]] = [[] for _ in prompts]
    is_open = [True] * len(prompts)
    first = torch.zeros_like(lengths)
    for count in range(max_new_tokens):
        if temperature:
            chosen = torch.multinomial((logits.double() / temperature).softmax(-1), 1, generator=generator)  # (rows, 1)
        else:
            chosen = logits.argmax(-1, keepdim=True)
        for row, token in enumerate(chosen[:, 0].tolist()):
            if is_open[row]:
                answers[row].append(token)
                is_open[row] = token not in stop_ids
        if not any(is_open) or count + 1 == max_new_tokens:
            break
        logits = cache.forward(chosen, (lengths + count)[:, None], first)
    return answers


@torch.no_grad()
def log_likelihoods(
    model: LLaDA, rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, batch_tokens: int = 16384
) -> list[float]:
    """log p(answer | prompt) of each row in nats: the sum over the answer's tokens, its end token included.

    Without a prompt the first token is given, as nothing stands before it.
    """
    if not model.config.causal:
        raise ValueError("expected a causal model (an ARM), got one with full attention")
    order = sorted(range(len(rows)), key=lambda index: sum(map(len, rows[index])))
    results = [math.nan] * len(rows)
    begin = 0
    while begin < len(order):
        longest, stop = 0, begin
        while stop < len(order):  # rows of like length, as many as fit
            longest = max(longest, sum(map(len, rows[order[stop]])))
            if stop > begin and longest * (stop + 1 - begin) > batch_tokens:
                break
            stop += 1
        chosen = order[begin:stop]
        longest = max(sum(map(len, rows[index])) for index in chosen)
        tokens = torch.zeros(len(chosen), longest, dtype=torch.int64)
        targets = torch.zeros(len(chosen), longest, dtype=torch.bool)
        for place, index in enumerate(chosen):
            prompt, answer = rows[index]
            tokens[place, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            targets[place, max(len(prompt), 1) : len(prompt) + len(answer)] = True
        logits = model(tokens, targets.roll(-1, dims=1))  # (num_targets, vocab_size)
        losses = F.cross_entropy(logits.float(), tokens[targets], reduction="none").double()
        sums = torch.zeros(tokens.shape, dtype=torch.float64).masked_scatter(targets, losses).sum(1)
        for index, value in zip(chosen, sums.tolist(), strict=True):
            results[index] = -value
        begin = stop
    return results


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The perplexity of answers given their prompts. `standard_error` is that of nats_per_token over the rows asked."""

    nats_per_token: float
    standard_error: float
    num_tokens: int
    num_rows: int

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)


def perplexity(model: LLaDA, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Perplexity:
    """Negative log-likelihood per target token over all rows, (prompt, answer) each."""
    counts = [len(answer) - (not prompt) for prompt, answer in rows]
    nats = [-value for value in log_likelihoods(model, rows)]
    mean, error = ratio(nats, counts)
    return Perplexity(mean, error, sum(counts), len(rows))


def ratio(totals: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """sum(totals) / sum(counts) and its standard error over the rows (nan for one row)."""
    mean, num = sum(totals) / sum(counts), len(totals)
    if num < 2:
        return mean, math.nan
    squares = sum((total - mean * count) ** 2 for total, count in zip(totals, counts, strict=True))
    return mean, math.sqrt(squares * num / (num - 1)) / sum(counts)
