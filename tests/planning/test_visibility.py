"""Visibility: who sees what, where blocks begin, and that nothing but planning/visibility.py says so."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llada_rt.errors import InvalidRequestError
from llada_rt.planning.audit import Audit
from llada_rt.planning.caches import CACHES, FIXED_BLOCK_CACHES
from llada_rt.planning.canvas import Canvas
from llada_rt.planning.plan import Commit, QuerySpan, Span
from llada_rt.planning.visibility import FULL, Visibility

MASK = 99
PACKAGE = Path(__file__).resolve().parents[2] / "python/llada_rt"


def rows(spans: tuple[QuerySpan, ...]) -> dict[int, int]:
    """Position -> how many keys it sees."""
    return {position: span.visible for span in spans for position in range(span.start, span.stop)}


@given(st.one_of(st.none(), st.integers(1, 9)), st.integers(1, 60), st.integers(-5, 70), st.integers(-5, 70))
def test_a_query_is_the_published_mask(block_length, length, start, stop):
    """Query i sees key j: always, or if j // B <= i // B."""
    visibility, span = Visibility(block_length), Span(start, stop)
    query = visibility.query(span, length)
    sees = {
        i: sum(block_length is None or j // block_length <= i // block_length for j in range(length))
        for i in range(length)
    }
    assert rows(query) == {i: sees[i] for i in range(length) if start <= i < stop}
    assert all(a.stop <= b.start and a.visible < b.visible for a, b in pairwise(query))
    if query:
        inside = Span(max(start, 0), min(stop, length))
        assert visibility.visible(inside, length) == Span(0, max(span.visible for span in query))


@pytest.mark.parametrize(
    ("prompt", "gen_length", "blocks"),
    [
        (5, 10, [(4, 8), (8, 12), (12, 15)]),  # the end of the prompt shares the first block
        (8, 8, [(8, 12), (12, 16)]),
        (3, 1, [(0, 4)]),
        (0, 6, [(0, 4), (4, 6)]),
    ],
)
def test_block_causal_blocks_are_counted_from_position_0(prompt, gen_length, blocks):
    canvas = Canvas.for_generation([1] * prompt, gen_length, mask_id=MASK, visibility=Visibility(4))
    assert [(block.start, block.stop) for block in canvas.blocks] == blocks
    assert canvas.span == Span(prompt, prompt + gen_length)
    assert canvas.block_length == 4
    assert canvas.num_masked == canvas.block_start_masked == blocks[0][1] - prompt


def test_a_mask_in_the_prompt_is_of_the_block_that_holds_it():
    canvas = Canvas.for_generation([MASK, 1, 1, 1, 1, MASK, 1], 5, mask_id=MASK, visibility=Visibility(4))
    assert (canvas.block, canvas.num_masked) == (Span(4, 8), 2)


@given(st.integers(1, 7), st.integers(0, 20), st.integers(1, 40), st.data())
def test_blocks_hold_the_span_and_end_where_the_attention_s_do(block_length, prompt, gen_length, data):
    start = data.draw(st.integers(prompt, prompt + gen_length - 1))
    alone = [Span(start, data.draw(st.integers(start, prompt + gen_length)))]
    canvas = Canvas.for_generation(
        [1] * prompt, gen_length, mask_id=MASK, alone=alone, visibility=Visibility(block_length)
    )
    blocks = canvas.blocks
    assert [block.stop for block in blocks[:-1]] == [block.start for block in blocks[1:]]
    assert (blocks[0].start, blocks[-1].stop) == (prompt - prompt % block_length, prompt + gen_length)
    ends = {end for block in blocks for end in (block.start, block.stop)}
    stretch = alone[0]
    grid = {at for at in range(blocks[0].start, prompt + gen_length, block_length)}
    assert {at for at in grid if not stretch.start < at < stretch.stop} <= ends
    assert ends <= grid | {stretch.start, stretch.stop, prompt + gen_length}
    assert not len(stretch) or stretch in blocks


def test_another_block_length_than_the_attention_s_is_refused():
    with pytest.raises(InvalidRequestError, match="expected 4, that of the model's attention, got 8"):
        Canvas.for_generation([1], 8, mask_id=MASK, block_length=8, visibility=Visibility(4))
    assert Canvas.for_infill([MASK] * 9, mask_id=MASK, block_length=4, visibility=Visibility(4)).block_length == 4


@pytest.mark.parametrize("name", sorted(FIXED_BLOCK_CACHES))
def test_no_policy_asks_for_what_the_block_does_not_see(name):
    """And all of a policy's first step is exact: what the block sees, each position with what it sees itself."""
    visibility = Visibility(4)
    canvas = Canvas.for_generation([1] * 9, 20, mask_id=MASK, visibility=visibility)
    policy, step = CACHES[name](), 0
    while not canvas.is_complete:
        seen = canvas.visible(canvas.block)
        assert seen == Span(0, canvas.block.stop)
        for step_in_block in range(7):
            spans = policy.query(canvas, step, step_in_block)
            asked = rows(spans)
            assert set(range(canvas.block.start, canvas.block.stop)) <= asked.keys() <= set(range(seen.stop))
            assert asked == {at: min(at // 4 * 4 + 4, 29) for at in asked}
            if step == 0 or (step_in_block == 0 and name != "interval"):
                assert len(asked) == seen.stop
            is_whole = len(asked) == seen.stop
            assert Audit(3, None, visibility).steps_alike(9, spans, seen) == (3 if is_whole else 2)
            step += 1
        block = range(canvas.block.start, canvas.block.stop)
        canvas.commit([Commit(at, 5, 1.0, 0) for at in block if canvas.tokens[at] == MASK])
        canvas.next_block()


def test_full_attention_sees_the_canvas():
    canvas = Canvas.for_generation([1] * 5, 10, mask_id=MASK, block_length=4)
    assert canvas.visibility is FULL
    assert canvas.visible(canvas.block) == Span(0, 15)
    assert canvas.query(Span(-3, 99)) == (QuerySpan(0, 15, 15),)


def makers_of_query_spans(text: str) -> int:
    """Calls of QuerySpan, and of `replace` with `visible`."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    named = [ast.unparse(call.func).rpartition(".")[2] for call in calls]
    return sum(
        name == "QuerySpan" or any(keyword.arg == "visible" for keyword in call.keywords)
        for name, call in zip(named, calls, strict=True)
    )


def test_nothing_else_says_what_a_position_sees():
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if makers_of_query_spans(path.read_text())
    }
    assert found == {"planning/visibility.py"}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("QuerySpan(0, n, n)", 1),
        ("plan.QuerySpan(0, n, n)", 1),
        ("replace(span, visible=n)", 1),
        ("def f(span: QuerySpan): return replace(span, start=span.visible)", 0),
    ],
)
def test_the_search_finds_them(text, count):
    assert makers_of_query_spans(text) == count
