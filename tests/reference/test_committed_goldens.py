"""The committed goldens are what the reference makes of the committed checkpoint."""

from collections import Counter

import numpy as np
import pytest

from tests.data.make_goldens import CHECKPOINT, DECODER_GOLDENS, FILES, IDS, RULES, make_weights, told
from tests.golden import load

from .denoise import Params, denoise
from .forward import Model


def test_checkpoint_is_what_the_script_makes():
    model = Model(CHECKPOINT)
    for name, value in make_weights().items():
        assert np.array_equal(model.weights[name.removeprefix("model.transformer.")], value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_goldens_are_what_the_reference_makes(file):
    model = Model(CHECKPOINT)
    for group in load(file.parent, file.name)["groups"]:
        params = Params(**group["params"])
        assert told(params) == group["params"]
        for case in group["cases"]:
            run = denoise(model, np.array(case["canvas"]), case["span"], params, IDS)
            assert run.canvas.tolist() == case["output"]
            assert [list(commit[:3]) for commit in run.commits] == [commit[:3] for commit in case["commits"]]


def test_every_rule_has_runs_that_tell_it_from_one_token_a_step():
    cases = Counter()
    for group in load(DECODER_GOLDENS.parent, DECODER_GOLDENS.name)["groups"]:
        for case in group["cases"] if "adablock" not in group["params"] else ():
            cases[Params(**group["params"]).rule] += case["num_forward"] < len(case["commits"])
    assert set(cases) == set(RULES)
    assert min(cases.values()) >= 30


def test_borders_have_runs_that_tell_them_from_fixed_blocks():
    model, count = Model(CHECKPOINT), 0
    for group in load(DECODER_GOLDENS.parent, DECODER_GOLDENS.name)["groups"]:
        if "adablock" not in group["params"]:
            continue
        params = Params(**group["params"] | {"adablock": None})
        for case in group["cases"]:
            run = denoise(model, np.array(case["canvas"]), case["span"], params, IDS)
            count += [list(commit[:3]) for commit in run.commits] != [commit[:3] for commit in case["commits"]]
    assert count >= 30
