"""The ARM twin in torch, written to be fast: what a careful person gets out of torch on a CPU.

Greedy. Keys and values lie in buffers that are allocated once and reused; the prompt is one forward, with the logits of
its last position only; Q, K and V are one product, gate and up another; matrices are packed beforehand by oneDNN; keys,
values and attention are float32, which is up to five times as fast here for one query as in bfloat16.
Prompts of unequal length are padded on the left, so that all rows write the same slot of the cache; a row's positions
count from its first token, and it sees no padding. Rows run until the last one has ended, as in `transformers`.

Tried: 5632 x 1024 in bfloat16 times one row on one thread reads 13 GB/s with F.linear, 8 with torch.mv, 32 packed, and
up to 64 rows packed is never slower; of whole answers, packing doubles the speed (s: 65 to 140 tokens/s). torch.compile
cannot trace packed weights; without packing it gained 16 % on s and nothing on m, and with inductor's frozen weights it
reached 0.6 of this (240 and 50 tokens a CPU second of the verse ARM and of s, 414 and 82 packed).
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.baselines.contract import Answer, Kind, Question, check_room, cut
from training.model import Block, LLaDA, rope_angles


class TorchArm:
    """`stop_ids` end an answer; without any, every answer has all the tokens asked for.

    Threads are torch's own (`torch.set_num_threads`).
    """

    kind: Kind = "arm"

    def __init__(self, folder: Path, *, dtype: torch.dtype = torch.bfloat16, stop_ids: Sequence[int] = ()) -> None:
        model = LLaDA.from_folder(folder, dtype=dtype)
        if not model.config.causal:
            raise ValueError(f"{folder}: expected a causal model (an ARM), got one with full attention")
        self.name = f"torch {str(dtype).removeprefix('torch.')}"
        self.config, self.dtype, self.stop_ids = model.config, dtype, tuple(stop_ids)
        self.weights = FusedWeights(model)
        angles = rope_angles(
            self.config.max_sequence_length, self.config.head_dim, self.config.rope_theta, torch.device("cpu")
        )
        self.cos, self.sin = angles.cos(), angles.sin()  # (max_sequence_length, head_dim) float32
        self.sin[:, : self.config.head_dim // 2] *= -1  # so that a rotation needs no negation
        self.eps = torch.tensor(self.config.rms_norm_eps)
        self.cache = torch.empty(0)

    def close(self) -> None:
        del self.weights, self.cache

    @torch.inference_mode()
    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        began = time.perf_counter()
        check_room(questions, self.config.max_sequence_length)
        num_rows, longest = len(questions), max(len(question.prompt) for question in questions)
        limits = [question.max_new_tokens for question in questions]
        length = longest + max(limits)
        self._reserve(num_rows, length)
        padding = torch.tensor([longest - len(question.prompt) for question in questions])  # (rows,)
        tokens = torch.zeros(num_rows, longest, dtype=torch.int64)
        for row, question in enumerate(questions):
            tokens[row, longest - len(question.prompt) :] = torch.tensor(question.prompt)
        seen = _not_padding(padding, length) if padding.any() else None  # (rows, 1, 1, length)
        # A row that has ended may step past the context; what it writes there is thrown away.
        positions = (torch.arange(length) - padding[:, None]).clamp(0, len(self.cos) - 1)  # (rows, length)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]  # (rows, 1, length, head_dim)

        mask = None if seen is None else _causal(seen[..., :longest])
        chosen = self._forward(tokens, 0, cos[:, :, :longest], sin[:, :, :longest], mask)  # (rows,)
        written: list[list[int]] = [[] for _ in questions]
        ended_s = [0.0] * num_rows
        first_s = 0.0
        for slot in range(longest, length + 1):
            now = time.perf_counter() - began
            first_s = first_s or now
            for row, token in enumerate(chosen.tolist()):
                if not ended_s[row]:
                    written[row].append(token)
                    if token in self.stop_ids or len(written[row]) == limits[row]:
                        ended_s[row] = now
            if all(ended_s):
                break
            at = slice(slot, slot + 1)
            mask = None if seen is None else seen[..., : slot + 1]
            chosen = self._forward(chosen[:, None], slot, cos[:, :, at], sin[:, :, at], mask)
        num_steps = slot - longest
        return [
            Answer(
                tokens=cut(row, self.stop_ids),
                total_s=end,
                first_token_s=first_s,
                num_forwards=1 + num_steps,
                num_computed=longest + num_steps,
                num_written=len(row),
            )
            for row, end in zip(written, ended_s, strict=True)
        ]

    def _reserve(self, num_rows: int, length: int) -> None:
        config = self.config
        if self.cache.dim() != 6 or self.cache.shape[2] != num_rows or self.cache.shape[4] < length:
            shape = (config.n_layers, 2, num_rows, config.n_kv_heads, length, config.head_dim)
            self.cache = torch.zeros(shape)

    def _forward(self, tokens: Tensor, start: int, cos: Tensor, sin: Tensor, visible: Tensor | None) -> Tensor:
        """The likeliest next token of each row, (rows,).

        tokens: (rows, count), written to the cache from slot `start` on; cos, sin: (rows, 1, count, head_dim);
        visible: bool (rows, 1, count, start + count), or None: everything, of a prompt what stands before.
        """
        config, weights = self.config, self.weights
        num_rows, count = tokens.shape
        num_q, num_kv = config.n_heads, config.n_kv_heads
        stop = start + count
        x = F.embedding(tokens, weights.embedding)  # (rows, count, d_model)
        for layer, (keys, values) in zip(weights.layers, self.cache, strict=True):
            h = self._norm(x, layer.attn_norm)
            heads = _linear(h, layer.qkv).view(num_rows, count, -1, config.head_dim).transpose(1, 2)
            rotated = _rotate(heads[:, : num_q + num_kv], cos, sin)  # (rows, q and kv heads, count, head_dim)
            keys[:, :, start:stop] = rotated[:, num_q:]
            values[:, :, start:stop] = heads[:, num_q + num_kv :]
            mixed = F.scaled_dot_product_attention(
                rotated[:, :num_q],
                keys[:, :, :stop],
                values[:, :, :stop],
                attn_mask=visible,
                is_causal=visible is None and count > 1,
                enable_gqa=num_q != num_kv,
            )
            x = x + _linear(mixed.transpose(1, 2).flatten(2).to(self.dtype), layer.attn_out)
            gate, up = _linear(self._norm(x, layer.ff_norm), layer.gate_up).chunk(2, dim=-1)
            x = x + _linear(F.silu(gate) * up, layer.ff_out)
        return _linear(self._norm(x[:, -1], weights.ln_f), weights.head).argmax(-1)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """x / rms(x) in float32, then rounded, times the weight; F.rms_norm is a dozen kernels here, this five."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)  # (rows, count, 1)
        scale = torch.addcmul(self.eps, length, length, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).to(self.dtype) * weight


