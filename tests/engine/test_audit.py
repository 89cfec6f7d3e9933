"""Cache audit: it changes nothing it looks at, its figures are those of forward passes, its budget buys exactness."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import Engine, InvalidRequestError, OutOfMemoryError, SamplingParams
from llada_rt.planning.audit import divergence
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import check_idle
from tests.tolerance import CONFIDENCE

PROMPT = [5, 9, 2, 6, 31, 77]
LONG = {"gen_length": 48, "preset": "quality", "block_length": 12, "eos_early_stop": False, "return_tokens": True}
OPTIONS = [
    {},
    {"threshold": 0.3},
    {"temperature": 0.8, "seed": 5},
    {"cfg_scale": 0.7, "steps": 20},
    {"preset": "reference", "logits_eos_inf": True},
]


def run(engine: Engine, params: SamplingParams, prompt=PROMPT):
    (output,) = engine.generate([prompt], params)
    return output.outputs[0]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cache", sorted(FIXED_BLOCK_CACHES))
@pytest.mark.parametrize("every", [1, 3])
def test_an_audit_changes_nothing(engine: Engine, cache, options, every):
    params = SamplingParams(**(LONG | {"cache": cache} | options))
    plain, audited = run(engine, params), run(engine, params.replace(audit=every))
    assert audited.tokens == plain.tokens
    assert audited.diffusion == plain.diffusion
    assert plain.audit is None
    report = audited.audit
    num_cached = audited.diffusion.nfe - audited.diffusion.num_refreshes
    assert report.num_steps == num_cached // every
    assert (report.num_steps > 0) == (cache != "none")
    assert 0 <= report.mean_kl <= report.max_kl
    assert report.num_changed_candidates <= report.num_positions
    assert report.num_changed_commits <= report.num_commits
    assert report.num_forced_refreshes == 0


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("cfg_scale", [0.0, 0.8])
def test_what_would_have_been_committed(engine: Engine, cfg_scale):
    """Each cached step beside forward passes over the canvas it had."""
    params = SamplingParams(**LONG, cache="dual", cfg_scale=cfg_scale)
    changed = compared = 0
    for start in range(0, 60, 12):
        prompt = [start + 1, start + 2, start + 3]
        canvas = [*prompt, *[IDS.mask] * 48]
        events = list(engine.stream(prompt, params.replace(audit=1)))
        for index, event in enumerate(events):
            block = range(3 + 12 * event.block, 15 + 12 * event.block)
            masked = [position for position in block if canvas[position] == IDS.mask]
            if len(masked) < 12:  # the first step of a block is exact
                logits = engine.forward(canvas)
                if cfg_scale:
                    guide = engine.forward([*[IDS.mask] * 3, *canvas[3:]])
                    logits = guide + (cfg_scale + 1) * (logits - guide)
                logits = logits[masked]
                confidence = softmax(logits)
                logits[:, IDS.mask] = -np.inf
                tokens = logits.argmax(-1)
                best = max(range(len(masked)), key=lambda row: confidence[row, tokens[row]])
                ((position, token, _),) = event.committed
                changed += (position, token) != (masked[best], tokens[best])
                compared += 1
            canvas = event.canvas
            assert (index == len(events) - 1) == event.finished
        report = events[-1].output.outputs[0].audit
        assert report.num_commits == report.num_steps == compared
        assert report.num_changed_commits == report.num_missed_commits == changed
        assert report.num_positions == 4 * sum(range(1, 12))
        assert report.num_changed_candidates <= report.num_positions
        assert report.max_kl > 0
        changed = compared = 0


def test_there_is_something_to_find(engine: Engine):
    reports = [run(engine, SamplingParams(**LONG, cache="dual", audit=1), [n, n + 1]).audit for n in range(0, 60, 10)]
    assert sum(report.num_changed_candidates for report in reports)
    assert sum(report.num_changed_commits for report in reports)


def test_divergence():
    generator = np.random.Generator(np.random.Philox(3))
    exact, cached = generator.normal(size=(2, 5, 40))
    p, q = softmax(exact), softmax(cached)
    assert divergence(exact, cached) == pytest.approx((p * np.log(p / q)).sum(-1), rel=CONFIDENCE)
    assert divergence(exact, exact + 3.0) == pytest.approx(0, abs=CONFIDENCE)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("cache", [name for name in sorted(FIXED_BLOCK_CACHES) if name != "none"])
def test_no_budget_for_errors_is_no_cache(engine: Engine, cache, options):
    params = SamplingParams(**(LONG | options))
    exact = run(engine, params)
    strict = run(engine, params.replace(cache=cache, error_budget=0))
    assert strict.tokens == exact.tokens
    assert strict.audit.num_forced_refreshes > 0
    assert strict.diffusion.nfe == exact.diffusion.nfe
    generous = run(engine, params.replace(cache=cache, error_budget=1e9))
    assert generous.tokens == run(engine, params.replace(cache=cache)).tokens
    assert generous.audit.num_forced_refreshes == 0


def test_a_budget_is_spent_step_by_step(engine: Engine):
    params = SamplingParams(**LONG, cache="dual")
    drifts = run(engine, params.replace(audit=1)).audit.max_kl
    tight, loose = (run(engine, params.replace(audit=2, error_budget=share * drifts)) for share in (0.01, 0.5))
    assert tight.audit.num_forced_refreshes >= loose.audit.num_forced_refreshes > 0
    assert tight.diffusion.num_refreshes == 4 + tight.audit.num_forced_refreshes
    # A forced refresh is not counted as a cached step, so the audits after it move on.
    assert tight.audit.num_steps >= (tight.diffusion.nfe - tight.diffusion.num_refreshes) // 2


def test_the_budget_sets_the_audit_and_needs_it():
    assert SamplingParams(error_budget=0.5).audit == 1
    assert SamplingParams(error_budget=0.5, audit=4).audit == 4
    assert [SamplingParams(audit=value).audit for value in (False, True, 7, np.True_)] == [0, 1, 7, 1]
    with pytest.raises(InvalidRequestError, match="needs audit"):
        SamplingParams(error_budget=0.5, audit=0)
    for value in (-1, 1.5, "yes", None):
        with pytest.raises(InvalidRequestError, match="audit: expected True"):
            SamplingParams(audit=value)
    with pytest.raises(InvalidRequestError, match="error_budget"):
        SamplingParams(error_budget=-0.1)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(sorted(FIXED_BLOCK_CACHES)), st.integers(0, 4), st.integers(1, 20), st.integers(1, 40)
        ),
        min_size=2,
        max_size=5,
    )
)
def test_an_audit_does_not_feel_its_neighbours(engine: Engine, requests):
    params = [
        SamplingParams(preset="quality", cache=cache, audit=every, gen_length=length, block_length=min(block, length))
        for cache, every, block, length in requests
    ]
    prompts = [[n, n + 1] for n in range(len(requests))]
    together = [output.outputs[0] for output in engine.generate(prompts, params)]
    for prompt, one, completion in zip(prompts, params, together, strict=True):
        alone = run(engine, one, prompt)
        assert completion.token_ids == alone.token_ids
        assert completion.audit == alone.audit


def test_a_failed_audit_fails_its_request_alone(monkeypatch):
    params = SamplingParams(**LONG, cache="dual")
    with Engine(CHECKPOINT, compute_type="float32", threads=1) as engine:
        alone = run(engine, params).token_ids
        neighbour = engine.stream(PROMPT, params)
        next(neighbour)
        with monkeypatch.context() as patch:
            patch.setattr(engine._runner, "copy_slot", lambda slot: (_ for _ in ()).throw(OutOfMemoryError("planted")))
            with pytest.raises(OutOfMemoryError, match="planted"):
                run(engine, params.replace(audit=1))
        assert list(neighbour)[-1].output.outputs[0].token_ids == alone
        check_idle(engine)


def test_an_infill_is_audited_too(engine: Engine):
    params = SamplingParams(preset="quality", block_length=4, cache="dual", audit=1)
    completion = engine.infill([[1, 2], 6, [3], 5, [4, 5]], params).outputs[0]
    assert completion.audit.num_steps == completion.diffusion.nfe - completion.diffusion.num_refreshes > 0
