"""Logits of the compiled model on every table: at most twice the error of torch in the same precision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from llada_rt import _core
from llada_rt.runtime import records
from tests.data.make_goldens import CHECKPOINT
from tests.golden import folder_params
from tests.reference.forward import Model
from tests.tolerance import FORWARD_FLOOR, error, rms_error
from training.model import LLaDA

TORCH = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LENGTHS = (1, 2, 7, 16, 33, 63, 64, 65, 128)


def torch_logits(folder: Path, tokens: np.ndarray, dtype: str) -> np.ndarray:
    with torch.no_grad():
        return LLaDA.from_folder(folder, dtype=TORCH[dtype])(torch.from_numpy(tokens).long()[None])[0].float().numpy()


def assert_as_good_as_torch(got: list, want: list, plain: list, dtype: str) -> None:
    """Root mean square of each sequence, and the largest error of all: one row may hang on a near-tie in a softmax."""
    floors = [FORWARD_FLOOR[dtype] * float(np.abs(logits).max()) for logits in want]
    for ours, truth, theirs, floor in zip(got, want, plain, floors, strict=True):
        assert rms_error(ours, truth) <= 2 * rms_error(theirs, truth) + floor, len(truth)
    largest, torch_largest = (max(map(error, logits, want)) for logits in (got, plain))
    assert largest <= 2 * torch_largest + max(floors), f"error {largest:.3g}, torch {torch_largest:.3g}"


@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("folder", folder_params())
def test_forward_equals_recorded_logits(folder: Path, dtype: str, table: str):
    runtime = _core.Runtime(str(folder), compute_type=dtype, table=table, num_threads=2)
    recorded = load_file(folder / "forward.safetensors")
    tokens, plain, want = (
        [recorded[f"forward_{j}_{what}"] for j in range(len(recorded) // 3)]
        for what in ("ids", "logits", "logits_float64")
    )
    if dtype == "bfloat16":
        plain = [torch_logits(folder, ids, dtype) for ids in tokens]
    assert_as_good_as_torch([runtime.forward(ids) for ids in tokens], want, plain, dtype)


@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_equals_reference(dtype: str, table: str):
    runtime, model = _core.Runtime(str(CHECKPOINT), compute_type=dtype, table=table, num_threads=2), Model(CHECKPOINT)
    tokens = [np.random.default_rng(length).integers(0, 160, length).astype(np.int32) for length in LENGTHS]
    plain = [torch_logits(CHECKPOINT, ids, dtype) for ids in tokens]
    assert_as_good_as_torch([runtime.forward(t) for t in tokens], [model.forward(t) for t in tokens], plain, dtype)


@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_does_not_feel_the_threads(dtype: str, table: str):
    tokens = np.arange(100, dtype=np.int32)
    runs = [_core.Runtime(str(CHECKPOINT), compute_type=dtype, table=table, num_threads=t) for t in (1, 2, 3)]
    logits = [runtime.forward(tokens) for runtime in runs]
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(logits[0], logits[2])


def scored(runtime, tokens, targets, guides, cfg_scale: float) -> list[np.ndarray]:
    """log p of the targets of each sequence, all in one step."""
    sequences = records.blank(len(tokens))
    records.put(sequences, num_steps=1, guidance_scale=cfg_scale, mask_id=-1)
    begin = 0
    for i, row in enumerate(tokens):
        length = len(row)
        sequences[i]["slot"] = runtime.open_slot(row)
        sequences[i]["guide_slot"] = runtime.open_slot(guides[i]) if guides else -1
        for name in ("first", "next"):
            sequences[i][name + "_begin"], sequences[i][name + "_end"] = i, i + 1
        sequences[i]["block_stop"] = length
        sequences[i]["targets_begin"], sequences[i]["targets_end"] = begin, begin + length
        begin += length
    spans = np.array([(0, len(row), len(row)) for row in tokens], _core.SPAN_DTYPE)
    outcomes, commits, log_probs = runtime.denoise(sequences, spans, 100, np.concatenate(targets))
    assert outcomes["num_steps"].tolist() == [1] * len(tokens)
    assert outcomes["block_done"].all()
    assert len(commits) == 0
    counts = [int((row >= 0).sum()) for row in targets]
    return np.split(log_probs, np.cumsum(counts)[:-1])


@pytest.mark.parametrize("cfg_scale", [0.0, 0.5])
def test_log_probs_equal_reference(cfg_scale: float):
    """log p(target) at the asked positions of ragged sequences, with and without guidance."""
    runtime, model = _core.Runtime(str(CHECKPOINT), compute_type="float32"), Model(CHECKPOINT)
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 160, n).astype(np.int32) for n in (1, 17, 64)]
    targets = [np.where(rng.random(len(t)) < 0.5, rng.integers(0, 160, len(t)), -1).astype(np.int32) for t in tokens]
    guides = [np.where(np.arange(len(t)) < 5, 156, t).astype(np.int32) for t in tokens] if cfg_scale else None
    got = scored(runtime, tokens, targets, guides, cfg_scale)
    for i, asked in enumerate(targets):
        logits = model.forward(tokens[i])
        if guides is not None:
            other = model.forward(guides[i])
            logits = other + (cfg_scale + 1) * (logits - other)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        rows = np.flatnonzero(asked >= 0)
        want = log_p[rows, asked[rows]]
        assert got[i].shape == want.shape
        assert error(got[i], want) <= FORWARD_FLOOR["float32"] * 20 * np.abs(logits).max()
