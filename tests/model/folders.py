"""Model folders for the tests: whole ones in any layout, and raw safetensors files whose header says anything."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from llada_rt import _core
from tests.data.make_goldens import CHECKPOINT
from tests.reference.quantization import pack_int4, quantize_weight

INDEX = "model.safetensors.index.json"
CONFIG = json.loads((CHECKPOINT / "config.json").read_text())
TENSORS = load_file(CHECKPOINT / "model.safetensors")
TOKENS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 156, 156, 157], np.int32)


def write_config(folder: Path, changes: Mapping | None = None, *, drop: tuple[str, ...] = ()) -> Path:
    """config.json of the committed checkpoint with some keys changed or dropped. Returns the folder."""
    config = {key: value for key, value in {**CONFIG, **(changes or {})}.items() if key not in drop}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_model(folder: Path, tensors: Mapping[str, torch.Tensor] = TENSORS, changes: Mapping | None = None) -> Path:
    """config.json and one model.safetensors."""
    write_config(folder, changes)
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    return folder


def quantized(tensors: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """The tensors as a folder quantised to int8 or int4 holds them."""
    out = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 1 or name.endswith("wte.weight"):
            out[name] = tensor.bfloat16()
            continue
        q, scales = quantize_weight(tensor.float().numpy(), dtype)
        out[name] = torch.from_numpy(q if dtype == "int8" else pack_int4(q))
        out[name + ".scales"] = torch.from_numpy(scales[:, 0].copy() if dtype == "int8" else scales)
    return out


def record_of(dtype: str) -> dict:
    """What config.json says of such a folder."""
    return {"method": "llada_rt", "compute_type": dtype, "group_size": 0 if dtype == "int8" else 32, "version": 1}


def write_quantized(folder: Path, dtype: str, tensors: Mapping[str, torch.Tensor] = TENSORS, **config: object) -> Path:
    """A whole folder of quantised weights."""
    return write_model(folder, quantized(tensors, dtype), {"quantization": record_of(dtype), **config})


def write_shards(folder: Path, weight_map: Mapping[str, str], shards: Mapping[str, list[str]]) -> Path:
    """config.json, an index that says `weight_map`, and shard files that hold the named tensors."""
    write_config(folder)
    for file, names in shards.items():
        save_file({name: TENSORS[name] for name in names}, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict(weight_map)}))
    return folder


def halves() -> tuple[dict[str, str], dict[str, list[str]]]:
    """A weight map over two shards, and what each holds."""
    names = sorted(TENSORS)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    return {name: file for file, held in shards.items() for name in held}, shards


def header_and_data() -> tuple[dict, bytearray]:
    """The committed weights as (header, data), ready to be spoiled."""
    raw = (CHECKPOINT / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])


def assemble(header: object, data: bytes, *, length: int | None = None) -> bytes:
    """A safetensors file; `header` is bytes as they are or a value written as JSON, `length` overrides the true one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def write_shape(folder: Path, changes: Mapping, *, sparse: bool = False) -> Path:
    """A model of another shape, bfloat16, its weights small random numbers; or zeros that take no place on the disk."""
    write_config(folder, changes)
    _, described = _core.describe_model(str(folder))
    header, end = {}, 0
    for name, _, shape in described:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    with (folder / "model.safetensors").open("wb") as file:
        file.write(assemble(header, b""))
        if sparse:
            file.truncate(file.tell() + end)
        else:
            values = np.random.default_rng(0).normal(0, 0.05, end // 2).astype(np.float32)
            file.write((values.view(np.uint32) >> 16).astype("<u2").tobytes())
    return folder
