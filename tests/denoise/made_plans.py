"""Plans that no request asks for yet: block-causal attention, a minimum of commits, editing. A sequence is driven by
hand, with calls of any number of steps; the reference runs the same.
"""

from dataclasses import dataclass

from hypothesis import strategies as st

from llada_rt.planning.audit import Audit
from llada_rt.planning.caches import CACHES, FIXED_BLOCK_CACHES
from llada_rt.planning.canvas import Canvas
from llada_rt.planning.decoders import steps_of_block
from llada_rt.planning.plan import Commit, SamplingRule, SelectRule, Span, StepPlan
from llada_rt.planning.sequence import SequenceState
from llada_rt.planning.visibility import Visibility
from llada_rt.runtime.runner import Runner
from tests.data.make_goldens import IDS
from tests.reference.denoise import Params

# What a rule goes by, drawn so that steps commit few and many.
LIMITS = {
    "threshold": st.fixed_dictionaries(
        {"threshold": st.floats(0.01, 1.0), "threshold_alpha": st.sampled_from([0.0, 0.0, 0.3, 0.7, 1.0])}
    ),
    "factor": st.fixed_dictionaries({"factor": st.floats(0.01, 8.0)}),
    "frechet": st.fixed_dictionaries({"frechet": st.sampled_from([0.0, 0.02, 0.25, 0.7])}),
    "local_leap": st.tuples(st.floats(0.05, 1.0), st.floats(0.1, 1.0), st.integers(1, 9)).map(
        lambda drawn: {
            "local_leap": drawn[0],
            "local_leap_threshold": drawn[0] * drawn[1],
            "local_leap_radius": drawn[2],
        }
    ),
    "entropy_bound": st.fixed_dictionaries({"entropy_bound": st.sampled_from([0.0, 0.3, 1.0, 3.0, 9.0])}),
}


@dataclass(frozen=True)
class MadeDecoder:
    params: Params

    def select(self, canvas: Canvas, steps_done: int) -> SelectRule:
        p, schedule = self.params, {}
        if p.rule == "top_k" or p.is_scheduled:
            num_steps = steps_of_block(p.steps, len(canvas.blocks), canvas.block_index)
            schedule = {"num_masked": canvas.block_start_masked, "num_steps": num_steps, "next_step": steps_done}
        edits = {}
        if p.editing_threshold is not None:
            edits = {"edit_threshold": p.editing_threshold, "max_post_steps": p.max_post_steps}
        more = {}
        if p.rule == "local_leap":
            more = {"near_value": p.local_leap_threshold, "radius": p.local_leap_radius}
        elif p.rule == "threshold":
            more = {"alpha": p.threshold_alpha}
        value = getattr(p, p.rule, 0.0)
        return SelectRule(p.rule, count=p.num_to_transfer, value=value, **schedule, **edits, **more)


def sequence_of(params: Params, tokens: list[int], span: tuple[int, int], audit: int = 0) -> SequenceState:
    visibility = Visibility(params.attention_block)
    canvas = Canvas(tokens, mask_id=IDS.mask, span=Span(*span), block_length=params.block_length, visibility=visibility)
    sampling = SamplingRule(
        mask_id=IDS.mask,
        score=params.remasking,
        temperature=params.temperature,
        guidance_scale=params.cfg_scale,
        seed=params.seed,
        propose_mask=params.propose_mask,
    )
    return SequenceState(
        request_id="made",
        canvas=canvas,
        cache=CACHES[params.cache](),
        decoder=MadeDecoder(params),
        sampling=sampling,
        commit_start=0,  # as published
        audit=Audit(audit, None, visibility) if audit else None,
    )


def denoise(runner: Runner, sequence: SequenceState, steps_of_calls: list[int]) -> list[Commit]:
    """The whole sequence, in calls of so many steps at most, over and over; `step` of the commits: of the request."""
    tokens, guide = sequence.slot_tokens()
    sequence.slot, sequence.guide_slot = runner.open(tokens, guide)
    commits, calls = [], 0
    try:
        while not sequence.is_finished:
            plan, most = sequence.plan(), steps_of_calls[calls % len(steps_of_calls)]
            calls += 1
            if sequence.audit and sequence.audit.is_due(plan, sequence.length):
                plan = sequence.audit.examine(runner, plan, sequence.canvas.tokens)
            before = sequence.num_forwards
            (result,) = runner.denoise(StepPlan((plan,), sequence.steps_alike(most))).sequences
            assert result.bad_position is None
            assert 0 < result.num_steps <= most
            commits += [
                Commit(c.position, c.token, c.confidence, before + c.step, replaced=c.replaced) for c in result.commits
            ]
            sequence.apply(result)
            assert runner.canvas(sequence.slot) == sequence.canvas.tokens
    finally:
        runner.close_slots(sequence.slot, sequence.guide_slot)
    return commits


@st.composite
def made_params(draw) -> Params:
    block_length, rule = draw(st.integers(1, 12)), draw(st.sampled_from(["top_k", "threshold", *LIMITS]))
    edits = st.fixed_dictionaries(
        {"editing_threshold": st.sampled_from([0.0, 0.1, 0.3, 0.6, 0.9]), "max_post_steps": st.integers(0, 5)}
    )
    return Params(
        steps=draw(st.integers(1, 12)),
        gen_length=0,  # the canvas says
        block_length=block_length,
        attention_block=draw(st.sampled_from([None, block_length])),
        num_to_transfer=draw(st.sampled_from([1, 1, 2, 5])),
        is_scheduled=rule != "top_k" and draw(st.booleans()),
        propose_mask=draw(st.booleans()),
        cache=draw(st.sampled_from(sorted(FIXED_BLOCK_CACHES))),
        remasking=draw(st.sampled_from(["low_confidence", "low_confidence", "margin", "random"])),
        temperature=draw(st.sampled_from([0.0, 0.0, 0.5, 2.0])),
        cfg_scale=draw(st.sampled_from([0.0, 0.0, 1.5])),
        seed=draw(st.integers(0, 2**64 - 1)),
        **(draw(LIMITS[rule]) if rule in LIMITS else {}),
        **draw(st.one_of(st.just({}), edits, edits)),
    )


@st.composite
def made_canvas(draw) -> tuple[list[int], tuple[int, int]]:
    """Given text, masks with some given text among them, given text; and the span to be decoded."""
    given = st.integers(0, IDS.mask - 1)
    prompt, tail = draw(st.lists(given, max_size=20)), draw(st.lists(given, max_size=6))
    inside = draw(st.lists(st.one_of(st.just(IDS.mask), st.just(IDS.mask), st.just(IDS.mask), given), max_size=26))
    response = [IDS.mask, *inside]
    return [*prompt, *response, *tail], (len(prompt), len(prompt) + len(response))
