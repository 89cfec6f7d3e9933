"""Converted folders: their bytes, their files, and what is left when something goes wrong."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llada_rt import Engine, SamplingParams
from llada_rt.errors import ConfigError, ModelFormatError, ModelNotFoundError, OutputError, UnsupportedModelError
from llada_rt.folder import quantize
from llada_rt.folder.checkpoint import read_checkpoint
from llada_rt.tools import convert
from llada_rt.tools.convert import convert_model
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder
from tests.model.folders import INDEX, TENSORS, halves, write_config, write_model, write_shards

Q = "model.transformer.blocks.0.q_proj.weight"
HEAD = "model.transformer.ff_out.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", generation={"llada_rt": {"gen_length": 12}})


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def loaded(folder: Path) -> dict[str, np.ndarray]:
    return {name: np.concatenate(list(tensor.blocks())) for name, tensor in read_checkpoint(folder).items()}


def assert_nothing_left(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


# --- what is written


def test_bfloat16(source, tmp_path):
    done = convert_model(source, tmp_path / "out", compute_type="bfloat16")
    assert done.target_bytes * 2 == done.source_bytes
    assert config_of(tmp_path / "out") == config_of(source) | {"torch_dtype": "bfloat16"}
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(tensor, TENSORS[name].to(torch.bfloat16)), name


def test_a_converted_folder_answers_as_its_source_in_that_type(source, tmp_path):
    convert_model(source, tmp_path / "out", compute_type="bfloat16")
    params = SamplingParams(gen_length=24)
    with Engine(source, compute_type="bfloat16") as engine:
        expected = engine.generate(["abc", "床前"], params)
    with Engine(tmp_path / "out") as engine:
        assert engine.info()["compute_type"] == "bfloat16"
        assert [output.text for output in engine.generate(["abc", "床前"], params)] == [o.text for o in expected]


def test_there_and_back(source, tmp_path):
    convert_model(source, tmp_path / "half", compute_type="bfloat16")
    convert_model(tmp_path / "half", tmp_path / "out", compute_type="float32")
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(tensor, TENSORS[name].to(torch.bfloat16).float()), name


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_integers(source, tmp_path, kind):
    convert_model(source, tmp_path / "out", compute_type=kind)
    record = {"method": "llada_rt", "compute_type": kind, "group_size": 32 if kind == "int4" else 0, "version": 1}
    assert config_of(tmp_path / "out") == config_of(source) | {"torch_dtype": "bfloat16", "quantization": record}
    tensors = loaded(tmp_path / "out")
    for name, weight in TENSORS.items():
        if weight.dim() == 2 and "wte" not in name:
            encode = quantize.quantize_int8 if kind == "int8" else quantize.quantize_int4
            integers, scales = encode(weight.float().numpy())
            assert np.array_equal(tensors.pop(name), integers), name
            assert np.array_equal(tensors.pop(name + ".scales"), scales), name
        else:
            stored = tensors.pop(name)
            assert np.array_equal(stored, weight.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)), name
    assert not tensors


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4"])
def test_blocks_do_not_change_a_byte(source, tmp_path, monkeypatch, kind):
    convert_model(source, tmp_path / "whole", compute_type=kind)
    monkeypatch.setattr("llada_rt.folder.checkpoint.BLOCK_ELEMENTS", 100)
    convert_model(source, tmp_path / "blocks", compute_type=kind)
    assert (tmp_path / "whole" / "llada_rt.json").read_text() == (tmp_path / "blocks" / "llada_rt.json").read_text()


def test_float16_sources(tmp_path):
    folder = write_model(tmp_path / "source", {name: tensor.half() for name, tensor in TENSORS.items()})
    convert_model(folder, tmp_path / "out", compute_type="float32")
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[Q], TENSORS[Q].half().float())


def test_shards(source, tmp_path):
    largest = max(tensor.numel() for tensor in TENSORS.values()) * 2
    done = convert_model(source, tmp_path / "out", compute_type="bfloat16", max_shard_bytes=largest)
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_size"] == done.target_bytes
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    for number, shard in enumerate(shards, 1):
        assert shard == f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = load_file(tmp_path / "out" / shard)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= largest
        assert {name for name, file in index["weight_map"].items() if file == shard} == set(tensors)
    with Engine(source, compute_type="bfloat16") as one, Engine(tmp_path / "out") as other:
        assert np.array_equal(one.forward([1, 2, 3]), other.forward([1, 2, 3]))


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(source, tmp_path):
    convert_model(source, tmp_path / "out", compute_type="int8", max_shard_bytes=1)
    index = json.loads((tmp_path / "out" / INDEX).read_text())["weight_map"]
    assert index[Q] == index[Q + ".scales"]
    assert len(set(index.values())) == len(TENSORS)


def test_the_source_may_be_in_shards(tmp_path):
    convert_model(write_model(tmp_path / "one"), tmp_path / "a", compute_type="bfloat16")
    weight_map, shards = halves()
    convert_model(write_shards(tmp_path / "two", weight_map, shards), tmp_path / "b", compute_type="bfloat16")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_files_go_along_and_are_recorded(source, tmp_path):
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    done = convert_model(source, tmp_path / "out", compute_type="int8")
    copied = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
    written = {"config.json", "model.safetensors"}
    assert set(done.files) == copied | written
    assert {path.name for path in (tmp_path / "out").iterdir()} == copied | written | {"llada_rt.json"}
    manifest = json.loads((tmp_path / "out" / "llada_rt.json").read_text())["files"]
    for name in copied | written:
        data = (tmp_path / "out" / name).read_bytes()
        assert manifest[name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}, name
        assert name in written or data == (source / name).read_bytes()


def test_memory_stays_small(tmp_path):
    """A sparse source of 0.5 GB in a process that may hold a fraction of it."""
    vocab, width = 1 << 17, 512
    config = {"vocab_size": vocab, "embedding_size": vocab, "d_model": width, "n_heads": 8, "n_kv_heads": 8}
    folder = write_config(tmp_path / "source", config | {"n_layers": 1, "mlp_hidden_size": 64})
    shapes = {name: tensor.shape for name, tensor in TENSORS.items() if "blocks." not in name or "blocks.0." in name}
    sizes = {"wte": (vocab, width), "ff_out": (vocab, width), "ln_f": (width,)}
    block = {"q_proj": (width, width), "k_proj": (width, width), "v_proj": (width, width), "attn_out": (width, width)}
    block |= {"ff_proj": (64, width), "up_proj": (64, width), "ff_out": (width, 64)}
    header, end = {}, 0
    for name in shapes:
        leaf = name.split(".")[-2]
        shape = (block if "blocks." in name else sizes).get(leaf, (width,))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * int(np.prod(shape))]}
        end = header[name]["data_offsets"][1]
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    code = (
        "import resource, sys\nfrom llada_rt.tools.convert import convert_model\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "convert_model(sys.argv[1], sys.argv[2], compute_type='int4')\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "out")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout)
    assert grown < end // 4, f"{grown} bytes for a source of {end}"


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


# --- what is refused


def test_targets_that_are_refused(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(source)
    for target, overwrite, words in (
        (source, True, "source"),
        (tmp_path / "link", True, "source"),
        (tmp_path, True, "source"),  # holds the source
        (tmp_path / "mine", False, "exists"),
        (tmp_path / "mine", True, "model folder to replace"),
        (tmp_path / "file", True, "model folder to replace"),
        (tmp_path / "no" / "such", False, "existing folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            convert_model(source, target, compute_type="bfloat16", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_options_that_are_refused(source, tmp_path):
    with pytest.raises(ConfigError, match="float32, bfloat16, int8, int4, got 'int3'"):
        convert_model(source, tmp_path / "out", compute_type="int3")
    for size in (0, -1, 1.5, True):
        with pytest.raises(ConfigError, match="max_shard_bytes"):
            convert_model(source, tmp_path / "out", compute_type="int8", max_shard_bytes=size)


def test_sources_that_are_refused(source, tmp_path):
    with pytest.raises(ModelNotFoundError):
        convert_model(tmp_path / "nothing", tmp_path / "out", compute_type="int8")
    convert_model(source, tmp_path / "int8", compute_type="int8")
    with pytest.raises(UnsupportedModelError, match="quantised already"):
        convert_model(tmp_path / "int8", tmp_path / "out", compute_type="int4")
    less = {name: tensor for name, tensor in TENSORS.items() if name != Q}
    with pytest.raises(ModelFormatError, match="q_proj"):
        convert_model(write_model(tmp_path / "less", less), tmp_path / "out", compute_type="int8")
    more = TENSORS | {"model.extra.weight": torch.zeros(3)}
    with pytest.raises(ModelFormatError, match="extra"):
        convert_model(write_model(tmp_path / "more", more), tmp_path / "out", compute_type="int8")
    assert not (tmp_path / "out").exists()


# --- what is left behind


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, kind, value):
    spoiled = TENSORS[HEAD].clone()
    spoiled[-1, -1] = value
    folder = write_model(tmp_path / "source", TENSORS | {HEAD: spoiled})
    with pytest.raises(ModelFormatError, match=HEAD):
        convert_model(folder, tmp_path / "out", compute_type=kind)
    assert_nothing_left(tmp_path, "source")


def test_too_large_for_bfloat16(tmp_path):
    large = TENSORS[Q].float().clone()
    large[0, 0] = 3.4e38
    folder = write_model(tmp_path / "source", TENSORS | {Q: large})
    with pytest.raises(ModelFormatError, match="q_proj"):
        convert_model(folder, tmp_path / "out", compute_type="bfloat16")
    assert_nothing_left(tmp_path, "source")


def test_overwrite_replaces_all_at_the_end(source, tmp_path):
    convert_model(source, tmp_path / "out", compute_type="bfloat16", max_shard_bytes=50_000)
    (tmp_path / "out" / "stray.txt").write_text("x")
    before = (tmp_path / "out" / "llada_rt.json").read_text()
    seen = []

    def report(name: str, done: int, total: int) -> None:
        seen.append((tmp_path / "out" / "llada_rt.json").read_text() == before)

    convert_model(source, tmp_path / "out", compute_type="int8", overwrite=True, report=report)
    assert all(seen)
    assert "quantization" in config_of(tmp_path / "out")
    assert not (tmp_path / "out" / INDEX).exists()
    assert not (tmp_path / "out" / "stray.txt").exists()
    assert_nothing_left(tmp_path, "source", "out")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x"), OSError(errno.EIO, "read error")])
def test_an_interrupted_conversion_leaves_the_old_folder(source, tmp_path, error):
    convert_model(source, tmp_path / "out", compute_type="bfloat16")
    before = (tmp_path / "out" / "llada_rt.json").read_text()

    def report(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        convert_model(source, tmp_path / "out", compute_type="int8", overwrite=True, report=report)
    assert (tmp_path / "out" / "llada_rt.json").read_text() == before
    assert_nothing_left(tmp_path, "source", "out")


def test_no_room_is_said_before_any_work(source, tmp_path, monkeypatch):
    usage = os.statvfs_result((4096, 4096, 10, 1, 1, 1, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: usage)
    with pytest.raises(OutputError, match="free bytes"):
        convert_model(source, tmp_path / "out", compute_type="int8")
    assert_nothing_left(tmp_path, "source")


def test_a_disk_that_fills_up(source, tmp_path):
    """A limit on the size of a file stands in for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            convert_model(source, tmp_path / "out", compute_type="bfloat16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_nothing_left(tmp_path, "source")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "generation_config.json"])
def test_a_folder_cut_short_does_not_load(source, tmp_path, name):
    convert_model(source, tmp_path / "out", compute_type="bfloat16")
    path = tmp_path / "out" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ModelFormatError, match=rf"{name}: expected {len(data)} bytes.*got {len(data) - 1}.*cut short"):
        Engine(tmp_path / "out")
    path.unlink()
    with pytest.raises((ModelFormatError, ModelNotFoundError), match=name):
        Engine(tmp_path / "out")


