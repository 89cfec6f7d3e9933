"""Layouts a published checkpoint may come in: shards, element types, tied heads, odd offsets, missing optional keys."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llada_rt import _core
from tests.model.folders import (
    CONFIG,
    TENSORS,
    TOKENS,
    assemble,
    halves,
    header_and_data,
    write_config,
    write_model,
    write_shards,
)
from tests.reference.forward import Model
from tests.tolerance import FORWARD_FLOOR, error

HEAD = "model.transformer.ff_out.weight"


def logits(folder: Path, compute_type: str = "float32") -> np.ndarray:
    return _core.Runtime(str(folder), compute_type=compute_type).forward(TOKENS)


def assert_equals_reference(folder: Path) -> None:
    want = Model(folder).forward(TOKENS)
    assert error(logits(folder), want) <= 5 * FORWARD_FLOOR["float32"] * np.abs(want).max()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> np.ndarray:
    return logits(write_model(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_element_types(tmp_path, dtype):
    folder = write_model(tmp_path, {name: t.to(getattr(torch, dtype)) for name, t in TENSORS.items()})
    assert_equals_reference(folder)
    assert _core.Runtime(str(folder)).compute_type == ("float32" if dtype == "float32" else "bfloat16")
    assert _core.Runtime(str(folder)).config["checkpoint_dtype"] == dtype


def test_bfloat16_checkpoint_computes_alike_from_both_types(tmp_path):
    """bfloat16 weights kept in float32 are the same weights: only what is computed in between is rounded."""
    rounded = {name: t.bfloat16() for name, t in TENSORS.items()}
    narrow = logits(write_model(tmp_path / "narrow", rounded), "bfloat16")
    wide = logits(write_model(tmp_path / "wide", {name: t.float() for name, t in rounded.items()}), "bfloat16")
    assert np.array_equal(narrow, wide)


def test_mixed_element_types(tmp_path):
    mixed = {name: t.bfloat16() if "proj" in name else t for name, t in TENSORS.items()}
    assert_equals_reference(write_model(tmp_path, mixed))


def test_tied_head(tmp_path):
    tensors = {name: t for name, t in TENSORS.items() if name != HEAD}
    assert_equals_reference(write_model(tmp_path, tensors, {"weight_tying": True}))


def test_shards(tmp_path, whole):
    assert np.array_equal(logits(write_shards(tmp_path, *halves())), whole)


def test_one_file_beside_others(tmp_path, whole):
    """Tokenizer files, licence, a stray forward.safetensors: only the model's own files are read."""
    folder = write_model(tmp_path)
    (folder / "forward.safetensors").write_bytes(b"not a model")
    (folder / "README.md").write_text("hello")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04never opened")
    assert np.array_equal(logits(folder), whole)


@pytest.mark.parametrize("spaces", range(1, 9))
def test_data_at_any_alignment(tmp_path, whole, spaces):
    header, data = header_and_data()
    text = str(header).replace("'", '"').encode() + b" " * spaces
    write_config(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(assemble(text, data))
    assert np.array_equal(logits(tmp_path), whole)


def test_link_inside_the_folder(tmp_path, whole):
    folder = write_model(tmp_path)
    (folder / "model.safetensors").rename(folder / "weights.bin")
    (folder / "model.safetensors").symlink_to("weights.bin")
    assert np.array_equal(logits(folder), whole)


def test_link_into_a_hub_cache(tmp_path, whole):
    """snapshots/<revision>/x -> ../../blobs/y, as huggingface_hub stores it."""
    source, snapshot = write_model(tmp_path / "source"), tmp_path / "repository" / "snapshots" / "abc"
    blobs = tmp_path / "repository" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).rename(blobs / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    assert np.array_equal(logits(snapshot), whole)


@pytest.mark.parametrize(
    ("changes", "drop"),
    [
        ({"mlp_ratio": CONFIG["mlp_hidden_size"] / CONFIG["d_model"]}, ("mlp_hidden_size",)),
        ({"vocab_size": 155}, ()),  # the matrices have padding rows, as published ones do
        ({}, ("mask_token_id", "eos_token_id", "pad_token_id")),
        ({}, ("alibi", "include_bias", "use_cache", "torch_dtype", "architectures")),
        ({"rope_theta": 10000, "some_future_key": {"a": [1]}}, ()),
    ],
    ids=["mlp_ratio", "padding rows", "no special ids", "no optional keys", "integer theta, unknown key"],
)
def test_config_variants(tmp_path, whole, changes, drop):
    write_model(tmp_path)
    assert np.array_equal(logits(write_config(tmp_path, changes, drop=drop)), whole)


@pytest.mark.parametrize("hidden", [7, 71, 73])
def test_mlp_of_odd_width(tmp_path, hidden):
    """Rows that end inside a pair of bfloat16 values."""
    rng = torch.Generator().manual_seed(hidden)
    tensors = dict(TENSORS)
    for name in (name for name in TENSORS if (".blocks." in name and "ff_" in name) or "up_" in name):
        if TENSORS[name].dim() == 2:
            size = (32, hidden) if "ff_out" in name else (hidden, 32)
            tensors[name] = torch.randn(size, generator=rng).bfloat16().float() / 4
    folder = write_model(tmp_path, tensors, {"mlp_hidden_size": hidden})
    assert_equals_reference(folder)
    narrow = logits(folder, "bfloat16")
    assert error(narrow, logits(folder)) <= 3 * FORWARD_FLOOR["bfloat16"] * np.abs(narrow).max()


@pytest.mark.parametrize("value", [0.0, 1e-40], ids=["zeros", "denormals"])
def test_weights_of_zeros_and_denormals(tmp_path, value):
    tensors = {name: torch.full_like(t, value) for name, t in TENSORS.items()}
    for compute_type in ("float32", "bfloat16"):
        folder = write_model(tmp_path, tensors)
        assert np.isfinite(logits(folder, compute_type)).all()


def test_runtime_outlives_its_files(tmp_path, whole):
    """The loader copies and unmaps: truncating or deleting a file afterwards changes nothing."""
    runtime = _core.Runtime(str(write_model(tmp_path)), compute_type="float32")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "model.safetensors").unlink()
    assert np.array_equal(runtime.forward(TOKENS), whole)
