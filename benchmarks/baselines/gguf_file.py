"""An ARM folder as a GGUF file of the llama architecture, for llama.cpp.

Sizes, norms and matrices are Llama's under other names. One thing differs: llama.cpp rotates neighbouring pairs of a
head where this project rotates its halves, so the rows of Q and K are reordered, as llama.cpp's own converter does with
Hugging Face's Llama. There is no vocabulary in the file: it is fed token ids and gives token ids.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from benchmarks.baselines.contract import NotInstalled
from training.model import LLaDA, ModelConfig

GgufType = Literal["f32", "f16", "bf16", "q8_0"]
Q8_GROUP = 32


def export_gguf(folder: Path, target: Path, gguf_type: GgufType = "bf16") -> Path:
    """Matrices in `gguf_type`, norms in float32. Returns the target.

    Raises NotInstalled without the package `gguf`; ValueError for a model that is no ARM, or of sizes that q8_0 has no
    groups for.
    """
    try:
        import gguf
    except ImportError:
        raise NotInstalled("GGUF export", "gguf") from None
    if gguf_type not in get_args(GgufType):
        raise ValueError(f"type: expected one of {', '.join(get_args(GgufType))}, got {gguf_type!r}")
    model = LLaDA.from_folder(folder, dtype=torch.float32)
    config = model.config
    if not config.causal:
        raise ValueError(f"{folder}: expected a causal model (an ARM), got one with full attention")
    if gguf_type == "q8_0" and (config.d_model % Q8_GROUP or config.mlp_hidden_size % Q8_GROUP):
        raise ValueError(
            f"q8_0: expected d_model and mlp_hidden_size as multiples of {Q8_GROUP}, "
            f"got {config.d_model} and {config.mlp_hidden_size}"
        )
    types = {name: getattr(gguf.GGMLQuantizationType, name.upper()) for name in get_args(GgufType)}
    writer = gguf.GGUFWriter(target, "llama")
    _add_sizes(writer, config)
    for name, values in _tensors(model):
        stored = types["f32" if values.ndim == 1 else gguf_type]
        writer.add_tensor(name, gguf.quants.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _add_sizes(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.max_sequence_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.mlp_hidden_size)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")


def _tensors(model: LLaDA) -> Iterator[tuple[str, np.ndarray]]:
    """(name in GGUF, float32 values) of all weights."""
    config = model.config
    yield "token_embd.weight", _numpy(model.embedding.weight)
    yield "output_norm.weight", _numpy(model.final_norm.weight)
    if not config.weight_tying:
        yield "output.weight", _numpy(model.head_weight)
    for index, block in enumerate(model.blocks):
        layer = f"blk.{index}."
        yield layer + "attn_norm.weight", _numpy(block.attn_norm.weight)
        yield layer + "attn_q.weight", halves_to_pairs(_numpy(block.q_proj.weight), config.n_heads)
        yield layer + "attn_k.weight", halves_to_pairs(_numpy(block.k_proj.weight), config.n_kv_heads)
        yield layer + "attn_v.weight", _numpy(block.v_proj.weight)
        yield layer + "attn_output.weight", _numpy(block.attn_out.weight)
        yield layer + "ffn_norm.weight", _numpy(block.ff_norm.weight)
        yield layer + "ffn_gate.weight", _numpy(block.ff_proj.weight)
        yield layer + "ffn_up.weight", _numpy(block.up_proj.weight)
        yield layer + "ffn_down.weight", _numpy(block.ff_out.weight)


def _numpy(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().numpy()


def halves_to_pairs(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of each head 0, 1, ..., n-1 -> 0, n/2, 1, n/2 + 1, ...: what was half a head apart stands side by side.

    weight: (num_heads * head_dim, inputs).
    """
    rows, inputs = weight.shape
    heads = weight.reshape(num_heads, 2, rows // num_heads // 2, inputs)
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows, inputs)
