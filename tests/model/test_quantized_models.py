"""Models in int8, int8_bfloat16 and int4: quantised at load or beforehand, on every table, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llada_rt import Engine, SamplingParams, _core
from llada_rt.errors import ConfigError, LladaRtError, ModelFormatError, UnsupportedModelError
from tests.data.make_goldens import CHECKPOINT
from tests.model.folders import TENSORS, TOKENS, quantized, record_of, write_config, write_model, write_quantized
from tests.ops.precision import rounded
from tests.reference import forward
from tests.reference.quantization import dequantize, matmul_int8, quantize_weight
from tests.tolerance import rms_error

HEAD = "model.transformer.ff_out.weight"
Q = "model.transformer.blocks.0.q_proj.weight"
WTE = "model.transformer.wte.weight"
TYPES = {"int8": ("int8", "int8_bfloat16"), "int4": ("int4",)}  # of a folder: what it runs in


def logits(folder: Path, compute_type: str = "auto", **options) -> np.ndarray:
    return _core.Runtime(str(folder), compute_type=compute_type, **options).forward(TOKENS)


def is_matrix(name: str, tensor: torch.Tensor) -> bool:
    return tensor.dim() == 2 and name != WTE


def with_matrices(change: Callable[[np.ndarray], np.ndarray], tensors: dict = TENSORS) -> dict[str, torch.Tensor]:
    return {n: torch.from_numpy(change(t.numpy())) if is_matrix(n, t) else t for n, t in tensors.items()}


def as_int4(weight: np.ndarray) -> np.ndarray:
    """What the engine multiplies."""
    return rounded(dequantize(*quantize_weight(weight, "int4")), "bfloat16")


@pytest.mark.parametrize(("dtype", "compute_type"), [(d, c) for d, all_ in TYPES.items() for c in all_])
@pytest.mark.parametrize("table", _core.tables())
def test_a_quantised_folder_equals_quantising_at_load(tmp_path, dtype, compute_type, table):
    folder = write_quantized(tmp_path, dtype)
    whole = logits(CHECKPOINT, compute_type, table=table)
    assert np.array_equal(logits(folder, compute_type, table=table), whole)
    assert np.array_equal(logits(folder, "auto", table=table), logits(CHECKPOINT, dtype, table=table))
    assert _core.Runtime(str(folder)).compute_type == dtype
    assert _core.Runtime(str(folder)).num_parameters == _core.Runtime(str(CHECKPOINT)).num_parameters


@pytest.mark.parametrize("dtype", TYPES)
def test_a_tied_head_is_quantised_from_the_embedding(tmp_path, dtype):
    tensors = {name: t for name, t in TENSORS.items() if name != HEAD}
    tied = write_quantized(tmp_path / "tied", dtype, tensors, weight_tying=True)
    copied = write_quantized(tmp_path / "copied", dtype, {**tensors, HEAD: TENSORS[WTE].bfloat16()})
    assert np.array_equal(logits(tied), logits(copied))
    at_load = write_model(tmp_path / "at_load", tensors, {"weight_tying": True})
    assert np.array_equal(logits(at_load, dtype), logits(copied))


@pytest.mark.parametrize("hidden", [7, 30, 33, 71])
@pytest.mark.parametrize("dtype", TYPES)
def test_mlp_of_odd_width(tmp_path, dtype, hidden):
    """Rows that end inside a pack or a group; the padding must not count."""
    rng = np.random.default_rng(hidden)
    tensors = dict(TENSORS)
    for name in TENSORS:
        if ".blocks." in name and TENSORS[name].dim() == 2 and ("ff_" in name or "up_" in name):
            shape = (32, hidden) if "ff_out" in name else (hidden, 32)
            tensors[name] = torch.from_numpy(rng.standard_normal(shape).astype(np.float32) / 4)
    folder = write_quantized(tmp_path / "quantised", dtype, tensors, mlp_hidden_size=hidden)
    whole = write_model(tmp_path / "whole", tensors, {"mlp_hidden_size": hidden})
    for compute_type in TYPES[dtype]:
        assert np.array_equal(logits(folder, compute_type), logits(whole, compute_type))
    if dtype == "int4":
        meant = write_model(tmp_path / "meant", with_matrices(as_int4, tensors), {"mlp_hidden_size": hidden})
        assert np.array_equal(logits(folder), logits(meant, "bfloat16"))
    else:
        want = logits(whole, "float32")
        assert rms_error(logits(folder), want) <= 0.05 * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("table", _core.tables())
def test_int4_is_the_bfloat16_model_of_its_weights(tmp_path, table):
    """The same bits as bfloat16 arithmetic over the dequantised weights."""
    folder = write_model(tmp_path, with_matrices(as_int4))
    assert np.array_equal(logits(CHECKPOINT, "int4", table=table), logits(folder, "bfloat16", table=table))


@pytest.mark.parametrize("table", _core.tables())
def test_int8_weights_are_the_bfloat16_model_of_their_weights(tmp_path, table):
    """With scales that are powers of two bfloat16 holds the dequantised weights, and scaling a sum is exact."""

    def coarse(w: np.ndarray) -> np.ndarray:
        q, _ = quantize_weight(w, "int8")
        q[:, 0] = 127
        return q * np.float32(2.0**-9)

    folder = write_model(tmp_path, with_matrices(coarse))
    assert np.array_equal(logits(folder, "int8_bfloat16", table=table), logits(folder, "bfloat16", table=table))


@pytest.mark.parametrize("table", _core.tables())
def test_int8_is_the_reference_with_quantised_products(monkeypatch, table):
    """Error against float64 at most twice that of the twin: the house rule of tests/tolerance.py."""
    tokens = np.random.default_rng(0).integers(0, 160, 100).astype(np.int32)
    exact = forward.Model(CHECKPOINT).forward(tokens)

    def product(x: np.ndarray, weight: np.ndarray, residual: np.ndarray | None = None) -> np.ndarray:
        result = matmul_int8(x.astype(np.float32), weight.astype(np.float32)).astype(np.float64)
        return result if residual is None else result + residual

    monkeypatch.setattr(forward, "matmul", product)
    twin = forward.Model(CHECKPOINT).forward(tokens)
    got = _core.Runtime(str(CHECKPOINT), compute_type="int8", table=table).forward(tokens)
    assert rms_error(got, exact) <= 2 * rms_error(twin, exact)


@pytest.mark.parametrize("compute_type", ["int8", "int8_bfloat16", "int4"])
@pytest.mark.parametrize("table", _core.tables())
def test_a_request_does_not_feel_its_neighbours(table, compute_type):
    """Scales belong to rows: the same tokens and confidences alone, in a ragged batch, and with other threads."""
    params = SamplingParams(gen_length=24, block_length=8, steps=24, return_tokens=True, temperature=0.5, seed=3)
    prompts = [{"prompt_token_ids": [3, 1, 4, 1, 5, 9, 2, 6][:n] * k} for n, k in ((1, 1), (8, 4), (5, 3), (7, 1))]

    def answers(threads: int, batches: list) -> list:
        with Engine(CHECKPOINT, compute_type=compute_type, cpu_isa=table, threads=threads) as engine:
            outputs = [output.outputs[0] for batch in batches for output in engine.generate(batch, params)]
            return [(o.token_ids, [t.confidence for t in o.tokens]) for o in outputs]

    together = answers(1, [prompts])
    assert answers(2, [prompts]) == together
    assert answers(2, [[prompt] for prompt in prompts]) == together


def refused(folder: Path, error: type[LladaRtError], *fragments: str, compute_type: str = "auto") -> None:
    with pytest.raises(error) as caught:
        _core.Runtime(str(folder), compute_type=compute_type)
    for fragment in ("expected", *fragments):
        assert fragment in str(caught.value)


def test_compute_types_that_a_folder_cannot_run_in(tmp_path):
    int8, int4 = (write_quantized(tmp_path / dtype, dtype) for dtype in TYPES)
    refused(int8, ConfigError, "one of auto, int8, int8_bfloat16 for", '"bfloat16"', compute_type="bfloat16")
    refused(int4, ConfigError, "one of auto, int4 for", "int4", '"int8"', compute_type="int8")
    every = "auto, float32, bfloat16, int8, int8_bfloat16, int4"
    refused(CHECKPOINT, ConfigError, every, '"int3"', compute_type="int3")


@pytest.mark.parametrize(
    ("change", "error", "fragment"),
    [
        ({"method": "gptq"}, UnsupportedModelError, "gptq"),
        ({"version": 2}, UnsupportedModelError, "version"),
        ({"compute_type": "int2"}, UnsupportedModelError, "int2"),
        ({"compute_type": "int4"}, UnsupportedModelError, "group_size"),
        ({"group_size": 64}, UnsupportedModelError, "64"),
        ({"version": None}, ModelFormatError, "version"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_records_of_another_format(tmp_path, change, error, fragment):
    write_quantized(tmp_path, "int8")
    write_config(tmp_path, {"quantization": {**record_of("int8"), **change}})
    refused(tmp_path, error, "quantization", fragment)


def test_integers_without_a_record_and_floats_with_one(tmp_path):
    refused(write_model(tmp_path / "a", quantized(TENSORS, "int8")), UnsupportedModelError, "F32, BF16 or F16", "int8")
    record = {"quantization": record_of("int8")}
    refused(write_model(tmp_path / "b", TENSORS, record), UnsupportedModelError, "I8", "float32")
    record = {"quantization": record_of("int4")}
    refused(write_model(tmp_path / "c", quantized(TENSORS, "int8"), record), LladaRtError, "expected")


def spoil(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], None]:
    def apply(tensors: dict) -> None:
        tensors[name] = change(tensors[name].clone()).contiguous()

    return apply


def put(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[5] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("dtype", "damage", "fragment"),
    [
        ("int8", lambda tensors: tensors.pop(Q + ".scales"), "missing"),
        ("int8", lambda tensors: tensors.update({WTE + ".scales": torch.ones(160)}), "does not use"),
        ("int8", spoil(Q, put(-128)), "outside the format"),
        ("int4", spoil(Q, put(0x08)), "outside the format"),
        ("int4", spoil(Q, put(0x80)), "outside the format"),
        ("int8", spoil(Q + ".scales", put(0.0)), "positive scales"),
        ("int8", spoil(Q + ".scales", put(-1.0)), "positive scales"),
        ("int8", spoil(Q + ".scales", put(float("nan"))), "positive scales"),
        ("int4", spoil(Q + ".scales", put(float("inf"))), "positive scales"),
        ("int8", spoil(Q + ".scales", lambda t: t[1:]), "shape"),
        ("int4", spoil(Q + ".scales", lambda t: t[:, :0]), "shape"),
        ("int4", spoil(Q, lambda t: t[:, 1:]), "shape"),
    ],
)
def test_damaged_folders(tmp_path, dtype, damage, fragment):
    tensors = quantized(TENSORS, dtype)
    damage(tensors)
    folder = write_model(tmp_path, tensors, {"quantization": record_of(dtype)})
    refused(folder, LladaRtError, Q if ".scales" not in fragment and fragment != "does not use" else "", fragment)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("missing", [1, 100, 5000])
def test_a_folder_that_was_cut_short(tmp_path, dtype, missing):
    path = write_quantized(tmp_path, dtype) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-missing])
    refused(tmp_path, ModelFormatError, "model.safetensors")
