"""config.json that must be refused: what the forward pass does not implement, what is missing, what contradicts."""

import json
from pathlib import Path

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.errors import ModelError, ModelFormatError, UnsupportedModelError
from tests.model.folders import CONFIG, TOKENS, write_config, write_model
from tests.model.test_bad_files import refused

UNSUPPORTED = [
    ("model_type", "llama"),
    ("model_type", "llada2_moe"),
    ("block_type", "sequential"),
    ("block_type", "gpt2"),
    ("block_group_size", 2),
    ("activation_type", "swiglu"),
    ("activation_type", "gelu"),
    ("layer_norm_type", "default"),
    ("layer_norm_type", "low_precision"),
    ("layer_norm_with_affine", False),
    ("rope", False),
    ("rope_full_precision", False),
    ("rope_scaling", {"type": "linear", "factor": 2.0}),
    ("alibi", True),
    ("attention_layer_norm", True),
    ("bias_for_layer_norm", True),
    ("include_bias", True),
    ("include_qkv_bias", True),
    ("input_emb_norm", True),
    ("scale_logits", True),
    ("clip_qkv", 8.0),
    ("quantization_config", {"bits": 4}),
    ("compression_config", {"format": "pack-quantized"}),
    ("rope_parameters", {"rope_type": "yarn", "rope_theta": 10000.0}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 10000.0, "factor": 4.0}),
    ("rope_parameters", {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    ("n_heads", 8),  # head_dim 4
]


@pytest.mark.parametrize(("key", "value"), UNSUPPORTED, ids=lambda value: str(value))
def test_field_that_the_forward_pass_does_not_implement(tmp_path, key, value):
    write_model(tmp_path)
    refused(write_config(tmp_path, {key: value}), UnsupportedModelError, key)


REQUIRED = [
    "model_type",
    "block_type",
    "activation_type",
    "layer_norm_type",
    "rope",
    "d_model",
    "n_layers",
    "n_heads",
    "mlp_hidden_size",
    "vocab_size",
    "max_sequence_length",
    "rope_theta",
    "rms_norm_eps",
    "weight_tying",
]


@pytest.mark.parametrize("how", ["missing", "null"])
@pytest.mark.parametrize("key", REQUIRED)
def test_key_that_has_no_default(tmp_path, key, how):
    """The published class defaults describe another model: nothing is filled in."""
    write_model(tmp_path)
    changes = {} if how == "missing" else {key: None}
    refused(
        write_config(tmp_path, changes, drop=(key,) if how == "missing" else ()),
        ModelFormatError,
        "mlp_" if key == "mlp_hidden_size" else key,
    )


CONTRADICTING = [
    ("d_model", 96, "shape"),
    ("d_model", 64, "shape"),
    ("n_layers", 1, "blocks.1"),
    ("n_layers", 3, "blocks.2"),
    ("n_heads", 3, "n_heads"),
    ("n_heads", 2, ""),
    ("n_kv_heads", 3, "n_kv_heads"),
    ("n_kv_heads", 4, "k_proj"),
    ("n_kv_heads", 1, "k_proj"),
    ("mlp_hidden_size", 80, "ff_proj"),
    ("embedding_size", 168, "wte"),
    ("embedding_size", 152, "embedding_size"),
    ("vocab_size", 168, ""),
    ("multi_query_attention", True, ""),
    ("mask_token_id", 160, "mask_token_id"),
    ("mask_token_id", -1, "mask_token_id"),
    ("eos_token_id", 10**12, "eos_token_id"),
]


@pytest.mark.parametrize(("key", "value", "fragment"), CONTRADICTING, ids=lambda value: str(value))
def test_value_that_contradicts_the_tensors(tmp_path, key, value, fragment):
    write_model(tmp_path)
    refused(write_config(tmp_path, {key: value}), ModelError, fragment)


SIZES = ("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "vocab_size", "max_sequence_length")
NO_SIZE = (0, -1, 1.5, "32", True, [], 10**9, 2**31, 2**63, 2**64, 10**400)


@pytest.mark.parametrize("value", NO_SIZE, ids=lambda value: repr(value)[:24])
@pytest.mark.parametrize("key", SIZES)
def test_size_that_is_none(tmp_path, key, value):
    write_model(tmp_path)
    beyond = isinstance(value, int) and value >= 2**63  # the reader of JSON stops there and names the byte
    refused(write_config(tmp_path, {key: value}), ModelError, "64 bits" if beyond else key)


@pytest.mark.parametrize("value", ["0", "0.0", "-1.0", '"1"', "true", "[]", "NaN", "Infinity", "1e999", "-0.0"])
@pytest.mark.parametrize("key", ["rope_theta", "rms_norm_eps"])
def test_number_that_is_not_positive(tmp_path, key, value):
    folder = write_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    text = json.dumps({**config, key: "HERE"}).replace('"HERE"', value)
    (folder / "config.json").write_text(text)
    refused(folder, ModelFormatError, "config.json")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"[" * 10**5,
        b" " * (8 << 20),
        b'{"a":1,"a":2}',
    ],
    ids=lambda raw: repr(raw[:8]),
)
def test_config_that_is_none(tmp_path, raw):
    folder = write_model(tmp_path)
    (folder / "config.json").write_bytes(raw)
    refused(folder, ModelFormatError, "config.json")


def test_config_with_a_key_twice(tmp_path):
    folder = write_model(tmp_path)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-1] + ', "d_model": 64}')
    refused(folder, ModelFormatError, "d_model")


# --- what newer writers write


def logits_of(folder: Path) -> np.ndarray:
    return _core.Runtime(str(folder), compute_type="float32", num_threads=1).forward(TOKENS)


@pytest.mark.parametrize(
    "record",
    [
        {"rope_type": "default", "rope_theta": CONFIG["rope_theta"]},
        {"rope_theta": CONFIG["rope_theta"]},
        {"rope_theta": CONFIG["rope_theta"], "rope_type": None, "factor": None},
    ],
)
@pytest.mark.parametrize("drop", [("rope_theta",), ()])
def test_rope_parameters_stand_for_rope_theta(tmp_path, record, drop):
    """As transformers 5 writes them."""
    want = logits_of(write_model(tmp_path))
    assert np.array_equal(logits_of(write_config(tmp_path, {"rope_parameters": record}, drop=drop)), want)


def test_rope_parameters_count_as_much_as_rope_theta(tmp_path):
    write_model(tmp_path)
    want = logits_of(write_config(tmp_path, {"rope_theta": 1234.0}))
    other = {"rope_parameters": {"rope_type": "default", "rope_theta": 1234.0}}
    assert np.array_equal(logits_of(write_config(tmp_path, other, drop=("rope_theta",))), want)
    refused(write_config(tmp_path, {**other, "rope_theta": 1235.0}), ModelFormatError, "rope_theta", "1234")
    without = {"rope_parameters": {"rope_type": "default"}}
    refused(write_config(tmp_path, without, drop=("rope_theta",)), ModelFormatError, "rope_theta", "missing")


def test_several_end_tokens(tmp_path):
    write_model(tmp_path)
    runtime = _core.Runtime(str(write_config(tmp_path, {"eos_token_id": [3, 5]})), num_threads=1)
    assert runtime.config["eos_token_id"] == 3
    refused(write_config(tmp_path, {"eos_token_id": []}), ModelFormatError, "eos_token_id", "empty list")
    refused(write_config(tmp_path, {"eos_token_id": [3, 10**6]}), ModelFormatError, "eos_token_id", "1000000")
    refused(write_config(tmp_path, {"eos_token_id": [3, "x"]}), ModelFormatError, "eos_token_id")
