"""The cost model against a table worked out independently for LLaDA-8B, and what must hold for any sizes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost_model import (
    Machine,
    ModelShape,
    Work,
    answer_cost,
    break_even,
    modelled_break_even,
    step_cost,
    tokens_per_second,
)
from benchmarks.llada_8b import GPUS, H100, H200, LLADA_8B, cpu, predict, table
from tests.tolerance import COST_TABLE

FP8 = Machine("H100 fp8", 1979e12, 3.35e12, weight_bytes=1, kv_element_bytes=1)
SMALL = ModelShape("small", d_model=512, n_layers=8, mlp_hidden_size=1536, vocab_size=32000)
HERE = Machine("here", 9e11, 36e9)


def test_sizes_of_llada_8b():
    assert LLADA_8B.body == pytest.approx(6.98e9, rel=1e-3)
    assert LLADA_8B.head == pytest.approx(0.518e9, rel=1e-3)
    assert LLADA_8B.kv_bytes(2) == 512 * 1024


# batch, rows, machine -> operations in 1e12, GB, milliseconds; 512 positions, 32 rows of logits.
STEPS = [
    (1, 512, H100, 7.32, 15.5, 7.40),
    (1, 128, H100, 1.85, 15.3, 4.58),
    (1, 32, H100, 0.49, 15.3, 4.56),
    (1, 32, H200, 0.49, 15.3, 3.18),
    (32, 512, H100, 234, 32, 237),
    (32, 128, H100, 59, 26, 60),
    (32, 32, H100, 15.6, 24, 15.8),
]


@pytest.mark.parametrize(("batch", "rows", "machine", "operations", "gigabytes", "milliseconds"), STEPS)
def test_a_step(batch, rows, machine, operations, gigabytes, milliseconds):
    cost = step_cost(LLADA_8B, machine, batch=batch, rows=rows, keys=512, head_rows=32)
    assert cost.operations / 1e12 == pytest.approx(operations, rel=COST_TABLE["step"])
    assert cost.num_bytes / 1e9 == pytest.approx(gigabytes, rel=COST_TABLE["step"])
    assert cost.seconds * 1e3 == pytest.approx(milliseconds, rel=COST_TABLE["step"])


# mode, batch, machine -> tokens a second for 1, 3, 8 and 32 tokens a step.
ANSWERS = [
    ("none", 1, H100, (135, 405, 1081, 4325)),
    ("prefix", 1, H100, (214, 619, 1514, 4325)),
    ("dual", 1, H100, (215, 621, 1518, 4325)),
    ("block_causal", 1, H100, (213, 597, 1374, 3314)),
    ("block_causal", 1, FP8, (425, 1194, 2747, 6621)),
    ("dual", 1, H200, (302, 838, 1888, 4325)),
    ("prefix", 32, H100, (440, 1153, 2333, 4325)),
    ("dual", 32, H100, (1409, 2629, 3603, 4325)),
    ("block_causal", 32, H100, (1917, 5165, 10974, 22222)),
]


@pytest.mark.parametrize(("mode", "batch", "machine", "expected"), ANSWERS)
def test_an_answer(mode, batch, machine, expected):
    got = [tokens_per_second(LLADA_8B, machine, Work(batch=batch), mode, k) for k in (1, 3, 8, 32)]
    assert got == pytest.approx(expected, rel=COST_TABLE.get(mode, COST_TABLE["answer"]))


def test_an_arm():
    got = [tokens_per_second(LLADA_8B, m, Work(batch=b), "arm") for b in (1, 32, 128) for m in (H100, H200)]
    assert got == pytest.approx([220, 314, 4666, 6499, 9141, 12398], rel=COST_TABLE["answer"])


def test_break_even_of_a_block_causal_model():
    got = [modelled_break_even(LLADA_8B, m, Work(batch=b), "block_causal") for b in (1, 32, 128) for m in (H100, H200)]
    assert got == pytest.approx([1, 1, 2.7, 4, 6, 9.5], rel=0.05)


def test_break_even_by_hand():
    assert break_even(lambda k: 12 / k, 4, 32) == pytest.approx(3, abs=2e-3)
    assert break_even(lambda k: 12 / k, 100, 32) == 1
    assert break_even(lambda k: 5 + 12 / k, 5, 32) is None


def test_a_long_prompt_hurts_most_what_recomputes_it():
    short, long = Work(64, 128), Work(1024, 128)
    slower = {
        mode: answer_cost(SMALL, HERE, long, mode, 2).seconds / answer_cost(SMALL, HERE, short, mode, 2).seconds
        for mode in ("none", "prefix", "dual", "block_causal")
    }
    assert slower["none"] > slower["prefix"] > slower["block_causal"]
    assert slower["none"] > slower["dual"] > slower["block_causal"]


def test_logits_of_what_is_still_masked():
    """Summed step by step: 8 + 6 + 4 + 2 rows through the head for a block of 8, two tokens a step."""
    work = Work(64, 16, 8, masked_head=True)
    with_head, without = (
        answer_cost(model, HERE, work, "none", 2).operations for model in (SMALL, replace(SMALL, vocab_size=0))
    )
    assert with_head - without == pytest.approx(2 * SMALL.head * 2 * (8 + 6 + 4 + 2))


@pytest.mark.parametrize("tokens", [0.5, 33, 0, -1])
def test_tokens_per_step_out_of_range(tokens):
    with pytest.raises(ValueError, match=r"expected 1 to 32"):
        answer_cost(SMALL, HERE, Work(), "dual", tokens)


works = st.builds(
    Work,
    prompt_length=st.integers(1, 512),
    gen_length=st.integers(1, 256),
    block_length=st.sampled_from([4, 8, 16, 32]),
    batch=st.integers(1, 64),
)


@given(works, st.floats(1, 4), st.sampled_from([HERE, *GPUS, cpu(64, 1.0)]))
def test_order_of_the_modes(work, tokens, machine):
    """Fewer positions never cost more, more tokens a step never take longer, more prompts never go slower together."""
    costs = [answer_cost(SMALL, machine, work, mode, tokens).seconds for mode in ("none", "prefix", "dual")]
    assert costs[0] >= costs[1] * (1 - 1e-9)
    assert costs[1] >= costs[2] * (1 - 1e-9)
    assert answer_cost(SMALL, machine, work, "dual", 4).seconds <= costs[2] * (1 + 1e-9)
    alone = Work(work.prompt_length, work.gen_length, work.block_length)
    for mode in ("none", "dual", "arm"):
        together = tokens_per_second(SMALL, machine, work, mode, tokens)
        assert together >= tokens_per_second(SMALL, machine, alone, mode, tokens) * (1 - 1e-9)


def test_predictions_are_marked_and_whole():
    lines = table()
    assert "prediction" in lines[0]
    assert len(lines) - 2 == len(list(predict())) == 2 * 3 + 2 * 6
    by = {(p.machine, p.batch): p for p in predict(share=1.0)}
    assert by["H100", 1].dual == pytest.approx(2.8 * 219 * 0.95, rel=0.05)
    assert by["H100", 32].break_even is None
    two, many = by["2 cores, int8", 1], by["64 cores, int8", 1]
    assert 1 < two.dual / two.none < 20
    assert many.dual / two.dual == pytest.approx(32, rel=0.4)
