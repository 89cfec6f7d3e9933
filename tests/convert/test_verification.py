"""verify: what it finds in the files, and how it compares two models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from llada_rt import Engine
from llada_rt.errors import ConfigError
from llada_rt.tools.convert import convert_model
from llada_rt.tools.verification import HIDDEN_SHARES, compare, verify_folder
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder
from tests.model.folders import TENSORS, write_model

Q = "model.transformer.blocks.0.q_proj.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    generation = {"llada_rt": {"gen_length": 12}}
    return write_folder(tmp_path_factory.mktemp("verify") / "source", generation=generation)


@pytest.fixture(params=["bfloat16", "int8", "int4"])
def converted(request, source, tmp_path) -> Path:
    return convert_model(source, tmp_path / "out", compute_type=request.param).target


def found(folder: Path) -> dict[str, tuple[bool | None, str]]:
    return {check.name: (check.is_good, check.detail) for check in verify_folder(folder)}


def test_a_good_folder(converted):
    assert {name: good for name, (good, _) in found(converted).items()} == dict.fromkeys(
        ("config", "files", "tensors", "values"), True
    )


def test_a_published_folder_has_no_checksums(source):
    good, detail = found(source)["files"]
    assert good is None
    assert "llada_rt.json" in detail


def test_a_flipped_bit_is_found(converted):
    path = converted / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    good, detail = found(converted)["files"]
    assert (good, "model.safetensors: expected SHA-256" in detail) == (False, True)


def test_a_short_file_is_found(converted):
    path = converted / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    results = found(converted)
    assert results["files"][0] is False
    assert "model.safetensors: expected" in results["files"][1]
    assert results["tensors"][0] is False
    assert results["values"][0] is None


def spoil(folder: Path, name: str, raw: bytes) -> None:
    """Overwrite the first bytes of a tensor."""
    from llada_rt.folder.checkpoint import read_checkpoint

    tensor = read_checkpoint(folder)[name]
    with tensor.path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(raw)


@pytest.mark.parametrize(
    ("kind", "name", "raw", "words"),
    [
        ("float32", Q, np.float32(np.nan).tobytes(), "NaN or infinity 1 times"),
        ("bfloat16", Q, b"\x80\x7f\x80\xff", "NaN or infinity 2 times"),
        ("int8", Q, b"\x80", "-128"),
        ("int8", Q + ".scales", np.float32(0).tobytes(), "positive"),
        ("int8", Q + ".scales", np.float32(-1).tobytes(), "positive"),
        ("int8", Q + ".scales", np.float32(np.inf).tobytes(), "infinity"),
        ("int4", Q, b"\x80", "halves"),
        ("int4", Q, b"\x08", "halves"),
    ],
)
def test_values(source, tmp_path, kind, name, raw, words):
    convert_model(source, tmp_path / "out", compute_type=kind)
    spoil(tmp_path / "out", name, raw)
    good, detail = found(tmp_path / "out")["values"]
    assert not good
    assert name in detail
    assert words in detail


def test_tensors(source, tmp_path):
    convert_model(source, tmp_path / "out", compute_type="int8")
    shutil.copyfile(source / "model.safetensors", tmp_path / "out" / "model.safetensors")
    good, detail = found(tmp_path / "out")["tensors"]
    assert not good
    assert "more)" in detail
    shutil.copyfile(source / "config.json", tmp_path / "out" / "config.json")
    assert found(tmp_path / "out")["tensors"][0]


def test_a_model_agrees_with_itself(source):
    with Engine(source) as engine, Engine(source) as other:
        agreement = compare(engine, other, ["abc", "床前"])
    positions = sum(int(np.ceil(share * 12)) for share in HIDDEN_SHARES)
    assert agreement.num_positions >= 2 * positions
    assert (agreement.top1, agreement.max_difference, agreement.mean_kl, agreement.equal_tokens) == (1, 0, 0, 1)


def test_another_type_is_close_and_another_model_is_not(source, tmp_path):
    convert_model(source, tmp_path / "out", compute_type="bfloat16")
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in TENSORS.items()}
    other = write_folder(tmp_path / "other")
    write_model(other, noise)
    with Engine(source, compute_type="float32") as truth:
        with Engine(tmp_path / "out") as engine:
            near = compare(engine, truth)
        with Engine(other) as engine:
            far = compare(engine, truth)
    assert 0 < near.mean_kl < 1e-2 < far.mean_kl
    assert near.top1 > 0.9 > far.top1
    assert near.max_difference < far.max_difference


def test_models_without_a_tokenizer_are_compared_on_ids():
    with Engine(CHECKPOINT) as engine, Engine(CHECKPOINT, compute_type="bfloat16") as other:
        assert compare(engine, other).num_positions > 0
        with pytest.raises(ConfigError, match="tokenizer"):
            compare(engine, other, ["abc"])


def test_models_of_other_vocabularies_are_not_compared(source, tmp_path):
    folder = write_folder(tmp_path / "other", config={"mask_token_id": 3})
    with Engine(source) as engine, Engine(folder) as other, pytest.raises(ConfigError, match="vocabulary"):
        compare(engine, other)
