"""Made-up plans against the reference, token by token: who sees what, how many are committed, what is edited."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import _core
from llada_rt.config import EngineConfig
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from llada_rt.planning.plan import StepPlan
from llada_rt.runtime.runner import Runner
from tests.data.make_goldens import CHECKPOINT, IDS, shaken
from tests.reference.denoise import Params, Run
from tests.reference.denoise import denoise as reference
from tests.reference.forward import Model

from .made_plans import denoise, made_canvas, made_params, sequence_of

MODEL = Model(CHECKPOINT)
VARIANTS = [shaken(MODEL, seed) for seed in range(3)]
BOUNDED = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
EDITING = Params(
    steps=1,
    gen_length=0,
    block_length=8,
    threshold=0.3,
    temperature=3.0,
    propose_mask=False,
    editing_threshold=0.3,
)
CANVAS = [7, 99, 23, 14, 15, *[IDS.mask] * 24], (5, 29)


@pytest.fixture(scope="module", params=_core.tables())
def runner(request):
    runner = Runner(EngineConfig(CHECKPOINT, compute_type="float32", table=request.param, threads=2))
    yield runner
    runner.close()


def told(run: Run) -> list[tuple]:
    """Commits as a set in order; of one step their order is that of confidences, which may be equal."""
    return sorted((c.step, c.position, c.token, c.replaced) for c in run.commits)


@BOUNDED
@given(made_params(), made_canvas(), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_made_plans(runner, params, canvas, calls):
    tokens, span = canvas
    sequence = sequence_of(params, tokens, span)
    commits = denoise(runner, sequence, calls)
    want = reference(MODEL, np.array(tokens), span, params, IDS)
    got = sorted((c.step, c.position, c.token, c.replaced) for c in commits)
    agrees = got == told(want) and sequence.canvas.tokens == want.canvas.tolist()
    agrees = agrees and (sequence.num_forwards, sequence.num_query_rows) == (want.num_forward, sum(want.query_lengths))
    if not agrees:  # a run that hangs on a rounding tie says nothing
        others = [told(reference(model, np.array(tokens), span, params, IDS)) for model in VARIANTS]
        assert not all(other == told(want) for other in others), (params, canvas, calls)
    assert runner.num_open_slots == 0


@pytest.mark.parametrize("attention_block", [None, 8])
@pytest.mark.parametrize("max_post_steps", [0, 1, 2, 16])
def test_editing_ends(runner, max_post_steps, attention_block):
    """Post-steps run while they edit, and no more of them than are allowed."""
    params = replace(EDITING, max_post_steps=max_post_steps, attention_block=attention_block)
    sequence = sequence_of(params, *CANVAS)
    commits = denoise(runner, sequence, [100])
    assert IDS.mask not in sequence.canvas.tokens
    assert sequence.canvas.tokens[:5] == CANVAS[0][:5]
    first = {c.position: c.step for c in commits if c.replaced is None}
    assert sorted(first) == list(range(5, 29))
    blocks = list(sequence.canvas.blocks)
    ends = [max(first[p] for p in range(max(block.start, 5), block.stop)) for block in blocks]  # the last mask's step
    starts = [min(first[p] for p in range(max(block.start, 5), block.stop)) for block in blocks[1:]]
    edits = {c.step for c in commits if c.replaced is not None}
    assert edits
    num_early = 0
    for end, start in zip(ends, [*starts, sequence.num_forwards], strict=True):
        post_steps = range(end + 1, start)
        assert len(post_steps) <= max_post_steps
        assert [step in edits for step in post_steps[:-1]] == [True] * len(post_steps[:-1])
        if len(post_steps) < max_post_steps:
            assert post_steps[-1] not in edits
            num_early += 1
    assert num_early > 0 or max_post_steps < 16


def test_edits_tell_what_they_replace(runner):
    sequence = sequence_of(replace(EDITING, max_post_steps=5), *CANVAS)
    tokens, count = list(CANVAS[0]), 0
    for commit in denoise(runner, sequence, [3]):
        assert commit.token not in (IDS.mask, tokens[commit.position])
        assert tokens[commit.position] == (IDS.mask if commit.replaced is None else commit.replaced)
        tokens[commit.position] = commit.token
        placed = sequence.placed[commit.position]
        assert placed.step >= commit.step
        count += commit.replaced is not None
        assert placed.token == commit.token or placed.step > commit.step
    assert tokens == sequence.canvas.tokens
    assert count > 5
    assert {position: placed.token for position, placed in sequence.placed.items()} == dict(enumerate(tokens[5:], 5))


def test_given_text_is_not_edited(runner):
    tokens = list(CANVAS[0])
    tokens[7:12] = [3, 4, 5, 6, 7]
    for attention_block in (None, 8):
        params = replace(EDITING, max_post_steps=8, attention_block=attention_block)
        sequence = sequence_of(params, tokens, CANVAS[1])
        commits = denoise(runner, sequence, [2])
        assert {commit.position for commit in commits} == {5, 6, *range(12, 29)}
        assert any(commit.replaced is not None for commit in commits)


@pytest.mark.parametrize("attention_block", [None, 8])
@pytest.mark.parametrize("cache", sorted(FIXED_BLOCK_CACHES))
def test_an_edited_block_is_the_same_wherever_calls_end(runner, cache, attention_block):
    """And the reference's; a compact plan recomputes what may be edited, and what has been."""
    params = replace(EDITING, cache=cache, attention_block=attention_block, max_post_steps=4, seed=3)
    want = reference(MODEL, np.array(CANVAS[0]), CANVAS[1], params, IDS)
    assert sum(commit.replaced is not None for commit in want.commits) > 5
    for calls in ([1], [2, 5], [100]):
        sequence = sequence_of(params, *CANVAS)
        commits = denoise(runner, sequence, calls)
        assert sorted((c.step, c.position, c.token, c.replaced) for c in commits) == told(want)
        assert sequence.num_query_rows == sum(want.query_lengths)


