"""The autoregressive twin on a GPU in plain torch: greedy, batch 1, a static key-value cache, and one CUDA graph that
writes a token: what a careful person gets without an engine (after gpt-fast). Random weights are enough to time it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.model import LLaDA, rope_angles, rotate


class GraphedArm:
    """model: causal, on the GPU; length: positions of prompt and answer together."""

    def __init__(self, model: LLaDA, length: int) -> None:
        config = model.config
        self.model, self.length = model, length
        weight = model.embedding.weight
        shape = (config.n_layers, 2, 1, config.n_kv_heads, length, config.head_dim)
        self.cache = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        angles = rope_angles(length, config.head_dim, config.rope_theta, weight.device)
        self.cos, self.sin = angles.cos(), angles.sin()  # (length, head_dim)
        self.token = torch.zeros(1, 1, dtype=torch.int64, device=weight.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=weight.device)
        self.graph: torch.cuda.CUDAGraph | None = None

    @torch.no_grad()
    def answer(self, prompt: list[int], num_tokens: int) -> list[int]:
        """The greedy continuation. The first call records the graph."""
        tokens = torch.tensor([prompt], device=self.token.device)  # (1, prompt)
        self.token.copy_(self._forward(tokens, torch.arange(len(prompt), device=tokens.device)))
        self.at.fill_(len(prompt))
        if self.graph is None:
            self._record()
        written = [self.token.clone()]
        for _ in range(num_tokens - 1):
            self.replay()
            written.append(self.token.clone())
        return torch.cat(written, dim=1)[0].tolist()

    def replay(self) -> None:
        """One more token, by the graph that the first answer recorded."""
        assert self.graph is not None
        self.graph.replay()

    def _record(self) -> None:
        token, at = self.token.clone(), self.at.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()
        self.token.copy_(token)
        self.at.copy_(at)

    def _step(self) -> None:
        self.token.copy_(self._forward(self.token, self.at))
        self.at.add_(1)

    @torch.no_grad()
    def _forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens: (1, count) at `positions` (count). The likeliest token after the last one, (1, 1)."""
        model, config = self.model, self.model.config
        cos, sin = self.cos[positions], self.sin[positions]  # (count, head_dim)
        visible = torch.arange(self.length, device=positions.device) <= positions[:, None]  # (count, length)
        x = model.embedding(tokens)  # (1, count, d_model)
        for block, (keys, values) in zip(model.blocks, self.cache, strict=True):
            h = block.attn_norm(x)
            q, k, v = (
                projection(h).unflatten(-1, (-1, config.head_dim)).transpose(1, 2)  # (1, heads, count, head_dim)
                for projection in (block.q_proj, block.k_proj, block.v_proj)
            )
            keys.index_copy_(2, positions, rotate(k, cos, sin))
            values.index_copy_(2, positions, v)
            grouped = config.n_kv_heads != config.n_heads
            mixed = F.scaled_dot_product_attention(
                rotate(q, cos, sin), keys, values, attn_mask=visible, enable_gqa=grouped
            )
            x = x + block.attn_out(mixed.transpose(1, 2).flatten(2))
            h = block.ff_norm(x)
            x = x + block.ff_out(F.silu(block.ff_proj(h)) * block.up_proj(h))
        return F.linear(model.final_norm(x[:, -1:]), model.head_weight).argmax(-1)
