"""The seam between families and the transformer, through a family that only the test program knows
(tests/cpp/test_families.cc): what a LayerConfig can say either computes what numpy says, or is refused by name.
"""

import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.reference.forward import Model
from tests.tolerance import FORWARD_FLOOR, error
from tests.training.conftest import small_config
from training.layer_config import LayerConfig
from training.model import LLaDA
from training.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("c++")
FLAGS = ["-std=c++20", "-O1", "-pthread", "-Wno-psabi", "-DLLADA_TABLE=generic", "-I", str(ROOT / "csrc")]
SOURCES = [
    path for folder in ("core", "ops", "cpu", "model") for path in sorted((ROOT / "csrc" / folder).rglob("*.cc"))
]
TOKENS = np.arange(3, 16)
PLAIN = LayerConfig(head_dim=16, rotary_dim=16, mlp_hidden_size=48)

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("families")

    def compiled(source: Path) -> Path:
        out = folder / f"{source.parent.name}_{source.stem}.o"
        subprocess.run([COMPILER, *FLAGS, "-c", str(source), "-o", str(out)], check=True)
        return out

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        objects = [*pool.map(compiled, [*SOURCES, ROOT / "tests/cpp/test_families.cc"])]
    subprocess.run([COMPILER, "-pthread", *objects, "-o", str(folder / "test_families")], check=True)
    return folder / "test_families"


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def write_layers(folder: Path, *layers: LayerConfig, **changes) -> Path:
    """A folder with random weights whose config.json has the list `layers`."""
    model = LLaDA(small_config(n_kv_heads=1, layers=layers, **changes))
    model.initialize(torch.Generator().manual_seed(0))
    (folder / "config.json").write_text(model.config.to_json("float32"))
    save_weights(model.state_dict(), folder, torch.float32)
    return folder


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_registry_and_records(program):
    ran = run(program)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("0 failures\n", "", 0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        [{}, {}],
        [{"mlp_hidden_size": 40}, {"mlp_hidden_size": 56}],
        [{"head_dim": 24, "rotary_dim": 24}] * 2,
        [{"head_dim": 8, "rotary_dim": 8}, {"head_dim": 8, "rotary_dim": 8, "mlp_hidden_size": 50}],
    ],
    ids=["plain", "layers of different width", "wide heads", "narrow heads"],
)
def test_a_family_beside_llada_computes_what_numpy_says(program, tmp_path, sizes, tied):
    folder = write_layers(tmp_path, *(LayerConfig(**{**asdict(PLAIN), **own}) for own in sizes), weight_tying=tied)
    ran = run(program, folder, "float32", *TOKENS)
    assert ran.stderr == ""
    want = Model(folder).forward(TOKENS)
    logits = np.array(ran.stdout.split(), np.float64).reshape(want.shape)
    assert error(logits, want) <= FORWARD_FLOOR["float32"] * np.abs(want).max()


REFUSED = [
    ("qk_norm", "per_head", "expected none, got per_head; this runtime's transformer has no norm of queries and keys"),
    ("qk_norm", "whole", "expected none, got whole; this runtime's transformer has no norm of queries and keys"),
    ("qk_norm_place", "after_rope", "expected before_rope, got after_rope; this runtime's transformer has no norm"),
    ("qkv_bias", True, "expected false, got true; this runtime's transformer has no biases of projections"),
    ("rotary_dim", 8, "expected 16, got 8; this runtime's transformer has no rotation of a part of a head"),
    ("head_dim", 24, "expected 16, got 24; this runtime's transformer has no layers of different head_dim"),
    ("attention", "block_causal", "expected full, got block_causal; this runtime's transformer has no block-causal"),
    ("mlp", "moe", "expected dense, got moe; this runtime's transformer has no experts"),
    ("num_experts", 8, "expected 0, got 8; this runtime's transformer has no experts"),
    ("top_k", 2, "expected 0, got 2; this runtime's transformer has no experts"),
    ("num_shared_experts", 1, "expected 0, got 1; this runtime's transformer has no experts"),
    ("router", "softmax", "expected none, got softmax; this runtime's transformer has no experts"),
    ("router", "grouped_sigmoid", "expected none, got grouped_sigmoid; this runtime's transformer has no experts"),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED, ids=lambda value: str(value)[:24])
def test_what_the_transformer_does_not_do_is_refused_by_name(program, tmp_path, field, value, message):
    folder = write_layers(tmp_path, PLAIN, PLAIN)
    change_config(folder, layers=[asdict(PLAIN), {**asdict(PLAIN), field: value}])
    ran = run(program, folder, "float32", *TOKENS)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"unsupported: config.json: layer 1: {field}: {message}")


@pytest.mark.parametrize(("field", "value"), [("logit_shift", True), ("block_length", 32)])
def test_what_the_model_as_a_whole_asks_for_is_refused_by_name(program, tmp_path, field, value):
    folder = write_layers(tmp_path, PLAIN, PLAIN)
    change_config(folder, **{field: value})
    ran = run(program, folder, "float32", *TOKENS)
    assert ran.returncode == 1
    assert re.match(
        rf"unsupported: config\.json: {field}: expected .*, got .*; this runtime's transformer has", ran.stderr
    )


def test_a_model_without_layers_is_refused(program, tmp_path):
    change_config(write_layers(tmp_path, PLAIN, PLAIN), layers=[])
    assert "config.json: expected at least one layer" in run(program, tmp_path, "float32", *TOKENS).stderr


def test_every_field_of_a_layer_is_refused_or_computed():
    """A field that is added has to show up here."""
    computed = {"head_dim", "mlp_hidden_size"}
    assert {field for field, _, _ in REFUSED} | computed == set(asdict(PLAIN))


def test_a_tensor_has_one_of_its_names(program, tmp_path):
    folder = write_layers(tmp_path, PLAIN, PLAIN)
    before = run(program, folder, "bfloat16", *TOKENS)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    head = tensors.pop("model.transformer.ff_out.weight")
    save_file({**tensors, "lm_head.weight": head}, path)
    renamed = run(program, folder, "bfloat16", *TOKENS)
    assert (renamed.returncode, renamed.stdout) == (0, before.stdout)
    save_file(tensors, path)
    missing = run(program, folder, "bfloat16", *TOKENS)
    assert "expected the tensor lm_head.weight or model.transformer.ff_out.weight, which is missing" in missing.stderr
    save_file({**tensors, "lm_head.weight": head, "model.transformer.ff_out.weight": head.clone()}, path)
    twice = run(program, folder, "bfloat16", *TOKENS)
    unused = "model.transformer.ff_out.weight: a tensor that this forward pass does not use"
    assert f"{unused} (expected the published Layers layout)" in twice.stderr
