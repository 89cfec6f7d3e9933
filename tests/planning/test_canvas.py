"""Canvas: blocks, holes, what is masked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llada_rt.errors import InvalidRequestError
from llada_rt.planning.canvas import Canvas
from llada_rt.planning.plan import Commit, Span

MASK = 99


def commit(*positions, token=1):
    return [Commit(position, token, 0.5, 0) for position in positions]


def test_a_generation_is_prompt_then_masks():
    canvas = Canvas.for_generation([5, 6, 7], 10, mask_id=MASK, block_length=4)
    assert canvas.tokens == [5, 6, 7, *[MASK] * 10]
    assert canvas.blocks == (Span(3, 7), Span(7, 11), Span(11, 13))
    assert (canvas.block, canvas.num_masked, canvas.block_start_masked) == (Span(3, 7), 4, 4)


def test_a_mask_in_the_prompt_is_not_counted_in_a_block():
    canvas = Canvas.for_generation([5, MASK], 4, mask_id=MASK)
    assert canvas.num_masked == 4
    canvas.commit(commit(1))
    assert canvas.num_masked == 4


def test_blocks_complete_from_left_to_right():
    canvas = Canvas.for_generation([5], 6, mask_id=MASK, block_length=4)
    canvas.commit(commit(1, 3))
    assert (canvas.num_masked, canvas.block_start_masked) == (2, 4)
    canvas.commit(commit(2, 4))
    canvas.next_block()
    assert (canvas.block, canvas.num_masked) == (Span(5, 7), 2)
    canvas.commit(commit(5, 6))
    canvas.next_block()
    assert canvas.is_complete
    assert canvas.block_index == 2


def test_a_block_ends_where_a_border_was_found():
    """What follows is cut anew, from there on."""
    canvas = Canvas.for_generation([5], 12, mask_id=MASK, block_length=4)
    canvas.end_block_at(7)
    assert canvas.blocks == (Span(1, 7), Span(7, 11), Span(11, 13))
    assert (canvas.block, canvas.num_masked, canvas.block_start_masked) == (Span(1, 7), 6, 6)
    canvas.commit(commit(*range(1, 7)))
    canvas.next_block()
    canvas.end_block_at(8)
    assert canvas.blocks == (Span(1, 7), Span(7, 8), Span(8, 12), Span(12, 13))
    canvas.commit(commit(7))
    canvas.next_block()
    canvas.end_block_at(13)
    assert canvas.blocks == (Span(1, 7), Span(7, 8), Span(8, 13))
    assert canvas.num_masked == 5


def test_an_edit_replaces_the_token_that_it_says():
    canvas = Canvas.for_generation([5], 6, mask_id=MASK, block_length=4)
    canvas.commit([*commit(1, 2), Commit(1, 7, 0.5, 1, replaced=1)])
    assert (canvas.tokens, canvas.num_masked) == ([5, 7, 1, *[MASK] * 4], 2)
    for position, replaced in ((1, 1), (3, 1), (2, MASK), (1, None)):
        with pytest.raises(AssertionError, match="holds"):
            canvas.commit([Commit(position, 8, 0.5, 0, replaced=replaced)])


def test_an_infill_spans_from_first_to_last_hole_and_passes_over_full_blocks():
    template = [1, 2, MASK, 3, 4, 5, 6, 7, MASK, MASK, 8]
    canvas = Canvas.for_infill(template, mask_id=MASK, block_length=3)
    assert canvas.span == Span(2, 10)
    assert canvas.blocks == (Span(2, 5), Span(5, 8), Span(8, 10))
    canvas.commit(commit(2))
    canvas.next_block()
    assert (canvas.block_index, canvas.block) == (2, Span(8, 10))
    canvas.commit(commit(8, 9))
    canvas.next_block()
    assert canvas.is_complete
    assert [t for t in canvas.tokens if t != 1] == [2, 3, 4, 5, 6, 7, 8]


def test_block_length_is_cut_to_the_span():
    assert Canvas.for_infill([MASK, 1, MASK], mask_id=MASK, block_length=32).blocks == (Span(0, 3),)


@pytest.mark.parametrize("template", [[], [1, 2, 3]])
def test_nothing_to_fill_is_refused(template):
    with pytest.raises(InvalidRequestError, match="hole"):
        Canvas.for_infill(template, mask_id=MASK)


def test_first_settled_needs_everything_before_it():
    canvas = Canvas.for_generation([7], 4, mask_id=MASK)
    canvas.commit(commit(3, token=7))
    assert canvas.first_settled(frozenset([7])) is None
    canvas.commit(commit(1, 2, token=3))
    assert canvas.first_settled(frozenset([7])) == 3
    canvas.finish(7)
    assert canvas.is_complete
    assert canvas.tokens == [7, 3, 3, 7, 7]


def test_committing_a_fixed_position_is_a_bug():
    canvas = Canvas.for_generation([7], 4, mask_id=MASK)
    with pytest.raises(AssertionError):
        canvas.commit(commit(0))


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any), st.integers(1, 50))
def test_blocks_partition_the_span(holes, block_length):
    template = [MASK if hole else 1 for hole in holes]
    canvas = Canvas.for_infill(template, mask_id=MASK, block_length=block_length)
    assert [p for block in canvas.blocks for p in range(block.start, block.stop)] == list(
        range(canvas.span.start, canvas.span.stop)
    )
    assert all(len(block) == canvas.block_length for block in canvas.blocks[:-1])
    seen = 0
    while not canvas.is_complete:
        masked = [p for p in range(canvas.block.start, canvas.block.stop) if canvas.tokens[p] == MASK]
        assert len(masked) == canvas.num_masked == canvas.block_start_masked > 0
        canvas.commit(commit(*masked))
        seen += len(masked)
        canvas.next_block()
    assert seen == sum(holes)
    assert MASK not in canvas.tokens
