"""Weight files that must be refused with a typed error naming the fault; the process goes on and loads a good model."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llada_rt import _core
from llada_rt.errors import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from llada_rt.folder.checkpoint import read_checkpoint
from llada_rt.folder.model_files import read_file
from tests.data.make_goldens import CHECKPOINT
from tests.model.folders import (
    INDEX,
    TENSORS,
    TOKENS,
    assemble,
    halves,
    header_and_data,
    write_config,
    write_model,
    write_shards,
)
from training.weights import weight_files

Q = "model.transformer.blocks.0.q_proj.weight"
K = "model.transformer.blocks.0.k_proj.weight"
V = "model.transformer.blocks.0.v_proj.weight"
WTE = "model.transformer.wte.weight"


def refused(folder: Path, error: type[ModelError], *fragments: str) -> None:
    with pytest.raises(error) as caught:
        _core.Runtime(str(folder), compute_type="float32", num_threads=1)
    message = str(caught.value)
    for fragment in ("expected", *fragments):
        assert fragment in message, message
    assert len(message) < 2000
    good = _core.Runtime(str(CHECKPOINT), compute_type="float32", num_threads=1)
    assert np.isfinite(good.forward(TOKENS)).all()


def refused_bytes(folder: Path, raw: bytes, error: type[ModelError], *fragments: str) -> None:
    write_config(folder)
    (folder / "model.safetensors").write_bytes(raw)
    refused(folder, error, *fragments)


# --- the frame of the file


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        struct.pack("<Q", 2),
        struct.pack("<Q", 3) + b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 2**64 - 8) + b"{}",
        struct.pack("<Q", 10**8 + 1) + b"{}",
    ],
    ids=["empty", "7 bytes", "length 0", "no header", "one over", "2^63", "2^64-1", "2^64-8", "100 MB"],
)
def test_header_length(tmp_path, raw):
    refused_bytes(tmp_path, raw, ModelFormatError, "model.safetensors")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("header_bytes", [99_000_000, 101_000_000])
def test_sparse_file_with_a_huge_header(tmp_path, header_bytes):
    write_config(tmp_path)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", header_bytes))
        file.truncate(120_000_000)
    refused(tmp_path, ModelFormatError, "model.safetensors")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "header",
    [
        b"\xff\xfe\xfa",
        b'{"a": "\xc3\x28"}',
        b"hello",
        b"[]",
        b"7",
        b'"text"',
        b"null",
        b"{",
        b'{"a": {}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"__metadata__": {"a": "b", "a": "c"}}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}} {}',
        b'{"a": "\\ud800"}',
        b"{'a': 1}",
        b'{"a": 01}',
        b'{"a": 1,}',
    ],
    ids=lambda header: header[:24].decode("latin1").strip(),
)
def test_header_is_not_an_object_of_records(tmp_path, header):
    refused_bytes(tmp_path, assemble(header, b"\0" * 4), ModelFormatError, "model.safetensors")


def test_truncated_data(tmp_path):
    raw = (CHECKPOINT / "model.safetensors").read_bytes()
    for cut in (1, 4096, len(raw) // 2, len(raw) - 200):
        refused_bytes(tmp_path, raw[:-cut], ModelFormatError, "model.safetensors")


def test_data_after_the_last_tensor(tmp_path):
    refused_bytes(tmp_path, (CHECKPOINT / "model.safetensors").read_bytes() + b"\0", ModelFormatError, "bytes")


# --- one record of the header


def record(name: str, **changes: object) -> Callable[[dict, bytearray], None]:
    """Changes fields of one tensor's record; None drops a field."""

    def spoil(header: dict, data: bytearray) -> None:
        header[name].update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del header[name][key]

    return spoil


def moved(name: str, begin: int, end: int) -> Callable[[dict, bytearray], None]:
    """Shifts the ends of one tensor's extent."""

    def spoil(header: dict, data: bytearray) -> None:
        header[name]["data_offsets"][0] += begin
        header[name]["data_offsets"][1] += end

    return spoil


