"""Cache policies and decoders: what they ask for, and that the schedule is LLaDA's."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llada_rt.options.precedence import RULES
from llada_rt.params import Cache, SamplingParams
from llada_rt.planning.caches import CACHES
from llada_rt.planning.canvas import Canvas
from llada_rt.planning.decoders import DECODERS, decoder_of, steps_of_block
from llada_rt.planning.plan import Commit, QuerySpan, SelectRule

MASK = 99


def canvas_in_second_block():
    canvas = Canvas.for_generation([1, 2, 3], 12, mask_id=MASK, block_length=4)
    canvas.commit([Commit(p, 5, 1.0, 0) for p in range(3, 7)])
    canvas.next_block()
    return canvas


@pytest.mark.parametrize(
    ("name", "later", "exact", "compact"),
    [
        ("none", QuerySpan(0, 15, 15), True, False),
        ("prefix", QuerySpan(7, 15, 15), False, False),
        ("dual", QuerySpan(7, 11, 15), False, False),
        ("dual_compact", QuerySpan(7, 11, 15), False, True),
    ],
)
def test_cache_policies_that_refresh_at_the_start_of_a_block(name, later, exact, compact):
    policy = CACHES[name]()
    canvas = canvas_in_second_block()
    assert policy.query(canvas, 4, 0) == (QuerySpan(0, 15, 15),)
    for step in range(1, 60):
        assert policy.query(canvas, 4 + step, step) == (later,)
    assert (policy.exact, policy.compact) == (exact, compact)


def test_vicinity_is_a_window_once_the_request_is_warm():
    policy = CACHES["vicinity"]()
    canvas = Canvas.for_generation([1] * 40, 60, mask_id=MASK, block_length=20)
    whole, window = (QuerySpan(0, 100, 100),), (QuerySpan(24, 76, 100),)
    assert [policy.query(canvas, step, step) for step in range(6)] == [whole] * 4 + [window] * 2
    canvas.commit([Commit(p, 5, 1.0, 0) for p in range(40, 80)])
    canvas.next_block()
    assert policy.query(canvas, 9, 0) == whole
    assert policy.query(canvas, 10, 1) == (QuerySpan(64, 100, 100),)
    short = Canvas.for_generation([1] * 4, 20, mask_id=MASK)
    assert policy.query(short, 9, 9) == (QuerySpan(0, 24, 24),)


def test_interval_counts_the_steps_of_the_request():
    """Around the block: given text each fiftieth step, the response each seventh. Here text is given on both sides."""
    policy = CACHES["interval"]()
    canvas = Canvas.for_infill([1, 2, MASK, MASK, MASK, MASK, 3, MASK, 4, 5], mask_id=MASK, block_length=2)
    expected = {
        (False, False): [(2, 4)],
        (False, True): [(2, 8)],
        (True, False): [(0, 4), (8, 10)],
        (True, True): [(0, 10)],
    }
    for step in range(400):
        spans = [(span.start, span.stop) for span in policy.query(canvas, step, step % 5)]
        assert spans == expected[step % 50 == 0, step % 7 == 0]


def test_each_choice_of_cache_is_a_policy_and_only_none_is_exact():
    assert set(get_args(Cache)) == set(CACHES)
    assert [name for name, policy in CACHES.items() if policy.exact] == ["none"]


@given(st.integers(1, 200), st.integers(1, 20))
def test_steps_spread_over_blocks_as_llada_spreads_tokens_over_steps(steps, num_blocks):
    shares = [steps_of_block(steps, num_blocks, block) for block in range(num_blocks)]
    # The published get_num_transfer_tokens, on (steps, blocks) instead of (masks, steps).
    expected = [steps // num_blocks] * num_blocks
    for block in range(steps % num_blocks):
        expected[block] += 1
    assert shares == [max(1, share) for share in expected]
    if steps >= num_blocks:
        assert sum(shares) == steps


def commits_of(rule: SelectRule) -> list[int]:
    """The schedule that the compiled loop follows."""
    return [
        rule.num_masked // rule.num_steps + (step < rule.num_masked % rule.num_steps) for step in range(rule.num_steps)
    ]


@given(
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(1, 60)),
    st.one_of(st.none(), st.integers(1, 90)),
)
def test_top_k_schedule_fills_every_block(gen_length, block_length, steps):
    block_length = None if block_length is None else min(block_length, gen_length)
    params = SamplingParams(preset="quality", gen_length=gen_length, block_length=block_length, steps=steps)
    canvas = Canvas.for_generation([1], gen_length, mask_id=MASK, block_length=params.block_length)
    decoder = decoder_of(params)
    total = 0
    while not canvas.is_complete:
        rule = decoder.select(canvas, 0)
        schedule = commits_of(rule)
        assert sum(schedule) == canvas.num_masked == len(canvas.block)
        assert schedule == sorted(schedule, reverse=True)
        total += len(schedule)
        masked = [p for p in range(canvas.block.start, canvas.block.stop)]
        canvas.commit([Commit(p, 5, 1.0, 0) for p in masked])
        canvas.next_block()
    if steps is None:
        assert total == gen_length
    elif steps >= len(canvas.blocks):
        assert total == steps


def test_steps_done_move_the_schedule_on():
    decoder = decoder_of(SamplingParams(gen_length=12, block_length=4, steps=6))
    canvas = canvas_in_second_block()
    canvas.commit([Commit(8, 5, 1.0, 0), Commit(9, 5, 1.0, 0)])
    assert decoder.select(canvas, 1) == SelectRule("top_k", num_masked=4, num_steps=2, next_step=1)


def test_decoder_of_request():
    canvas = canvas_in_second_block()
    assert decoder_of(SamplingParams(threshold=0.7)).select(canvas, 3) == SelectRule("threshold", value=0.7)
    assert decoder_of(SamplingParams(factor=1.5)).select(canvas, 3) == SelectRule("factor", value=1.5)
    falling = SamplingParams(threshold=0.7, threshold_alpha=0.3)
    assert decoder_of(falling).select(canvas, 3) == SelectRule("threshold", value=0.7, alpha=0.3)
    assert decoder_of(SamplingParams(frechet=0.0)).select(canvas, 3) == SelectRule("frechet", value=0.0)
    leap = SamplingParams(local_leap=0.9, local_leap_threshold=0.6, local_leap_radius=2)
    assert decoder_of(leap).select(canvas, 3) == SelectRule("local_leap", value=0.9, near_value=0.6, radius=2)
    assert decoder_of(SamplingParams(entropy_bound=0.1)).select(canvas, 3) == SelectRule("entropy_bound", value=0.1)
    assert set(DECODERS) == {"top_k", *RULES}
