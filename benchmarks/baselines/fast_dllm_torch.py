"""Fast-dLLM's two loops with a cache for LLaDA in plain torch, for rows of equal length:

as published (NVlabs/Fast-dLLM, llada/), and lean ones. Its loop without a cache is FullLoop (llada_torch.py).

As published, K is stored before RoPE and all of it is rotated again in each layer and step, every computed row gets
logits, the softmax over them is float64, and the cache is updated by index. The lean one leaves out these four
habits and nothing else: what a careful torch user would write. Compiled, the parts of a layer before and after its
attention and cache are one graph each, for the rows of a canvas and for those of a block.
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.baselines.rules import Rule, schedule, top
from training.model import Block, LLaDA, rope_angles, rotate


def project(block: Block, x: Tensor, cos: Tensor, sin: Tensor, rotate_keys: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What a layer does before its cache.

    x: (batch, rows, d_model). Returns Q rotated, K, V, (batch, heads, rows, head_dim).
    """
    h = block.attn_norm(x)
    head_dim = block.config.head_dim
    q, k, v = (
        projection(h).unflatten(-1, (-1, head_dim)).transpose(1, 2)
        for projection in (block.q_proj, block.k_proj, block.v_proj)
    )
    return rotate(q, cos, sin), rotate(k, cos, sin) if rotate_keys else k, v


def finish(block: Block, x: Tensor, mixed: Tensor) -> Tensor:
    """What it does after its attention. mixed: (batch, heads, rows, head_dim)."""
    x = x + block.attn_out(mixed.transpose(1, 2).flatten(2))
    h = block.ff_norm(x)
    return x + block.ff_out(F.silu(block.ff_proj(h)) * block.up_proj(h))


@cache
def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False)


class DualCacheLoop:
    """One canvas, or several of one length that step together.

    `refresh` recomputes all of a canvas, `refine` the block; each commits, in every canvas, the block's best `count`
    masks.
    """

    def __init__(
        self,
        model: LLaDA,
        canvas: Sequence[int] | Sequence[Sequence[int]],
        block: tuple[int, int],
        *,
        lean: bool,
        compile: bool = False,
    ) -> None:
        config = model.config
        self.model, self.block, self.lean = model, block, lean
        self.project: Callable[..., tuple[Tensor, Tensor, Tensor]] = compiled(project) if compile else project
        self.finish: Callable[..., Tensor] = compiled(finish) if compile else finish
        self.canvas = torch.atleast_2d(torch.tensor(canvas))  # (batch, length)
        batch, length = self.canvas.shape
        angles = rope_angles(length, config.head_dim, config.rope_theta, self.canvas.device)
        self.cos, self.sin = angles.cos(), angles.sin()  # (length, head_dim)
        dtype = model.embedding.weight.dtype
        shape = (batch, config.n_kv_heads, length, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in range(config.n_layers)]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in range(config.n_layers)]
        self.num_forwards = self.num_rows = 0  # positions put through the network, of one canvas

    def denoise(self, block: tuple[int, int], num_steps: int) -> None:
        """Fills a block: a refresh, then refinements, its masks (as many in each canvas) spread over the steps."""
        self.block = block
        num_masked = int((self.canvas[0, slice(*block)] == self.model.config.mask_token_id).sum())
        for step, count in enumerate(schedule(num_masked, num_steps)):
            self.step(block, step, top(count))

    def step(self, block: tuple[int, int], index: int, rule: Rule) -> None:
        """Commits what the rule takes of the block's masks; the first step of a block (index 0) is a refresh."""
        self.block = block
        start, stop = self.refined_rows() if index else (0, self.canvas.shape[1])
        self._step(start, stop, rule)

    def refresh(self, count: int) -> None:
        self.step(self.block, 0, top(count))

    def refine(self, count: int) -> None:
        self.step(self.block, 1, top(count))

    def refined_rows(self) -> tuple[int, int]:
        """What a step after the refresh recomputes."""
        return self.block

    @torch.no_grad()
    def _step(self, start: int, stop: int, rule: Rule) -> None:
        hidden = self._blocks(start, stop)  # (batch, stop - start, d_model)
        masked = self.canvas[:, start:stop] == self.model.config.mask_token_id
        masked[:, : self.block[0] - start] = False
        masked[:, self.block[1] - start :] = False
        token, confidence = (self._score_lean if self.lean else self._score_published)(hidden, masked)
        self.canvas[:, start:stop] = torch.where(rule(confidence), token, self.canvas[:, start:stop])
        self.num_forwards += 1
        self.num_rows += stop - start

    def _blocks(self, start: int, stop: int) -> Tensor:
        config = self.model.config
        x = self.model.embedding(self.canvas[:, start:stop])
        cos, sin = self.cos[start:stop], self.sin[start:stop]
        for layer, block in enumerate(self.model.blocks):
            q, k, v = self.project(block, x, cos, sin, self.lean)
            k, v = self._store(layer, start, stop, k, v)
            grouped = config.n_kv_heads != config.n_heads
            x = self.finish(block, x, F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped))
        return x

    def _store(self, layer: int, start: int, stop: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the rows' K (lean: rotated) and V into the cache; returns all K, rotated, and all V."""
        keys, values = self.keys[layer], self.values[layer]  # (batch, kv heads, length, head_dim)
        if self.lean:
            keys[:, :, start:stop] = k
            values[:, :, start:stop] = v
            return keys, values
        positions = torch.arange(start, stop)
        keys[:, :, positions] = k
        values[:, :, positions] = v
        return rotate(keys, self.cos, self.sin), values

    def _score_published(self, hidden: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._head(hidden)  # (batch, rows, vocabulary)
        token = logits.argmax(-1)
        probability = logits.double().softmax(-1).gather(-1, token[..., None])[..., 0]
        return token, probability.masked_fill(~masked, -torch.inf)

    def _score_lean(self, hidden: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
        logits = self._head(hidden[masked]).float()  # (masked rows, vocabulary)
        largest, token = logits.max(-1)
        probability = (largest - logits.logsumexp(-1)).exp()
        confidence = torch.full(masked.shape, -torch.inf).masked_scatter(masked, probability)
        return masked.long().masked_scatter(masked, token), confidence

    def _head(self, hidden: Tensor) -> Tensor:
        return F.linear(self.model.final_norm(hidden), self.model.head_weight)


class PrefixCacheLoop(DualCacheLoop):
    """`refine` recomputes everything from the block's start on: only what stands before it comes from the cache."""

    def refined_rows(self) -> tuple[int, int]:
        return self.block[0], self.canvas.shape[1]