def overlapping(header: dict, data: bytearray) -> None:
    header[V]["data_offsets"] = header[K]["data_offsets"]


def with_hole(header: dict, data: bytearray) -> None:
    """Everything behind the first tensor moves by four bytes."""
    first = min(end for entry in header.values() for end in entry.get("data_offsets", [])[1:])
    for entry in header.values():
        if entry.get("data_offsets", [0])[0] >= first:
            entry["data_offsets"] = [offset + 4 for offset in entry["data_offsets"]]
    data[:] = data[:first] + b"\0\0\0\0" + data[first:]


BAD_RECORDS: dict[str, tuple[Callable[[dict, bytearray], None], str]] = {
    "overlap": (overlapping, ""),
    "hole": (with_hole, ""),
    "begin after end": (record(Q, data_offsets=[4096, 0]), Q),
    "begins early": (moved(Q, -4, -4), ""),
    "too long": (moved(Q, 0, 4), Q),
    "too short": (moved(Q, 0, -4), Q),
    "past the end": (moved(Q, 10**9, 10**9), Q),
    "past 2^63": (record(Q, data_offsets=[2**63 - 4096, 2**63]), "64 bits"),
    "past 2^64": (record(Q, data_offsets=[2**64 - 4096, 2**64]), "64 bits"),
    "negative": (record(Q, data_offsets=[-4096, 0]), Q),
    "float offsets": (record(Q, data_offsets=[0.0, 4096.0]), Q),
    "text offsets": (record(Q, data_offsets=["0", "4096"]), Q),
    "one offset": (record(Q, data_offsets=[0]), Q),
    "three offsets": (record(Q, data_offsets=[0, 4096, 8192]), Q),
    "no offsets": (record(Q, data_offsets=None), Q),
    "offsets of null": (record(Q, data_offsets=[None, None]), Q),
    "no shape": (record(Q, shape=None), Q),
    "no dtype": (record(Q, dtype=None), Q),
    "unknown field": (record(Q, strides=[1, 2]), Q),
    "shape is a number": (record(Q, shape=32), Q),
    "shape overflows": (record(Q, shape=[2**32, 2**32]), Q),
    "shape overflows times size": (record(Q, shape=[2**63 - 1, 2]), Q),
    "shape beyond 64 bits": (record(Q, shape=[2**64, 1]), "64 bits"),
    "shape wraps to the right size": (record(Q, shape=[2**54 + 1, 1024]), Q),
    "negative shape": (record(Q, shape=[-32, -32]), Q),
    "float shape": (record(Q, shape=[32.0, 32.0]), Q),
    "rank 0": (record(Q, shape=[]), Q),
    "rank 1": (record(Q, shape=[1024]), Q),
    "rank 3": (record(Q, shape=[1, 32, 32]), Q),
    "rank 64": (record(Q, shape=[1] * 62 + [32, 32]), Q),
    "empty": (record(Q, shape=[0, 32]), Q),
    "swapped shape": (record(WTE, shape=[32, 160]), WTE),
    "other shape": (record(Q, shape=[16, 64]), Q),
    "number for a dtype": (record(Q, dtype=5), Q),
    "record is a list": (lambda header, data: header.update({Q: [1, 2]}), Q),
    "record is text": (lambda header, data: header.update({Q: "F32"}), Q),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_bad_record(tmp_path, case):
    spoil, fragment = BAD_RECORDS[case]
    header, data = header_and_data()
    spoil(header, data)
    refused_bytes(tmp_path, assemble(header, data), ModelFormatError, fragment)


@pytest.mark.parametrize(
    "dtype", ["F64", "F16", "I8", "I64", "U16", "BOOL", "C64", "F8_E4M3", "F4", "F6_E2M3", "f32", ""]
)
def test_wrong_element_type(tmp_path, dtype):
    """Unknown types, and types whose width does not fit the extent."""
    header, data = header_and_data()
    record(Q, dtype=dtype)(header, data)
    refused_bytes(tmp_path, assemble(header, data), ModelError, Q)


def test_name_given_twice(tmp_path):
    header, data = header_and_data()
    text = assemble(header, b"")[8:]
    twice = text[:-1] + b', "' + Q.encode() + b'": ' + text.split(Q.encode() + b'": ')[1].split(b"}")[0] + b"}}"
    refused_bytes(tmp_path, assemble(twice, data), ModelFormatError, "model.safetensors")


# --- the set of tensors, and what they hold


def test_missing_tensor(tmp_path):
    refused(write_model(tmp_path, {n: t for n, t in TENSORS.items() if n != Q}), ModelFormatError, Q, "missing")


@pytest.mark.parametrize(
    "name",
    [
        "model.transformer.blocks.0.q_proj.bias",
        "model.transformer.blocks.0.q_norm.weight",
        "model.transformer.blocks.2.attn_norm.weight",
        "model.transformer.blocks.00.q_proj.weight",
        "lm_head.weight",
        "",
    ],
)
def test_extra_tensor(tmp_path, name):
    refused(write_model(tmp_path, {**TENSORS, name: torch.zeros(32)}), ModelError, name)


def test_head_beside_a_tied_embedding(tmp_path):
    refused(write_model(tmp_path, changes={"weight_tying": True}), ModelError, "model.transformer.ff_out.weight")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [Q, WTE, "model.transformer.ln_f.weight", "model.transformer.ff_out.weight"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_that_are_not_finite(tmp_path, name, bad, dtype):
    spoilt = TENSORS[name].clone()
    spoilt.view(-1)[-1] = bad
    tensors = {n: t.to(getattr(torch, dtype)) for n, t in {**TENSORS, name: spoilt}.items()}
    refused(write_model(tmp_path, tensors), ModelFormatError, name, "finite")


def test_float32_weight_beyond_bfloat16(tmp_path):
    """Finite as stored, infinite once rounded: refused when that is what would be computed with."""
    spoilt = TENSORS[Q].clone()
    spoilt[0, 0] = torch.finfo(torch.float32).max
    folder = write_model(tmp_path, {**TENSORS, Q: spoilt})
    with pytest.raises(ModelFormatError, match="q_proj"):
        _core.Runtime(str(folder), compute_type="bfloat16")


# --- which files


def test_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", ModelNotFoundError, "nowhere")


def test_folder_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", ModelNotFoundError, "file")


def test_no_weights(tmp_path):
    refused(write_config(tmp_path), ModelNotFoundError, "model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_pickle_is_never_opened(tmp_path, name):
    write_config(tmp_path)
    os.mkfifo(tmp_path / name)  # opening it would hang
    refused(tmp_path, UnsupportedModelError, "safetensors")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "link out", "dangling link", "link to itself"])
def test_file_of_another_kind(tmp_path, name, kind):
    folder = write_model(tmp_path / "model")
    (folder / name).rename(tmp_path / name)
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "directory":
        (folder / name).mkdir()
    else:
        target = {"link out": tmp_path / name, "dangling link": tmp_path / "gone", "link to itself": folder / name}[
            kind
        ]
        (folder / name).symlink_to(target)
    refused(folder, ModelError, name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path):
    folder = write_model(tmp_path)
    (folder / "model.safetensors").chmod(0)
    refused(folder, ModelError, "model.safetensors")


# --- the index of shards


def test_missing_shard(tmp_path):
    weight_map, shards = halves()
    gone = list(shards)[1]
    folder = write_shards(tmp_path, weight_map, shards)
    (folder / gone).unlink()
    refused(folder, ModelNotFoundError, gone)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "shard",
    ["../outside.safetensors", "../../etc/passwd", "/etc/passwd", "", ".", "..", "a/../b", INDEX, "config.json"],
)
def test_shard_name_that_leads_elsewhere(tmp_path, shard):
    weight_map, shards = halves()
    save_file(TENSORS, tmp_path / "outside.safetensors")
    refused(write_shards(tmp_path / "model", {**weight_map, Q: shard}, shards), ModelError)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "directory", "link out", "device"])
