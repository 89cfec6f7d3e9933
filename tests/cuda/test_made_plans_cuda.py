"""Made-up plans on the CUDA backend: block-causal attention, minima and edits give the reference's tokens."""

from dataclasses import replace

import numpy as np
import pytest

from tests.data.make_goldens import CHECKPOINT, IDS
from tests.denoise.made_plans import denoise, sequence_of
from tests.reference.denoise import Params
from tests.reference.denoise import denoise as reference
from tests.reference.forward import Model

TOKENS, SPAN = [7, 99, 23, 14, 15, *[IDS.mask] * 16], (5, 21)
BASE = Params(steps=1, gen_length=0, block_length=8, threshold=0.3, propose_mask=False)
EDITS = replace(BASE, temperature=3.0, editing_threshold=0.3, max_post_steps=3)
PLANS = {
    "block-causal": replace(BASE, attention_block=8),
    "minimum": replace(BASE, threshold=1.0, num_to_transfer=3),
    "scheduled": replace(BASE, threshold=0.9, steps=8, is_scheduled=True, attention_block=8, cache="dual"),
    "falling": replace(BASE, threshold=0.9, threshold_alpha=0.9, cache="prefix"),
    "frechet": replace(BASE, threshold=None, frechet=0.0, cfg_scale=1.5),
    "local_leap": replace(BASE, threshold=None, local_leap=0.4, local_leap_threshold=0.1, local_leap_radius=2),
    "entropy_bound": replace(BASE, threshold=None, entropy_bound=2.0, remasking="entropy", num_to_transfer=2),
    "edits": replace(EDITS, attention_block=8, cache="dual_compact"),
    "guided edits": replace(EDITS, cfg_scale=0.5, cache="prefix"),
}


@pytest.mark.parametrize("name", PLANS)
def test_made_plans(open_engine, name):
    params = PLANS[name]
    want = reference(Model(CHECKPOINT), np.array(TOKENS), SPAN, params, IDS)
    assert any(commit.replaced is not None for commit in want.commits) == ("edits" in name)
    sequence = sequence_of(params, TOKENS, SPAN)
    with open_engine(CHECKPOINT, compute_type="float32", threads=2) as engine:
        commits = denoise(engine._runner, sequence, [2, 5])
    assert sorted((c.step, c.position, c.token, c.replaced) for c in commits) == sorted(
        (c.step, c.position, c.token, c.replaced) for c in want.commits
    )
    assert sequence.canvas.tokens == want.canvas.tolist()