@pytest.mark.parametrize(
    ("manifest", "error"),
    [
        ({"format_version": 2, "files": {}}, UnsupportedModelError),
        ({"files": {}}, UnsupportedModelError),
        ({"format_version": 1, "files": []}, ModelFormatError),
        ({"format_version": 1, "files": {"config.json": 3}}, ModelFormatError),
        ({"format_version": 1, "files": {"config.json": {"bytes": True, "sha256": ""}}}, ModelFormatError),
        ({"format_version": 1, "files": {"../x": {"bytes": 1, "sha256": ""}}}, ModelFormatError),
        ({"format_version": 1, "files": {"x": {"bytes": 1, "sha256": ""}}}, ModelFormatError),
        ([], ModelFormatError),
    ],
)
def test_strange_manifests(source, manifest, error):
    (source / "llada_rt.json").write_text(json.dumps(manifest))
    with pytest.raises(error, match=r"llada_rt\.json|model folder"):
        Engine(source)


def test_split_shards_keeps_the_order():
    plans = [convert._plan(tensor, "int8") for tensor in read_checkpoint(CHECKPOINT).values()]
    for size in (1, 10_000, 60_000, 10**9):
        shards = convert.split_shards(plans, size)
        assert [plan for shard in shards for plan in shard] == plans
        assert all(shards)
