"""The torch definition against the recorded logits of the published code, and its own properties."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.golden import folder_params
from tests.tolerance import FORWARD_FLOOR, error
from tests.training.conftest import small_config, small_model
from training.model import FIXED_FIELDS, LLaDA, ModelConfig
from training.weights import save_weights


@pytest.mark.parametrize("folder", folder_params())
def test_logits_equal_the_recorded_ones(folder):
    model, recorded = LLaDA.from_folder(folder), load_file(folder / "forward.safetensors")
    names = [name.removesuffix("_ids") for name in recorded if name.endswith("_ids")]
    assert names
    for name in names:
        with torch.no_grad():
            logits = model(recorded[f"{name}_ids"].long()[None])[0]
        truth, plain = recorded[f"{name}_logits_float64"].numpy(), recorded[f"{name}_logits"].numpy()
        floor = FORWARD_FLOOR["float32"] * np.abs(truth).max()
        assert error(logits.numpy(), truth) <= 2 * error(plain, truth) + floor


@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 1}, {"weight_tying": True}])
def test_selected_logits_are_rows_of_all_logits(options):
    model, tokens = small_model(**options), torch.arange(14).reshape(2, 7)
    select = torch.rand(2, 7) < 0.5
    torch.testing.assert_close(model(tokens, select), model(tokens)[select])


def test_every_position_sees_every_other_one_and_a_causal_model_only_earlier_ones():
    tokens = torch.arange(6)[None]
    changed = tokens.clone()
    changed[0, 4] = 9
    for causal, affected in ((False, [True] * 6), (True, [False] * 4 + [True] * 2)):
        model = small_model(causal=causal)
        assert ((model(tokens) != model(changed)).any(-1)[0]).tolist() == affected


def test_plain_attention_in_bf16_is_the_fused_one():
    """The formula used under bf16 against the fused kernel used in float32."""
    model, tokens = small_model(), torch.arange(20).reshape(2, 10)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = model(tokens)
    wide = model(tokens)
    assert (narrow.float() - wide).abs().max() < 0.05 * wide.abs().max()


@pytest.mark.parametrize(
    "options", [{}, {"n_kv_heads": 1, "rope_theta": 5e5}, {"weight_tying": True}, {"causal": True}]
)
def test_save_and_load_keep_the_weights(tmp_path, options):
    model = small_model(**options)
    (tmp_path / "config.json").write_text(model.config.to_json("float32"))
    save_weights(model.state_dict(), tmp_path, torch.float32)
    loaded = LLaDA.from_folder(tmp_path)
    assert loaded.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    names = load_file(tmp_path / "model.safetensors")
    assert "model.transformer.blocks.0.ff_out.weight" in names
    assert ("model.transformer.ff_out.weight" in names) != model.config.weight_tying


@pytest.mark.parametrize(("name", "value"), [("alibi", True), ("block_type", "sequential"), ("include_bias", True)])
def test_a_config_of_another_network_is_refused_by_name(tmp_path, name, value):
    config = json.loads(small_config().to_json("float32"))
    (tmp_path / "config.json").write_text(json.dumps({**config, name: value}))
    with pytest.raises(ValueError, match=name):
        ModelConfig.from_json(tmp_path / "config.json")


@pytest.mark.parametrize("folder", folder_params())
def test_the_written_config_has_every_published_field(folder):
    published = json.loads((folder / "config.json").read_text())
    assert set(json.loads(small_config().to_json("float32"))) == set(published)
    assert {name: published[name] for name in FIXED_FIELDS} == FIXED_FIELDS


def test_heads_must_divide():
    with pytest.raises(ValueError, match="5 heads"):
        small_config(n_heads=5)
    with pytest.raises(ValueError, match="n_kv_heads 3"):
        small_config(n_heads=4, n_kv_heads=3)


def test_a_missing_tensor_is_an_error(tmp_path):
    model = small_model()
    (tmp_path / "config.json").write_text(small_config(n_layers=3).to_json("float32"))
    save_weights(model.state_dict(), tmp_path, torch.float32)
    with pytest.raises(ValueError, match=r"blocks\.2"):
        LLaDA.from_folder(tmp_path)