def test_shard_of_another_kind(tmp_path, kind):
    weight_map, shards = halves()
    folder, name = write_shards(tmp_path / "model", weight_map, shards), next(iter(shards))
    (folder / name).rename(tmp_path / name)
    if kind == "fifo":
        os.mkfifo(folder / name)
    elif kind == "directory":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(tmp_path / name if kind == "link out" else "/dev/zero")
    refused(folder, ModelFormatError, name)


def test_truncated_shard(tmp_path):
    weight_map, shards = halves()
    folder, name = write_shards(tmp_path, weight_map, shards), list(shards)[1]
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[:-100])
    refused(folder, ModelFormatError, name)


def test_index_contradicts_the_shards(tmp_path):
    weight_map, shards = halves()
    first, second = shards
    wrong = {**weight_map, shards[first][0]: second}
    refused(write_shards(tmp_path / "swapped", wrong, shards), ModelFormatError, shards[first][0])
    refused(write_shards(tmp_path / "absent", {**weight_map, "ghost": first}, shards), ModelFormatError, "ghost")
    twice = {**shards, second: [*shards[second], shards[first][0]]}
    refused(write_shards(tmp_path / "twice", weight_map, twice), ModelFormatError, shards[first][0])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": null}}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "x\\u0000y"}}',
        '{"weight_map": ' * 50_000,
    ],
    ids=lambda text: text[:32] or "empty",
)
def test_index_that_is_none(tmp_path, text):
    folder = write_model(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(text)
    refused(folder, ModelError)


# --- which files


def test_the_single_file_wins_over_an_index_that_is_left_over(tmp_path):
    """As transformers reads a folder that was saved in shards, then as one file."""
    folder = write_shards(tmp_path, *halves())
    changed = {name: tensor + 0.5 for name, tensor in TENSORS.items()}
    save_file(changed, folder / "model.safetensors")
    alone = write_model(tmp_path / "alone", changed)
    got, want = (_core.Runtime(str(each), compute_type="float32", num_threads=1) for each in (folder, alone))
    assert np.array_equal(got.forward(TOKENS), want.forward(TOKENS))
    assert {tensor.path.name for tensor in read_checkpoint(folder).values()} == {"model.safetensors"}
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]


