"""The numpy reader and writer of safetensors beside the official package, and files that must be refused."""

import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llada_rt.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from llada_rt.folder import checkpoint
from llada_rt.folder.checkpoint import SafetensorsWriter, TensorSpec, read_checkpoint
from tests.data.make_goldens import CHECKPOINT
from tests.model.folders import INDEX, TENSORS, assemble, halves, header_and_data, write_shards


def test_bfloat16_is_that_of_torch():
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32)
    edges = [0x00000001, 0x007FFFFF, 0x00008000, 0x00018000, 0x3F808000, 0x3F818000, 0x7F7F7FFF, 0x7F7FFFFF, 0x80000000]
    values = np.concatenate([bits, np.array(edges, np.uint32)]).view(np.float32)
    values = values[np.isfinite(values)]
    ours = checkpoint.narrow(values)
    theirs = torch.from_numpy(values).to(torch.bfloat16)
    assert np.array_equal(ours, theirs.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(checkpoint.widen(ours, "BF16"), theirs.float().numpy())


@pytest.mark.parametrize("block", [1, 1000, 1 << 22])
def test_reads_what_the_official_package_reads(monkeypatch, block):
    monkeypatch.setattr(checkpoint, "BLOCK_ELEMENTS", block)
    tensors = read_checkpoint(CHECKPOINT)
    assert set(tensors) == set(TENSORS)
    for name, tensor in tensors.items():
        read = np.concatenate(list(tensor.float_blocks()))
        assert np.array_equal(read, TENSORS[name].float().numpy()), name


def test_reads_shards(tmp_path):
    weight_map, shards = halves()
    tensors = read_checkpoint(write_shards(tmp_path, weight_map, shards))
    assert {name: tensor.path.name for name, tensor in tensors.items()} == weight_map


def test_the_official_package_reads_what_we_write(tmp_path):
    specs = [
        TensorSpec("a", "F32", (3, 5)),
        TensorSpec("b", "BF16", (7,)),
        TensorSpec("c", "I8", (2, 3)),
        TensorSpec("d", "U8", (0, 4)),
    ]
    arrays = [
        np.arange(15, dtype=np.float32).reshape(3, 5),
        np.full(7, 0x3F80, np.uint16),
        np.array([[-127, 0, 1], [2, 3, 127]], np.int8),
        np.zeros((0, 4), np.uint8),
    ]
    with SafetensorsWriter(tmp_path / "x.safetensors", specs, {"format": "pt"}) as writer:
        for array in arrays:
            writer.write(array)
    loaded = load_file(tmp_path / "x.safetensors")
    assert loaded["a"].tolist() == arrays[0].tolist()
    assert loaded["b"].tolist() == [1.0] * 7
    assert loaded["c"].tolist() == arrays[2].tolist()
    assert loaded["d"].shape == (0, 4)
    assert writer.record.num_bytes == (tmp_path / "x.safetensors").stat().st_size


def write(folder, header, data=b"", **options) -> None:
    (folder / "model.safetensors").write_bytes(assemble(header, data, **options))


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "error", "words"),
    [
        (b"{", ModelFormatError, "JSON"),
        (b"[" * 200_000, ModelFormatError, "JSON"),
        ([], ModelFormatError, "object"),
        ({"x": 3}, ModelFormatError, "object"),
        ({"x": TENSOR | {"dtype": "F8_E4M3"}}, UnsupportedModelError, "F8_E4M3"),
        ({"x": TENSOR | {"dtype": ["F32"]}}, UnsupportedModelError, "F32"),
        ({"x": TENSOR | {"shape": [-2]}}, ModelFormatError, "sizes"),
        ({"x": TENSOR | {"shape": [2.0]}}, ModelFormatError, "sizes"),
        ({"x": TENSOR | {"shape": None}}, ModelFormatError, "sizes"),
        ({"x": TENSOR | {"shape": [3]}}, ModelFormatError, "12 bytes"),
        ({"x": TENSOR | {"shape": [2**40, 2**40]}}, ModelFormatError, "bytes"),
        ({"x": TENSOR | {"data_offsets": [8, 16]}}, ModelFormatError, "truncated"),
        ({"x": TENSOR | {"data_offsets": [0]}}, ModelFormatError, "bytes"),
        ({"x": TENSOR | {"data_offsets": "no"}}, ModelFormatError, "sizes"),
        ({}, ModelFormatError, "expected 0 bytes"),
    ],
    ids=lambda value: str(value)[:50] if not isinstance(value, type) else None,
)
def test_bad_headers(tmp_path, header, error, words):
    write(tmp_path, header, b"\0" * 8)
    with pytest.raises(error, match=words):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("raw", [b"", b"\0" * 7, struct.pack("<Q", 2**64 - 1) + b"{}", struct.pack("<Q", 3) + b"{}"])
def test_bad_lengths(tmp_path, raw):
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
        read_checkpoint(tmp_path)


def test_every_cut_is_noticed(tmp_path):
    header, data = header_and_data()
    raw = assemble(header, data)
    for length in (len(raw) - 1, len(raw) // 2, 100):
        (tmp_path / "model.safetensors").write_bytes(raw[:length])
        with pytest.raises(ModelFormatError):
            read_checkpoint(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../x"}}'])
def test_bad_indices(tmp_path, index):
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(ModelFormatError):
        read_checkpoint(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors"):
        read_checkpoint(tmp_path)
    weight_map, shards = halves()
    folder = write_shards(tmp_path, weight_map, shards)
    (folder / next(iter(shards))).unlink()
    with pytest.raises(ModelNotFoundError, match=next(iter(shards))):
        read_checkpoint(folder)
