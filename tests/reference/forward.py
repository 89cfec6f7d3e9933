"""The whole LLaDA forward pass in numpy, from a folder in the published layout, with each layer's keys and values kept.

Every queried position writes its K and V into the slot and attention reads the slot: a cache policy is a choice of
spans.
"""

import json
from pathlib import Path

import numpy as np
from safetensors import safe_open

from training.layer_config import LayerConfig

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
        self.layers = layer_configs(self.config)
        for layer in self.layers:
            layer.check_dense()
            if layer.attention != "full":
                raise ValueError(f"attention: expected full, got {layer.attention}")

    def open_slot(self, length: int) -> Slot:
        heads = self.config["n_kv_heads"] or self.config["n_heads"]
        shapes = [(length, heads, layer.head_dim) for layer in self.layers]
        return [(np.zeros(shape), np.zeros(shape)) for shape in shapes]

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
            q, k, v = (self.heads(h, layer, name) for name in ("q", "k", "v"))
            slot_k[positions], slot_v[positions] = self.placed(k, positions, layer, "k"), v
            attended = attention(self.placed(q, positions, layer, "q"), slot_k, slot_v, rows)
            x = matmul(attended.reshape(len(h), -1), w[b + "attn_out.weight"], x)
            h = rms_norm(x, w[b + "ff_norm.weight"], c["rms_norm_eps"])
            gate_up = np.concatenate([matmul(h, w[b + "ff_proj.weight"]), matmul(h, w[b + "up_proj.weight"])], -1)
            x = matmul(swiglu(gate_up), w[b + "ff_out.weight"], x)
        return positions, rms_norm(x, w["ln_f.weight"], c["rms_norm_eps"])

    def heads(self, h: np.ndarray, layer: int, name: str) -> np.ndarray:
        """A projection, q, k or v, of normed rows h (n, d): (n, heads, head_dim)."""
        projected = matmul(h, self.weights[f"blocks.{layer}.{name}_proj.weight"])
        if self.layers[layer].qkv_bias:
            projected = projected + self.weights[f"blocks.{layer}.{name}_proj.bias"]
        return projected.reshape(len(h), -1, self.layers[layer].head_dim)

    def placed(self, x: np.ndarray, positions: np.ndarray, layer: int, name: str) -> np.ndarray:
        """q or k (n, heads, head_dim), rotated to its positions, and normed where the layer says so."""
        own, theta, eps = self.layers[layer], self.config["rope_theta"], self.config["rms_norm_eps"]
        if own.qk_norm == "none":
            return rope(x, positions, theta, own.rotary_dim)
        weight = self.weights[f"blocks.{layer}.{name}_norm.weight"]
        width = own.head_dim if own.qk_norm == "per_head" else x[0].size
        if own.qk_norm_place == "after_rope":
            x = rope(x, positions, theta, own.rotary_dim)
        x = rms_norm(x.reshape(len(x), -1, width), weight, eps).reshape(x.shape)
        return x if own.qk_norm_place == "after_rope" else rope(x, positions, theta, own.rotary_dim)

    def head(self, hidden: np.ndarray) -> np.ndarray:
        """hidden: (n, d). Returns logits (n, vocab)."""
        return matmul(hidden, self.weights["wte.weight" if self.config["weight_tying"] else "ff_out.weight"])

    def forward(self, tokens: np.ndarray) -> np.ndarray:
        """tokens: (length,). Returns logits (length, vocab)."""
        tokens = np.asarray(tokens)
        return self.head(self.query(self.open_slot(len(tokens)), tokens, [(0, len(tokens), len(tokens))])[1])


def layer_configs(config: dict) -> list[LayerConfig]:
    """The list that config.json has, or LLaDA's layers by its sizes."""
    if config.get("layers"):
        return [LayerConfig.read(each) for each in config["layers"]]
    head_dim, hidden = config["d_model"] // config["n_heads"], config.get("mlp_hidden_size") or 0
    return [LayerConfig(head_dim=head_dim, rotary_dim=head_dim, mlp_hidden_size=hidden)] * config["n_layers"]