def test_an_index_that_names_the_single_file_counts(tmp_path):
    """One of the shards may have that name."""
    names = sorted(TENSORS)
    shards = {"model.safetensors": names[::2], "other.safetensors": names[1::2]}
    folder = write_shards(tmp_path, {name: file for file, held in shards.items() for name in held}, shards)
    _core.Runtime(str(folder), compute_type="float32", num_threads=1).forward(TOKENS)
    assert len(read_checkpoint(folder)) == len(TENSORS)
    assert len(weight_files(folder)) == 2


POINTER = b"version https://example.invalid/git-lfs/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"


@pytest.mark.parametrize("name", ["model.safetensors", INDEX, "config.json"])
def test_a_pointer_of_git_lfs_is_called_by_its_name(tmp_path, name):
    folder = write_model(tmp_path)
    (folder / name).write_bytes(POINTER)
    refused(folder, ModelFormatError, name, "git-lfs", "git lfs pull")
    if name != "config.json":
        with pytest.raises(ModelFormatError, match="git lfs pull"):
            read_checkpoint(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "tokenizer_config.json"])
def test_so_are_the_other_files_of_a_folder(tmp_path, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(ModelFormatError, match=f"{name}.*git lfs pull"):
        read_file(tmp_path, name, 1 << 20)
