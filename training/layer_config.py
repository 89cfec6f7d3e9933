"""What a layer of a transformer may be, as values. csrc/model/layer_config.h has the same fields; a test holds the two
together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

CHOICES = {
    "qk_norm": ("none", "per_head", "whole"),
    "qk_norm_place": ("before_rope", "after_rope"),
    "attention": ("full", "block_causal"),
    "mlp": ("dense", "moe"),
    "router": ("none", "softmax", "grouped_sigmoid"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """One layer; `mlp="moe"` and its fields can be said, but not trained."""

    head_dim: int
    rotary_dim: int  # leading dimensions of a head that are rotated; the others pass through
    qkv_bias: bool = False  # of all three projections
    qk_norm: str = "none"  # RMSNorm of Q and of K: over each head, or over all heads at once
    qk_norm_place: str = "before_rope"  # means nothing without a norm
    attention: str = "full"  # block_causal: a position sees its block and those before
    mlp: str = "dense"
    mlp_hidden_size: int
    num_experts: int = 0
    top_k: int = 0
    num_shared_experts: int = 0
    router: str = "none"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("head_dim", "rotary_dim"):
            if getattr(self, name) < 2 or getattr(self, name) % 2:
                raise ValueError(f"{name}: expected a positive even number, got {getattr(self, name)}")
        if self.rotary_dim > self.head_dim:
            raise ValueError(f"rotary_dim: expected at most head_dim {self.head_dim}, got {self.rotary_dim}")

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> "LayerConfig":
        """From an entry of `layers` in config.json."""
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in value if name not in names]:
            raise ValueError(f"layers: expected entries of {', '.join(names)}, got {', '.join(unknown)}")
        return cls(**value)

    def check_dense(self) -> None:
        """ValueError that names the first field that asks for experts."""
        for name, only in (("mlp", "dense"), ("num_experts", 0), ("top_k", 0), ("num_shared_experts", 0)):
            if getattr(self, name) != only:
                raise ValueError(f"{name}: expected {only}, got {getattr(self, name)}: there are no experts here")
        if self.router != "none":
            raise ValueError(f"router: expected none, got {self.router}: there are no experts here")
