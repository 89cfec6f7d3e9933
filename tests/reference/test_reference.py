"""The restated loops equal every recorded run of the published code: the compiled engine is held against both."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.golden import cache_of, folder_params, load
from tests.tolerance import RECORDED_LIKELIHOOD, RECORDED_LOGITS, error

from .denoise import Params, SpecialIds, generate, schedule
from .forward import Model
from .likelihood import log_likelihood


@pytest.mark.parametrize("folder", folder_params())
def test_forward_equals_recorded_float64(folder: Path):
    model, recorded = Model(folder), load_file(folder / "forward.safetensors")
    for j in range(len(recorded) // 3):
        logits = model.forward(recorded[f"forward_{j}_ids"])
        want = recorded[f"forward_{j}_logits_float64"]
        assert error(logits, want) <= RECORDED_LOGITS * np.abs(want).max()


@pytest.mark.parametrize("folder", folder_params())
def test_loop_equals_recorded_runs(folder: Path):
    recorded, model = load(folder, "generate.json"), Model(folder)
    ids = SpecialIds(recorded["mask_id"], recorded["eos_id"], recorded["eot_id"])
    for number, case in enumerate(recorded["cases"]):
        run = generate(model, case["prompt"], Params(**case["params"], cache=cache_of(case)), ids)
        assert run.canvas.tolist() == case["output"], (number, case["function"], case["params"])
        assert run.num_forward + run.num_idle == case["num_forward"], (number, case["function"], case["params"])
        if run.num_idle == 0:
            assert run.query_lengths == case["query_lengths"], (number, case["function"], case["params"])


@pytest.mark.parametrize("folder", folder_params())
def test_likelihood_equals_recorded(folder: Path):
    model, mask_id = Model(folder), load(folder, "generate.json")["mask_id"]
    for case in load(folder, "likelihood.json"):
        rows = [row for batch in case["noisy"] for row in batch]
        ratios = [ratio for batch in case["mask_ratio"] for ratio in batch]
        got = log_likelihood(
            model, case["prompt"], case["answer"], rows, ratios, mask_id=mask_id, cfg_scale=case["cfg_scale"]
        )
        assert got == pytest.approx(case["log_likelihood"], rel=RECORDED_LIKELIHOOD["reference"])


def test_schedule_gives_the_first_steps_one_more():
    assert schedule(10, 4) == [3, 3, 2, 2]
    assert schedule(2, 4) == [1, 1, 0, 0]
    assert schedule(0, 3) == [0, 0, 0]