class FusedWeights:
    """The weights of a model as a step reads them: matrices joined where they read the same input, and packed."""

    class Layer:
        def __init__(self, block: Block) -> None:
            self.attn_norm, self.ff_norm = block.attn_norm.weight.detach(), block.ff_norm.weight.detach()
            self.qkv = _pack(torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight]))
            self.gate_up = _pack(torch.cat([block.ff_proj.weight, block.up_proj.weight]))
            self.attn_out, self.ff_out = _pack(block.attn_out.weight), _pack(block.ff_out.weight)

    def __init__(self, model: LLaDA) -> None:
        self.embedding = model.embedding.weight.detach()  # (vocab_size, d_model)
        self.head = _pack(model.head_weight)
        self.ln_f = model.final_norm.weight.detach()
        self.layers = [self.Layer(block) for block in model.blocks]


def _pack(weight: Tensor) -> Tensor:
    """In the layout that oneDNN likes best for one row: what inductor does to frozen weights."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 1)


def _linear(x: Tensor, packed: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Half-split rotary embedding, in float32. x: (rows, heads, count, head_dim)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), signed_sin)


def _not_padding(padding: Tensor, length: int) -> Tensor:
    """bool (rows, 1, 1, length): the slots that hold a token of the row."""
    return (torch.arange(length) >= padding[:, None])[:, None, None]


def _causal(seen: Tensor) -> Tensor:
    """(rows, 1, 1, count) -> (rows, 1, count, count): what a prompt sees. Padding sees itself: no row may be empty."""
    slot = torch.arange(seen.shape[-1])
    return (seen & (slot <= slot[:, None])) | (slot == slot[:, None])
