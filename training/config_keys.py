"""Keys of a published config.json that training/model.py does not read, and that would make another network.

The runtime has the same list (csrc/model/config_keys.cc; a test holds the two together), as a fine-tuned model must
compute what its source does: what is refused here would be trained without, and served without.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Published = Mapping[str, Any]


def _is(*allowed: Any) -> Callable[[Any, Published], bool]:
    """One of these values, of the same type: 1 is not True."""
    return lambda value, _: any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in allowed)


def _equals(*names: str) -> Callable[[Any, Published], bool]:
    """The value of the first of these keys that has one."""

    def accepts(value: Any, published: Published) -> bool:
        wanted = next((published[name] for name in names if published.get(name) is not None), None)
        return _close(value, wanted)

    return accepts


def _close(value: Any, wanted: Any) -> bool:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (value, wanted))
    return numbers and abs(value - wanted) <= 1e-6 * abs(wanted)


def _head_dim(published: Published) -> float:
    return published["d_model"] / published["n_heads"]


def _only_default(value: Any, _: Published) -> bool:
    """A record of the rotary angles that scales nothing."""
    return isinstance(value, dict) and all(
        each is None or (name in ("rope_type", "type") and each == "default") for name, each in value.items()
    )


def _agreeing_angles(value: Any, published: Published) -> bool:
    """What transformers 5 writes beside rope_theta."""
    return isinstance(value, dict) and all(
        each is None
        or (name == "rope_type" and each == "default")
        or (name == "rope_theta" and each == published.get("rope_theta"))
        for name, each in value.items()
    )


# What a key may say, as a test of (value, all of config.json), and the keys. null may always stand.
RULES: tuple[tuple[str, Callable[[Any, Published], bool], str], ...] = (
    (
        "false",
        _is(False),
        "alibi attention_layer_norm bias_for_layer_norm include_bias include_qkv_bias input_emb_norm scale_logits "
        "norm_after attention_bias mlp_bias qkv_bias use_bias use_qkv_bias bias lm_head_bias qk_norm use_qk_norm "
        "qk_layernorm use_sliding_window use_mrope use_parallel_residual parallel_residual parallel_attn norm_head "
        "norm_softmax scale_embeddings scale_embedding normalize_embedding rope_interleaved use_scaled_rope "
        "attn_output_gate is_causal use_causal_mask is_decoder is_encoder_decoder add_cross_attention "
        "moe_router_enable_expert_bias attention_sinks attn_temperature_tuning",
    ),
    ("true", _is(True), "rope layer_norm_with_affine rope_full_precision use_rmsnorm full_attn_mask no_bias"),
    (
        "null",
        _is(),
        "clip_qkv quantization_config compression_config attention_window_size attention_chunk_size "
        "attn_logit_softcapping final_logit_softcapping logit_softcap rope_local_base_freq moe_intermediate_size "
        "expert_intermediate_size shared_expert_intermediate_size moe_layer_freq quantization",
    ),
    (
        "1",
        _is(1),
        "block_group_size logit_scale logits_scaling embedding_multiplier embedding_scale scale_emb "
        "residual_multiplier lm_head_multiplier partial_rotary_factor rotary_pct rope_percent rope_factor",
    ),
    ("0", _is(0), "num_shared_experts n_shared_experts num_nextn_predict_layers first_k_dense_replace"),
    ("0 or 1", _is(0, 1), "num_experts num_local_experts n_routed_experts num_experts_per_tok num_experts_per_token"),
    ("nothing in it", _is([], {}), "pruned_heads no_rope_layers"),
    ("llama", _is("llama"), "block_type"),
    ("silu", _is("silu", "swish"), "activation_type hidden_act hidden_activation activation_function"),
    ("rms", _is("rms", "rmsnorm", "rms_norm", "RMSNorm"), "layer_norm_type norm_type normalization_type"),
    ("rope", _is("rope", "rotary"), "position_embedding_type"),
    ("default", _is("default"), "rope_type"),
    ("null or the type default", _only_default, "rope_scaling"),
    (
        "null, or use_sliding_window false",
        lambda _, published: published.get("use_sliding_window") is False,
        "sliding_window",
    ),
    (
        "full_attention in every layer",
        lambda value, _: isinstance(value, list) and all(each == "full_attention" for each in value),
        "layer_types",
    ),
    ("rope_theta and the type default", _agreeing_angles, "rope_parameters"),
    (
        "false, or n_kv_heads 1",
        lambda value, published: value is False or (value is True and published.get("n_kv_heads") == 1),
        "multi_query_attention",
    ),
    ("d_model", _equals("d_model"), "hidden_size n_embd"),
    ("n_layers", _equals("n_layers"), "num_hidden_layers n_layer"),
    ("n_heads", _equals("n_heads"), "num_attention_heads n_head"),
    ("n_kv_heads", _equals("n_kv_heads", "n_heads"), "num_key_value_heads"),
    ("mlp_hidden_size", _equals("mlp_hidden_size"), "intermediate_size ffn_hidden_size"),
    ("rms_norm_eps", _equals("rms_norm_eps"), "layer_norm_eps layer_norm_epsilon norm_eps"),
    (
        "d_model / n_heads",
        lambda value, published: _close(value, _head_dim(published)),
        "head_dim rotary_dim query_pre_attn_scalar",
    ),
    (
        "1 / sqrt(d_model / n_heads)",
        lambda value, published: _close(value, _head_dim(published) ** -0.5),
        "attention_multiplier softmax_scale",
    ),
)


def check_keys(published: Published, path: Path) -> None:
    """ValueError that names the first key whose value asks for another network."""
    for expected, accepts, names in RULES:
        for name in names.split():
            value = published.get(name)
            if value is not None and not accepts(value, published):
                raise ValueError(f"{path}: {name}: expected {expected}, got {str(value)[:80]}")
