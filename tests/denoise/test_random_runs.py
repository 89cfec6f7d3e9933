"""Options drawn at random: the Engine and the reference loop agree on what no recorded run happens to combine."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import Engine, SamplingParams, _core
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from tests.data.make_goldens import CHECKPOINT, IDS, shaken
from tests.denoise.made_plans import LIMITS
from tests.reference.denoise import Params, Run, denoise
from tests.reference.forward import Model

MODEL = Model(CHECKPOINT)
VARIANTS = [shaken(MODEL, seed) for seed in range(3)]
BOUNDED = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

# Tokens that the checkpoint often writes.
BORDERS = st.fixed_dictionaries(
    {"adablock": st.sampled_from([0.01, 0.05, 0.2]), "adablock_token": st.sampled_from([40, 103, 41, 84])}
)


@pytest.fixture(scope="module", params=_core.tables())
def engine(request):
    with Engine(CHECKPOINT, compute_type="float32", cpu_isa=request.param, threads=2, eot_token_id=IDS.eot) as engine:
        yield engine


@st.composite
def options(draw) -> dict:
    """Params of the reference; in the published preset (`propose_mask`) lengths divide."""
    block_length, num_blocks, propose_mask = draw(st.integers(1, 20)), draw(st.integers(1, 3)), draw(st.booleans())
    gen_length, steps = block_length * num_blocks, num_blocks * draw(st.integers(1, block_length + 3))
    if not propose_mask:
        gen_length, steps = gen_length - draw(st.integers(0, block_length - 1)), draw(st.integers(1, steps))
        block_length = min(block_length, gen_length)
    rule = draw(st.sampled_from(["top_k", "top_k", *LIMITS]))
    scores = ["low_confidence", "margin", "random", *(("entropy",) if rule in ("top_k", "entropy_bound") else ())]
    return {
        "gen_length": gen_length,
        "block_length": block_length,
        "steps": steps,
        "propose_mask": propose_mask,
        "cache": draw(st.sampled_from(sorted(FIXED_BLOCK_CACHES))),
        "remasking": draw(st.sampled_from(scores)),
        "temperature": draw(st.sampled_from([0.0, 0.0, 0.3, 1.0, 4.0])),
        "cfg_scale": draw(st.sampled_from([0.0, 0.0, 0.5, 3.0])),
        "logits_eos_inf": draw(st.booleans()),
        "confidence_eos_eot_inf": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**64 - 1)),
        **({} if rule == "top_k" else draw(LIMITS[rule])),
        **({} if propose_mask else draw(st.one_of(st.just({}), BORDERS))),
    }


def reference(model: Model, prompt: list[int], params: Params) -> Run:
    canvas = np.array([*prompt, *[IDS.mask] * params.gen_length])
    return denoise(model, canvas, (len(prompt), len(canvas)), params, IDS)


@BOUNDED
@given(options(), st.lists(st.integers(0, IDS.mask - 1), min_size=1, max_size=40))
def test_random_options(engine, chosen, prompt):
    params = Params(**chosen)
    unsaid = {"propose_mask", "steps"} if "adablock" in chosen else {"propose_mask"}
    own = {key: value for key, value in chosen.items() if key not in unsaid}
    preset = "reference" if params.propose_mask else "quality"
    sampling = SamplingParams(**own, preset=preset, eos_early_stop=False, return_tokens=True)
    (output,) = engine.generate({"prompt_token_ids": prompt}, sampling)
    want = reference(MODEL, prompt, params)
    ends = [] if params.propose_mask else np.flatnonzero(np.isin(want.canvas, [IDS.eos, IDS.eot])).tolist()
    stop = min((p for p in ends if p >= len(prompt)), default=len(want.canvas))  # what lies behind is not returned
    got = {(t.step, t.position, t.id) for t in output.outputs[0].tokens if t.step is not None}
    agrees = got == {commit[:3] for commit in want.commits if commit.position < stop}
    stats = output.outputs[0].diffusion
    costs = (want.num_forward, sum(want.query_lengths), want.query_lengths.count(len(want.canvas)))
    agrees = agrees and (stats.nfe, stats.num_query_rows, stats.num_refreshes) == costs
    if not agrees:  # a run that hangs on a rounding tie says nothing
        others = [reference(model, prompt, params).commits for model in VARIANTS]
        stable = all([c[:3] for c in commits] == [c[:3] for c in want.commits] for commits in others)
        assert not stable, (params, prompt)
