"""The plain torch loop against the recorded runs, and its rules."""

import pytest
import torch

from tests.golden import folder_params, load
from tests.training.conftest import small_model
from training.model import LLaDA
from training.sampling import commits_per_step, generate, infill

PLAIN = {"temperature": 0.0, "cfg_scale": 0.0, "remasking": "low_confidence"}


@pytest.mark.parametrize("folder", folder_params())
def test_generation_is_token_equal_to_the_recorded_runs(folder):
    model = LLaDA.from_folder(folder)
    sizes = {"steps", "gen_length", "block_length"}
    cases = [
        case
        for case in load(folder, "generate.json")["cases"]
        if case["source"] == "llada" and {k: v for k, v in case["params"].items() if k not in sizes} == PLAIN
    ]
    assert len(cases) > 20
    for case in cases:
        options = {name: case["params"][name] for name in sizes}
        assert generate(model, [case["prompt"]], **options) == [case["output"]], case["params"]


def test_the_schedule_spreads_the_remainder_first():
    assert commits_per_step(10, 4) == [3, 3, 2, 2]
    assert commits_per_step(2, 4) == [1, 1, 0, 0]


def test_rows_do_not_feel_their_neighbours():
    model = small_model()
    prompts = [[5, 6, 7], [8], [9, 10, 11], [12, 13]]
    options = {"gen_length": 8, "block_length": 4, "steps": 8}
    together = generate(model, prompts, **options)
    assert together == [generate(model, [prompt], **options)[0] for prompt in prompts]


def test_infill_touches_only_the_holes():
    model, canvas = small_model(), [5, 2, 7, 2, 2, 9]
    with torch.no_grad():  # a hole must not be answered with the mask itself
        model.transformer["ff_out"].weight[2] = 0
        model.transformer["ff_out"].weight[3] = 5
    (filled,) = infill(model, [canvas])
    assert [filled[i] for i in (0, 2, 5)] == [5, 7, 9]
    assert 2 not in filled or filled.count(2) < canvas.count(2)
    assert infill(model, [[5, 6]]) == [[5, 6]]


@pytest.mark.parametrize("options", [{"block_length": 3, "steps": 8}, {"block_length": 4, "steps": 3}])
def test_lengths_that_do_not_divide_are_refused(options):
    with pytest.raises(ValueError, match="do not divide"):
        generate(small_model(), [[5]], gen_length=8, **options)
