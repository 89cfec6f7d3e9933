"""The committed goldens are what the reference makes of the committed checkpoint."""

import numpy as np

from tests.data.make_goldens import CHECKPOINT, GOLDENS, IDS, make_weights
from tests.golden import load

from .denoise import Params, denoise
from .forward import Model


def test_checkpoint_is_what_the_script_makes():
    model = Model(CHECKPOINT)
    for name, value in make_weights().items():
        assert np.array_equal(model.weights[name.removeprefix("model.transformer.")], value)


def test_goldens_are_what_the_reference_makes():
    model = Model(CHECKPOINT)
    for group in load(GOLDENS.parent, GOLDENS.name)["groups"]:
        for case in group["cases"]:
            run = denoise(model, np.array(case["canvas"]), case["span"], Params(**group["params"]), IDS)
            assert run.canvas.tolist() == case["output"]
            assert [list(commit[:3]) for commit in run.commits] == [commit[:3] for commit in case["commits"]]
