"""LLaDA as a readable nn.Module: the definition of the network, and the oracle for the compiled one.

Attribute names are the published tensor names, so loading and saving (weights.py) is a prefix and nothing more.
`causal=True` makes the same file the autoregressive model (ARM) of a comparison: same weights layout, causal attention,
next-token loss. `attention_block_length` makes it block-causal (block_causal.py).
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config_keys import check_keys
from training.layer_config import LayerConfig
from training.weights import load_weights

# Fields of the published config.json that this definition has only one value for; what a foreign one may say is in
# config_keys.py.
FIXED_FIELDS = {
    "architectures": ["LLaDAModelLM"],
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "embedding_dropout": 0.0,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rope": True,
    "rope_full_precision": True,
    "scale_logits": False,
    "use_cache": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The sizes of a model; field names are the published ones."""

    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlp_hidden_size: int
    vocab_size: int  # rows of the embedding and of the head
    max_sequence_length: int = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    weight_tying: bool = False
    mask_token_id: int
    eos_token_id: int
    pad_token_id: int
    # Not published fields, written only when set:
    causal: bool = False  # an ARM
    attention_block_length: int | None = None  # a position sees its block of so many positions and those before
    layers: tuple[LayerConfig, ...] | None = None  # a record for each layer, where a layer is not LLaDA's

    def __post_init__(self) -> None:
        if self.attention_block_length is not None and (self.attention_block_length < 1 or self.causal):
            raise ValueError(
                f"attention_block_length: expected a positive number and causal false, "
                f"got {self.attention_block_length} and causal {self.causal}"
            )
        if self.layers is None and (self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2):
            raise ValueError(f"d_model {self.d_model} does not split into {self.n_heads} heads of even size")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.layers is not None:
            self._check_layers(self.layers)

    def _check_layers(self, layers: tuple[LayerConfig, ...]) -> None:
        if len(layers) != self.n_layers:
            raise ValueError(f"layers: expected {self.n_layers} entries, one for each layer, got {len(layers)}")
        attention = "block_causal" if self.attention_block_length else "full"
        for index, layer in enumerate(layers):
            layer.check_dense()
            # One table of rotation angles, and one rule of who sees whom, serve all layers.
            expected = {"head_dim": layers[0].head_dim, "rotary_dim": layers[0].rotary_dim, "attention": attention}
            for name, value in expected.items():
                if getattr(layer, name) != value:
                    raise ValueError(f"layer {index}: {name}: expected {value}, got {getattr(layer, name)}")

    @property
    def layer_configs(self) -> tuple[LayerConfig, ...]:
        """One for each layer."""
        if self.layers is not None:
            return self.layers
        head_dim = self.d_model // self.n_heads
        attention = "block_causal" if self.attention_block_length else "full"
        layer = LayerConfig(
            head_dim=head_dim, rotary_dim=head_dim, mlp_hidden_size=self.mlp_hidden_size, attention=attention
        )
        return (layer,) * self.n_layers

    @property
    def head_dim(self) -> int:
        return self.layer_configs[0].head_dim

    @property
    def rotary_dim(self) -> int:
        return self.layer_configs[0].rotary_dim

    @property
    def model_type(self) -> str:
        """The published name, or one of its own, so that no one serves another attention as full attention."""
        if self.layers is not None:
            return "llada_layers"
        return "llada_arm" if self.causal else "llada_block_causal" if self.attention_block_length else "llada"

    @classmethod
    def from_json(cls, path: Path) -> "ModelConfig":
        """Read a published config.json. A field that asks for another network is refused by name."""
        published = json.loads(path.read_text(encoding="utf-8"))
        optional = {"causal", "attention_block_length", "layers", "n_kv_heads"}
        if missing := [f.name for f in fields(cls) if f.name not in published and f.name not in optional]:
            raise ValueError(f"{path}: expected the keys {missing}, which are missing")
        check_keys(published, path)
        rows = published.get("embedding_size") or published["vocab_size"]
        kv_heads = published.get("n_kv_heads") or published["n_heads"]
        known = {field.name: published[field.name] for field in fields(cls) if field.name in published}
        ends = known["eos_token_id"]  # one, or several, of which the first stands for all
        known["eos_token_id"] = ends[0] if isinstance(ends, list) and ends else ends
        if known.get("layers") is not None:
            known["layers"] = tuple(LayerConfig.read(each) for each in known["layers"])
        config = cls(**{**known, "vocab_size": rows, "n_kv_heads": kv_heads})
        if published.get("model_type") != config.model_type:
            raise ValueError(f"{path}: model_type: expected {config.model_type!r}, got {published.get('model_type')!r}")
        return config

    def to_json(self, torch_dtype: str) -> str:
        own = asdict(self)
        for name in ("causal", "attention_block_length", "layers"):
            if not own[name]:
                del own[name]
        rest = {"embedding_size": self.vocab_size, "torch_dtype": torch_dtype}
        return json.dumps({"model_type": self.model_type, **FIXED_FIELDS, **own, **rest}, indent=1)


