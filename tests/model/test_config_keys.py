"""Keys of config.json that the loader does not read: refused where they ask for another model, told where unknown."""

import json
import random
import string
import warnings
from pathlib import Path

import pytest

from llada_rt import Engine, ModelWarning, UnsupportedModelError, _core
from llada_rt.runtime.footprint import Load
from llada_rt.tools.inspection import inspect_model
from llada_rt.tools.verification import verify_folder
from tests.data.make_goldens import CHECKPOINT
from tests.golden import FOLDERS
from tests.model.folders import CONFIG, write_config, write_model
from tests.model.test_bad_files import refused
from training.model import ModelConfig

HEAD_DIM = CONFIG["d_model"] // CONFIG["n_heads"]
KV_HEADS = CONFIG["n_kv_heads"]
RMS = ["rms", "rmsnorm", "rms_norm", "RMSNorm"]

# (keys, values that ask for another model, values that ask for nothing)
MATRIX = [
    (
        "alibi attention_layer_norm bias_for_layer_norm include_bias include_qkv_bias input_emb_norm scale_logits "
        "norm_after attention_bias mlp_bias qkv_bias use_bias use_qkv_bias bias lm_head_bias qk_norm use_qk_norm "
        "qk_layernorm use_sliding_window use_mrope use_parallel_residual parallel_residual parallel_attn norm_head "
        "norm_softmax scale_embeddings scale_embedding normalize_embedding rope_interleaved use_scaled_rope "
        "attn_output_gate is_causal use_causal_mask is_decoder is_encoder_decoder add_cross_attention "
        "moe_router_enable_expert_bias attention_sinks attn_temperature_tuning",
        [True, 1, "yes", [], {"a": {}}],
        [False, None],
    ),
    ("layer_norm_with_affine rope_full_precision use_rmsnorm full_attn_mask no_bias", [False, 1, []], [True, None]),
    (
        "clip_qkv quantization_config compression_config attention_window_size attention_chunk_size "
        "attn_logit_softcapping final_logit_softcapping logit_softcap rope_local_base_freq moe_intermediate_size "
        "expert_intermediate_size shared_expert_intermediate_size moe_layer_freq",
        [8.0, 4096, {"bits": 4}, [0, 1], True],
        [None],
    ),
    (
        "block_group_size logit_scale logits_scaling embedding_multiplier embedding_scale scale_emb "
        "residual_multiplier lm_head_multiplier partial_rotary_factor rotary_pct rope_percent rope_factor",
        [2, 0.5, 0, True, "1", {}],
        [1, 1.0, None],
    ),
    ("num_shared_experts n_shared_experts num_nextn_predict_layers first_k_dense_replace", [1, 2, True], [0, None]),
    (
        "num_experts num_local_experts n_routed_experts num_experts_per_tok num_experts_per_token",
        [2, 16, "8", False],
        [0, 1, None],
    ),
    ("pruned_heads no_rope_layers", [{"0": [1]}, [1], 3], [{}, [], None]),
    ("hidden_act hidden_activation activation_function", ["gelu", "relu2", 1], ["silu", "swish", None]),
    ("norm_type normalization_type", ["layer_norm", True], [*RMS, None]),
    ("position_embedding_type", ["absolute", "alibi"], ["rope", "rotary", None]),
    ("rope_type", ["yarn", "llama3"], ["default", None]),
    (
        "rope_scaling",
        [{"type": "linear", "factor": 2.0}, {"rope_type": "default", "factor": 8.0}, "yarn", 4],
        [{"rope_type": "default"}, {"type": "default", "factor": None}, {}, None],
    ),
    ("sliding_window", [4096, 0, "4096"], [None]),
    ("layer_types", [["sliding_attention"], ["full_attention", 1], "full_attention"], [["full_attention"] * 2, None]),
    ("hidden_size n_embd", [CONFIG["d_model"] + 8, "32"], [CONFIG["d_model"], None]),
    ("num_hidden_layers n_layer", [CONFIG["n_layers"] + 1], [CONFIG["n_layers"], None]),
    ("num_attention_heads n_head", [CONFIG["n_heads"] + 1], [CONFIG["n_heads"], None]),
    ("num_key_value_heads", [KV_HEADS + 1], [KV_HEADS, None]),
    ("head_dim rotary_dim query_pre_attn_scalar", [HEAD_DIM // 2, HEAD_DIM * 2], [HEAD_DIM, float(HEAD_DIM), None]),
    ("intermediate_size ffn_hidden_size", [1], [CONFIG["mlp_hidden_size"], None]),
    ("layer_norm_eps layer_norm_epsilon norm_eps", [1e-12, 1.0], [CONFIG["rms_norm_eps"], None]),
    ("attention_multiplier softmax_scale", [1.0, HEAD_DIM], [HEAD_DIM**-0.5, None]),
]
CHANGING = [(key, value) for keys, changing, _ in MATRIX for key in keys.split() for value in changing]
NEUTRAL = [(key, value) for keys, _, neutral in MATRIX for key in keys.split() for value in neutral]

# What published folders hold and what asks for nothing, whatever it says.
HARMLESS = """
    architectures auto_map torch_dtype dtype transformers_version _name_or_path use_cache return_dict
    output_attentions output_hidden_states chunk_size_feed_forward id2label label2id tokenizer_class bos_token_id
    eot_token_id max_length do_sample temperature top_k top_p num_beams repetition_penalty bad_words_ids
    attention_dropout residual_dropout embedding_dropout hidden_dropout initializer_range init_fn init_std
    init_device init_cutoff_factor precision pretraining_tp flash_attention alibi_bias_max
    attention_layer_norm_with_affine max_position_embeddings max_window_layers tie_word_embeddings mlp_ratio
"""
ANY_VALUE = [None, True, False, 0, 0.1, -1, "x", [], ["a", {}], {}, {"a": {"b": [None]}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("keys"))


@pytest.mark.parametrize(("key", "value"), CHANGING, ids=lambda value: str(value)[:40])
def test_key_that_asks_for_another_model_is_refused_by_name(folder: Path, key, value):
    write_config(folder, {key: value})
    with pytest.raises(UnsupportedModelError, match=rf"config\.json: {key}: expected .*, got "):
        _core.describe_model(str(folder))
    with pytest.raises(ValueError, match=f"{key}: expected"):
        ModelConfig.from_json(folder / "config.json")


@pytest.mark.parametrize(("key", "value"), NEUTRAL, ids=lambda value: str(value)[:40])
def test_the_same_key_at_a_value_that_asks_for_nothing(folder: Path, key, value):
    model, _ = _core.describe_model(str(write_config(folder, {key: value})))
    assert model["unknown_keys"] == []
    ModelConfig.from_json(folder / "config.json")


@pytest.mark.parametrize("key", HARMLESS.split())
def test_key_that_may_say_anything(folder: Path, key):
    for value in ANY_VALUE:
        model, _ = _core.describe_model(str(write_config(folder, {key: value})))
        assert model["unknown_keys"] == []
        ModelConfig.from_json(folder / "config.json")


def test_a_window_that_is_switched_off(folder: Path):
    off = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
    assert _core.describe_model(str(write_config(folder, off)))[0]["unknown_keys"] == []
    ModelConfig.from_json(folder / "config.json")
    refused(write_config(folder, {"sliding_window": 4096}), UnsupportedModelError, "sliding_window", "4096")


@pytest.mark.parametrize("key", ["causal", "attention_block_length"])
def test_what_the_training_marks_by_another_model_type_is_refused_here(folder: Path, key):
    refused(write_config(folder, {key: 4 if key == "attention_block_length" else True}), UnsupportedModelError, key)


def test_unknown_keys_are_named_whatever_they_are(folder: Path):
    draw = random.Random(7)
    letters = string.ascii_letters + "_ é\u4e00'\"\\\n\t\x01"
    for _ in range(300):
        names = {"x" + "".join(draw.choices(letters, k=draw.randint(1, 90))) for _ in range(draw.randint(1, 12))}
        write_config(folder, {name: draw.choice(ANY_VALUE) for name in names})
        model, _ = _core.describe_model(str(folder))
        assert sorted(model["unknown_keys"]) == sorted(names)


def test_unknown_keys_are_told_where_one_looks(folder: Path):
    write_config(folder, {"rope_wobble": 2.0, "extra\nline": [1], "attention_bias": False})
    with pytest.warns(ModelWarning, match=r"unknown keys 'rope_wobble', 'extra\\nline': this runtime") as seen:
        engine = Engine(folder, threads=1)
    assert seen[0].filename == __file__
    with engine:
        assert engine.info()["model"]["unknown_keys"] == ["rope_wobble", "extra\nline"]
    load = Load(num_seqs=1, length=32, block_length=32, max_num_batched_tokens=64, num_threads=1)
    assert any("'rope_wobble'" in problem for problem in inspect_model(folder, load)["problems"])
    check = verify_folder(folder)[0]
    assert (check.name, check.is_good) == ("config", True)
    assert "'rope_wobble'" in check.detail


def test_many_unknown_keys_are_counted(folder: Path):
    write_config(folder, {f"key_{number}_{'x' * 500}": 1 for number in range(1000)})
    with pytest.warns(ModelWarning, match="and 992 more") as seen, Engine(folder, threads=1):
        pass
    assert len(str(seen[0].message)) < 1000


LLADA = [CHECKPOINT, *FOLDERS]


@pytest.mark.parametrize("path", LLADA, ids=lambda path: path.name)
def test_configurations_as_published_load_without_a_warning(path: Path, tmp_path):
    text = (path / "config.json").read_text()
    assert json.loads(text)["model_type"] == "llada"
    (tmp_path / "config.json").write_text(text)
    assert _core.describe_model(str(tmp_path))[0]["unknown_keys"] == []
    ModelConfig.from_json(tmp_path / "config.json")


def test_the_demo_loads_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Engine(threads=1) as engine:
            assert engine.info()["model"]["unknown_keys"] == []