def test_edits_have_their_alternatives(runner):
    params = replace(EDITING, temperature=0.0, max_post_steps=4)
    sequence = sequence_of(params, *CANVAS)
    sequence.sampling = replace(sequence.sampling, num_alternatives=20)
    results = []
    sequence.slot, _ = runner.open(sequence.canvas.tokens, None)
    while not sequence.is_finished:
        (result,) = runner.denoise(StepPlan((sequence.plan(),), sequence.steps_alike(5))).sequences
        results += result.commits
        sequence.apply(result)
    runner.close_slots(sequence.slot)
    assert sum(commit.replaced is not None for commit in results) > 5
    for commit in results:
        assert len(commit.alternatives) == 20
        assert dict(commit.alternatives)[commit.token] == commit.log_prob


@pytest.mark.parametrize("attention_block", [None, 8])
@pytest.mark.parametrize("cache", [name for name in sorted(FIXED_BLOCK_CACHES) if name != "none"])
@pytest.mark.parametrize("every", [1, 3])
def test_an_audit_changes_nothing(runner, cache, attention_block, every):
    params = replace(EDITING, cache=cache, attention_block=attention_block, max_post_steps=4)
    plain, audited = sequence_of(params, *CANVAS), sequence_of(params, *CANVAS, audit=every)
    assert denoise(runner, audited, [4]) == denoise(runner, plain, [4])
    report = audited.audit.report
    assert report.num_steps == (audited.num_forwards - audited.num_refreshes) // every > 0
    assert report.num_commits > 0


@pytest.mark.parametrize("cache", ["dual", "prefix"])
def test_what_block_causal_models_cache_is_exact(runner, cache):
    """No block looks at one after it, so nothing that was kept has changed."""
    params = replace(EDITING, attention_block=8, editing_threshold=None)
    exact, cached = sequence_of(params, *CANVAS), sequence_of(replace(params, cache=cache), *CANVAS, audit=1)
    want, got = denoise(runner, exact, [9]), denoise(runner, cached, [9])
    assert [(c.position, c.token, c.step) for c in got] == [(c.position, c.token, c.step) for c in want]
    assert cached.audit.report.num_steps > 0
    assert cached.audit.report.max_kl == 0
    assert cached.num_query_rows < exact.num_query_rows