class RMSNorm(nn.Module):
    """x / rms(x) in float32, rounded to x's type before the weight is applied, as the published model does."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


def rope_angles(length: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """(length, head_dim) float32: position times theta^(-2i/head_dim), written twice (half-split rotation)."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.arange(length, device=device).float()[:, None] * frequencies
    return torch.cat([angles, angles], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in float32, back in x's type. x: (batch, heads, length, head_dim).

    cos, sin: (..., length, rotary_dim); dimensions beyond them pass through.
    """
    wide = x[..., : cos.shape[-1]].float()
    first, second = wide.chunk(2, dim=-1)
    rotated = (wide * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
    return rotated if rotated.shape == x.shape else torch.cat([rotated, x[..., cos.shape[-1] :]], dim=-1)


def block_causal_visible(positions: Tensor, block_length: int) -> Tensor:
    """bool (length, length): whether the query (row) sees the key (column): its own block and earlier ones."""
    block = positions // block_length
    return block[:, None] >= block[None, :]


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, visible: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v; every position sees every other one unless `causal` or `visible` limit it.

    q: (batch, heads, length, head_dim); k, v: (batch, kv_heads, length, head_dim), heads a multiple of kv_heads;
    visible: bool (length, length), a row for each query.
    In bf16 on short rows the formula as it stands is two to four times faster on a CPU than the fused kernel's
    backward pass; in float32 it is the other way round.
    """
    grouped = k.shape[1] != q.shape[1]
    if q.dtype != torch.bfloat16 or causal or grouped:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=causal, enable_gqa=grouped)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (batch, heads, length, length)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v  # softmax in float32 under autocast


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: LayerConfig) -> None:
        super().__init__()
        d_model, hidden = config.d_model, layer.mlp_hidden_size
        q_size, kv_size = config.n_heads * layer.head_dim, config.n_kv_heads * layer.head_dim
        self.config, self.layer = config, layer
        self.attn_norm = RMSNorm(d_model, config.rms_norm_eps)
        self.q_proj = nn.Linear(d_model, q_size, bias=layer.qkv_bias)
        self.k_proj = nn.Linear(d_model, kv_size, bias=layer.qkv_bias)
        self.v_proj = nn.Linear(d_model, kv_size, bias=layer.qkv_bias)
        if layer.qk_norm != "none":
            sizes = (q_size, kv_size) if layer.qk_norm == "whole" else (layer.head_dim, layer.head_dim)
            self.q_norm, self.k_norm = (RMSNorm(size, config.rms_norm_eps) for size in sizes)
        self.attn_out = nn.Linear(q_size, d_model, bias=False)
        self.ff_norm = RMSNorm(d_model, config.rms_norm_eps)
        self.ff_proj = nn.Linear(d_model, hidden, bias=False)  # the gate
        self.up_proj = nn.Linear(d_model, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, d_model, bias=False)  # the down projection

    def project(self, h: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q and K, normed and rotated as the layer has it, and V. h: (batch, length, d_model), after attn_norm.

        Each is (batch, heads, length, head_dim).
        """
        layer = self.layer
        q, k, v = (
            projection(h).unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if layer.qk_norm == "none":
            return rotate(q, cos, sin), rotate(k, cos, sin), v
        if layer.qk_norm_place == "before_rope":
            return rotate(self._norm(self.q_norm, q), cos, sin), rotate(self._norm(self.k_norm, k), cos, sin), v
        return self._norm(self.q_norm, rotate(q, cos, sin)), self._norm(self.k_norm, rotate(k, cos, sin)), v

    def _norm(self, norm: RMSNorm, x: Tensor) -> Tensor:
        """Over each head, or over all heads of a position. x: (batch, heads, length, head_dim)."""
        if self.layer.qk_norm == "per_head":
            return norm(x)
        return norm(x.transpose(1, 2).flatten(2)).unflatten(-1, (-1, x.shape[-1])).transpose(1, 2)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, select: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """x: (batch, length, d_model). With `select`, bool (batch, length), the result is (num_selected, d_model)."""
        q, k, v = self.project(self.attn_norm(x), cos, sin)  # (batch, heads, length, head_dim)
        mixed = attention(q, k, v, causal=self.config.causal, visible=visible)
        mixed = mixed.transpose(1, 2).flatten(2)  # (batch, length, d_model)
        if select is not None:
            x, mixed = x[select], mixed[select]  # (num_selected, d_model)
        x = x + self.attn_out(mixed)
        h = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(h)) * self.up_proj(h))


class LLaDA(nn.Module):
    """tokens (batch, length) -> logits (batch, length, vocab_size), or of the selected positions only.

    Logits at position i predict token i (no shift); with `causal` they predict token i + 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "blocks": nn.ModuleList(Block(config, layer) for layer in config.layer_configs),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
            }
        )
        if not config.weight_tying:
            self.transformer["ff_out"] = nn.Linear(config.d_model, config.vocab_size, bias=False)

    # The parts by name, with the types that an nn.ModuleDict forgets.

    @property
    def embedding(self) -> nn.Embedding:
        return cast("nn.Embedding", self.transformer["wte"])

    @property
    def blocks(self) -> "list[Block]":
        return list(cast("Iterable[Block]", self.transformer["blocks"]))

    @property
    def final_norm(self) -> RMSNorm:
        return cast("RMSNorm", self.transformer["ln_f"])

    @property
    def head_weight(self) -> Tensor:
        """(vocab_size, d_model)"""
        return cast("nn.Linear", self.transformer["wte" if self.config.weight_tying else "ff_out"]).weight

    def initialize(self, generator: torch.Generator) -> None:
        """Normal weights, deviation 0.02; the matrices that write to the residual are scaled by 1/sqrt(2 layers).

        Biases are zeros.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes_residual = name.endswith(("attn_out.weight", "ff_out.weight")) and ".blocks." in name
                deviation = 0.02 / math.sqrt(2 * self.config.n_layers) if writes_residual else 0.02
                nn.init.normal_(parameter, std=deviation, generator=generator)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def forward(
        self,
        tokens: Tensor,
        select: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """`select`: bool (batch, length); then the result is (number of selected, vocab_size), in row-major order.

        positions: int64 (length), each below length, default 0, 1, ...; visible: bool (length, length), which keys
        (columns) a query (row) sees, default the configuration's attention.
        """
        config = self.config
        x = self.embedding(tokens)  # (batch, length, d_model)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        if visible is None and config.attention_block_length is not None:
            visible = block_causal_visible(positions, config.attention_block_length)
        angles = rope_angles(tokens.shape[1], config.rotary_dim, config.rope_theta, tokens.device)[positions]
        cos, sin = angles.cos(), angles.sin()
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, cos, sin, None, visible)
        x = last(x, cos, sin, select, visible)  # the other positions' last MLP and logits would be thrown away
        return F.linear(self.final_norm(x), self.head_weight)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    @classmethod
    def from_folder(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> "LLaDA":
        """Load a folder in the published layout, in any stored type; `dtype` is that of the model's parameters."""
        folder = Path(folder)
        with torch.device("meta"):  # no time for random weights that are overwritten
            model = cls(ModelConfig.from_json(folder / "config.json"))
        model = model.to_empty(device="cpu").to(dtype)
        load_weights(model, folder)
        return model.eval()
