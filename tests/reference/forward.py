"""The whole LLaDA forward pass in numpy, from a folder in the published layout, with each layer's keys and values kept.

Every queried position writes its K and V into the slot and attention reads the slot: a cache policy is a choice of
spans.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from .attention import attention
from .embed import embed
from .matmul import matmul
from .rms_norm import rms_norm
from .rope import rope
from .swiglu import swiglu

Slot = list[tuple[np.ndarray, np.ndarray]]  # per layer: K after RoPE, V; (length, kv heads, head_dim)


class Model:
    """Weights in float64; config values as in config.json."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:  # torch, because numpy has no bfloat16
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    self.weights[name.removeprefix("model.transformer.")] = file.get_tensor(name).double().numpy()

    def open_slot(self, length: int) -> Slot:
        c = self.config
        shape = (length, c["n_kv_heads"] or c["n_heads"], c["d_model"] // c["n_heads"])
        return [(np.zeros(shape), np.zeros(shape)) for _ in range(c["n_layers"])]

    def query(self, slot: Slot, canvas: np.ndarray, spans: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Recomputes [start, stop) looking at [0, visible), each span.

        Returns positions (n,) and hidden rows (n, d).
        """
        c, w = self.config, self.weights
        positions = np.concatenate([np.arange(start, stop) for start, stop, _ in spans])
        ends = np.cumsum([stop - start for start, stop, _ in spans])
        rows = [(end - stop + start, end, visible) for (start, stop, visible), end in zip(spans, ends, strict=True)]
        x = embed(canvas[positions], w["wte.weight"])
        for layer, (slot_k, slot_v) in enumerate(slot):
            b = f"blocks.{layer}."
            h = rms_norm(x, w[b + "attn_norm.weight"], c["rms_norm_eps"])
            q, k, v = (
                matmul(h, w[f"{b}{name}_proj.weight"]).reshape(len(h), -1, slot_k.shape[-1]) for name in ("q", "k", "v")
            )
            slot_k[positions], slot_v[positions] = rope(k, positions, c["rope_theta"]), v
            attended = attention(rope(q, positions, c["rope_theta"]), slot_k, slot_v, rows)
            x = matmul(attended.reshape(len(h), -1), w[b + "attn_out.weight"], x)
            h = rms_norm(x, w[b + "ff_norm.weight"], c["rms_norm_eps"])
            gate_up = np.concatenate([matmul(h, w[b + "ff_proj.weight"]), matmul(h, w[b + "up_proj.weight"])], -1)
            x = matmul(swiglu(gate_up), w[b + "ff_out.weight"], x)
        return positions, rms_norm(x, w["ln_f.weight"], c["rms_norm_eps"])

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """hidden: (n, d). Returns logits (n, vocab)."""
        return matmul(hidden, self.weights["wte.weight" if self.config["weight_tying"] else "ff_out.weight"])

    def forward(self, tokens: np.ndarray) -> np.ndarray:
        """tokens: (length,). Returns logits (length, vocab)."""
        tokens = np.asarray(tokens)
        return self.head(self.query(self.open_slot(len(tokens)), tokens, [(0, len(tokens), len(tokens))])[1])
