"""The head and the commit of the CUDA backend where they differ from the CPU's: chunks of 128 tokens, tiles of 32, 64
and 128 rows with candidates beside their guides, launches of 1024 rows. (test_candidates.py and test_commit.py of
tests/ops run over it too.)
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_rt import Engine, SamplingParams, _core
from llada_rt.errors import LladaRtError
from tests import cuda_host
from tests.denoise.test_committed_goldens import CHECKPOINT, IDS
from tests.ops.precision import normal
from tests.ops.test_candidates import FIGURES, check, make
from tests.reference.candidates import SCORES, alternatives, candidates, guide
from tests.reference.commit import RULES
from tests.tolerance import CONFIDENCE, assert_accurate

COMPUTE_TYPES = ("float32", "bfloat16", "int8", "int8_bfloat16", "int4", "float8")
EVERY_FIGURE = ("token", "other_token", "other_confidence", *FIGURES)


@pytest.fixture
def cuda() -> "_core.Ops":
    cuda_host.add_table()
    return _core.Ops("cuda", 1)


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request) -> str:
    return request.param


@pytest.mark.parametrize("vocab", [63, 64, 65, 127, 128, 129, 1000, 4097])
@pytest.mark.parametrize("rows", [1, 31, 32, 33, 64, 65, 129])
def test_sizes(cuda, dtype, rows, vocab):
    if rows * vocab > 200_000 and dtype == "float32":
        pytest.skip("float32 has one tile, whose sizes the smaller cases have seen")
    check(cuda, *make(vocab + rows, rows, vocab, 16, dtype), dtype)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_vocabulary_of_one(cuda, dtype, temperature):
    got = cuda.candidates(
        np.ones((3, 8), np.float32),
        np.ones((1, 8), np.float32),
        dtype,
        positions=np.arange(3, dtype=np.int32),
        temperature=temperature,
    )
    assert got["token"].tolist() == [0, 0, 0]
    for name, figure in {
        "confidence": 1,
        "probability": 1,
        "margin": 1,
        "log_prob": 0,
        "entropy": 0,
    }.items():
        assert got[name].tolist() == [figure] * 3


def test_more_rows_than_a_launch_takes(cuda):
    check(cuda, *make(1, 1030, 140, 8, "bfloat16"), "bfloat16", score="margin")


@pytest.mark.parametrize("compute_type", COMPUTE_TYPES)
@pytest.mark.parametrize("rows", [3, 40, 70])
def test_compute_types(cuda, compute_type, rows):
    """The logits are those of matmul, the same bits; what they come to is held against float64."""
    hidden, head, positions = make(rows, rows, 300, 96, "bfloat16")
    logits = cuda.matmul(hidden, head, compute_type)
    own = {"temperature": 0.5, "seed": 3, "step": 4}
    got = cuda.candidates(
        hidden,
        head,
        compute_type,
        positions=positions,
        score=SCORES.index("margin"),
        **own,
    )
    want = candidates(logits, positions, score="margin", **own)
    assert np.array_equal(got["token"], want.token)
    for name in FIGURES:
        assert_accurate(got[name], getattr(want, name), getattr(want, name), "float32")


@pytest.mark.parametrize("w", [0.5, 3.0])
@pytest.mark.parametrize("rows", [1, 16, 17, 33, 65])
def test_guides_in_every_tile(cuda, dtype, rows, w):
    """A candidate and its guide are two rows of the product: 17 pairs take more than one tile of 32."""
    hidden, head, positions = make(rows, rows, 200, 24, dtype)
    other = normal(np.random.default_rng(rows), rows, 24, dtype=dtype)
    check(
        cuda,
        hidden,
        head,
        positions,
        dtype,
        guide_hidden=other,
        guidance_scale=w,
        score="entropy",
    )


def test_the_guide_counts_as_written(cuda):
    """u + (w + 1)(c - u), of the logits that matmul gives."""
    hidden, head, positions = make(9, 20, 260, 16, "float32")
    other = normal(np.random.default_rng(10), 20, 16, dtype="float32")
    got = cuda.candidates(
        hidden,
        head,
        "float32",
        guide_hidden=other,
        guidance_scale=1.5,
        positions=positions,
        targets=positions,
    )
    mixed = guide(
        *(cuda.matmul(x, head, "float32").astype(np.float64) for x in (hidden, other)),
        1.5,
    )
    targets = mixed[np.arange(20), positions] - np.logaddexp.reduce(mixed, -1)
    assert_accurate(
        got["target_log_prob"],
        targets,
        targets,
        "float32",
        magnitude=float(np.abs(mixed).max()),
    )


@pytest.mark.parametrize(
    "tied",
    [[31, 32], [5, 37], [96, 127], [127, 128], [0, 383], [7, 130, 2499], [2047, 2048]],
)
@pytest.mark.parametrize("temperature", [0.0, 1e-300])
def test_ties(cuda, dtype, tied, temperature):
    """Ties of one lane, of two, of two chunks, of two threads that merge. Noise too small to see leaves a tie a tie."""
    head = np.zeros((2500, 8), np.float32)
    head[tied] = 0.5
    for mask_id in (-1, *tied):
        got = cuda.candidates(
            np.ones((2, 8), np.float32),
            head,
            dtype,
            positions=np.arange(2, dtype=np.int32),
            mask_id=mask_id,
            temperature=temperature,
        )
        assert got["token"].tolist() == tied[:1] * 2
        assert got["other_token"].tolist() == [next(t for t in tied if t != mask_id)] * 2
        assert got["margin"].tolist() == [0, 0]


@pytest.mark.parametrize("first", [0, 100, 127, 128, 250])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_special_tokens_anywhere(cuda, dtype, first, temperature):
    """Mask, suppressed, unconfident and target tokens beside each other, also across the edge of a chunk."""
    hidden, head, positions = make(first, 6, 300, 32, dtype)
    names = (
        "mask_id",
        "suppressed_token",
        "unconfident_token_0",
        "unconfident_token_1",
    )
    for shift, propose_mask in itertools.product(range(4), (0, 1)):
        rule = {name: first + (i + shift) % 4 for i, name in enumerate(names)}
        head[list(rule.values())] *= 4  # so that they matter
        check(
            cuda,
            hidden,
            head,
            positions,
            dtype,
            propose_mask=propose_mask,
            temperature=temperature,
            seed=first,
            **rule,
        )
        head[list(rule.values())] /= 4


def test_a_suppressed_mask_is_no_candidate(cuda, dtype):
    head = np.zeros((200, 8), np.float32)
    head[150], head[20] = 1.0, 0.5
    got = cuda.candidates(
        np.ones((1, 8), np.float32),
        head,
        dtype,
        positions=np.zeros(1, np.int32),
        mask_id=150,
        suppressed_token=150,
    )
    assert got["token"].tolist() == got["other_token"].tolist() == [20]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 31, 32, 69])
def test_a_row_that_is_not_finite_is_named(cuda, dtype, row, bad):
    hidden, head, positions = make(3, 70, 300, 16, dtype)
    hidden[row, 3] = bad
    with pytest.raises(LladaRtError, match=f"row {row},"):
        cuda.candidates(hidden, head, dtype, positions=positions)


@pytest.mark.parametrize("token", [0, 127, 128, 299])
def test_one_logit_that_is_not_finite_is_enough(cuda, token):
    """Even of a token that is left out of everything."""
    hidden, head, positions = make(4, 2, 300, 16, "float32")
    head[token] = 3e38
    hidden[1] = 2.0
    with pytest.raises(LladaRtError, match="row 1,"):
        cuda.candidates(np.stack([np.zeros(16, np.float32), hidden[1]]), head, "float32", positions=positions[:2],
                        suppressed_token=token)  # fmt: skip


def test_logits_as_far_apart_as_float32_goes(cuda):
    head = np.zeros((140, 8), np.float32)
    head[3], head[130] = 1.0, -1.0
    got = cuda.candidates(
        np.full((1, 8), 4e37, np.float32),
        head,
        "float32",
        positions=np.zeros(1, np.int32),
        targets=[130],
    )
    assert got["token"].tolist() == [3]
    assert (got["probability"][0], got["entropy"][0], got["margin"][0]) == (1, 0, 1)
    assert np.isfinite(got["target_log_prob"][0])


@pytest.mark.parametrize("compute_type", COMPUTE_TYPES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neighbours_are_not_felt(cuda, compute_type, temperature):
    """The same bits alone (a tile of 32 rows), with 40 others (64) and with 100 (128)."""
    hidden, head, positions = make(11, 100, 400, 64, "bfloat16")
    rule = {
        "step": 2,
        "seed": 4,
        "temperature": temperature,
        "mask_id": 399,
        "suppressed_token": 64,
    }

    def run(rows: slice) -> dict:
        return cuda.candidates(hidden[rows], head, compute_type, positions=positions[rows], **rule)

    whole = run(slice(None))
    for rows in (slice(70, 71), slice(30, 71)):
        part = run(rows)
        for name in EVERY_FIGURE:
            assert np.array_equal(part[name][-1], whole[name][70])


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16"])
def test_requests_with_rules_of_their_own(open_engine, compute_type):
    """Fifteen rows without a guide before pairs: one pair would lie across two tiles. Each request as if alone."""
    common = {"gen_length": 15, "block_length": 15, "steps": 3, "return_tokens": True}
    params = [
        SamplingParams(**common),
        SamplingParams(**common | {"gen_length": 24, "block_length": 24, "cfg_scale": 1.5}),
        SamplingParams(
            **common
            | {
                "gen_length": 24,
                "block_length": 24,
                "cfg_scale": 0.5,
                "temperature": 0.7,
                "seed": 3,
            }
        ),
        SamplingParams(**common, temperature=1.0, seed=5),
        SamplingParams(**common, remasking="random", seed=1),
    ]
    prompts = [{"prompt_token_ids": list(range(5, 9 + i))} for i in range(len(params))]
    options = {
        "compute_type": compute_type,
        "max_num_seqs": 16,
        "eot_token_id": IDS["eot"],
    }

    def tokens(engine: Engine, which: slice) -> list:
        found = engine.generate(prompts[which], params[which])
        return [[(t.id, t.confidence) for t in output.outputs[0].tokens] for output in found]

    with open_engine(CHECKPOINT, **options) as engine:
        together = tokens(engine, slice(None))
        assert [tokens(engine, slice(i, i + 1))[0] for i in range(len(params))] == together
    if compute_type == "float32":
        with Engine(CHECKPOINT, device="cpu", **options) as engine:
            on_cpu = tokens(engine, slice(None))
        assert [[token for token, _ in row] for row in together] == [[token for token, _ in row] for row in on_cpu]


@pytest.mark.parametrize("compute_type", COMPUTE_TYPES)
@pytest.mark.parametrize("rows", [1, 40, 70])
def test_alternatives_of_compute_types(cuda, compute_type, rows):
    """The list is that of a sort of the logits that matmul gives; the candidates are those without a list."""
    hidden, head, positions = make(rows, rows, 300, 96, "bfloat16")
    logits = cuda.matmul(hidden, head, compute_type)
    rule = {"temperature": 0.5, "seed": 3, "unconfident_token_0": 127, "suppressed_token": 128}
    got = cuda.candidates(hidden, head, compute_type, positions=positions, num_alternatives=20, **rule)
    tokens, log_probs = alternatives(logits, 20, suppressed=[128], unconfident=[127])
    assert np.array_equal(got["alternatives"][0], tokens)
    assert_accurate(got["alternatives"][1], log_probs, log_probs, "float32")
    without = cuda.candidates(hidden, head, compute_type, positions=positions, **rule)
    assert all(np.array_equal(got[name], without[name]) for name in EVERY_FIGURE)


def test_alternatives_of_more_rows_than_a_launch_takes(cuda):
    hidden, head, positions = make(1, 530, 260, 8, "bfloat16")
    got = cuda.candidates(hidden, head, "bfloat16", positions=positions, num_alternatives=2)
    tokens, _ = alternatives(cuda.matmul(hidden, head, "bfloat16"), 2)
    assert np.array_equal(got["alternatives"][0], tokens)


def test_alternatives_of_more_chunks_than_threads_merge(cuda):
    """Over 128 chunks, so that each thread merges several before neighbours do; ties lie in many of them."""
    head = np.zeros((40_000, 8), np.float32)
    tied = list(range(100, 40_000, 1999))
    head[tied] = 0.5
    got = cuda.candidates(
        np.ones((1, 8), np.float32), head, "float32", positions=np.zeros(1, np.int32), num_alternatives=19
    )
    assert got["alternatives"][0].tolist() == [tied[:19]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_alternatives_of_a_row_that_is_not_finite(cuda, bad):
    """It is named as without a list, and its list ends."""
    hidden, head, positions = make(3, 40, 300, 16, "float32")
    hidden[7, 3] = bad
    with pytest.raises(LladaRtError, match="row 7,"):
        cuda.candidates(hidden, head, "float32", positions=positions, num_alternatives=20)


def test_requests_with_lists_of_their_own_length(open_engine):
    """Some ask, some don't, one is guided; each as if alone, and as on the processor."""
    counts = [None, 20, 3, 0, 7]
    params = [
        SamplingParams(gen_length=12, block_length=12, steps=3, logprobs=count, cfg_scale=index % 2 * 0.5)
        for index, count in enumerate(counts)
    ]
    prompts = [{"prompt_token_ids": list(range(5, 9 + i))} for i in range(len(params))]
    options = {"compute_type": "float32", "max_num_seqs": 16, "eot_token_id": IDS["eot"]}

    def told(engine: Engine, which: slice) -> list:
        return [output.outputs[0].token_logprobs for output in engine.generate(prompts[which], params[which])]

    with open_engine(CHECKPOINT, **options) as engine:
        together = told(engine, slice(None))
        assert [told(engine, slice(i, i + 1))[0] for i in range(len(params))] == together
    with Engine(CHECKPOINT, device="cpu", **options) as engine:
        on_cpu = told(engine, slice(None))
    assert together[0] is on_cpu[0] is None
    for mine, theirs, count in zip(together[1:], on_cpu[1:], counts[1:], strict=True):
        assert [len(each.top_logprobs) for each in mine] == [count] * 12
        assert [[top.id for top in each.top_logprobs] for each in mine] == [
            [top.id for top in each.top_logprobs] for each in theirs
        ]
        for each, other in zip(mine, theirs, strict=True):
            assert [top.logprob for top in each.top_logprobs] == pytest.approx(
                [top.logprob for top in other.top_logprobs], abs=CONFIDENCE
            )


CONFIDENCES = st.sampled_from([0.0, -0.0, 0.25, 0.5, 0.75, 1.0, -1.0, float("nan"), float("-inf")])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_commit_as_the_processor_does(data):
    cuda_host.add_table()
    n = data.draw(st.sampled_from([0, 1, 2, 3, 31, 32, 33, 64, 100, 257]))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels = np.array(data.draw(st.lists(CONFIDENCES, min_size=1, max_size=5)))
    mask = 7
    args = (
        np.full(n, mask, np.int32),
        np.arange(n, dtype=np.int32),
        draw.integers(data.draw(st.sampled_from([0, 6, 7])), 8, n).astype(np.int32),
        draw.choice(levels, n),
        select := data.draw(st.integers(0, len(RULES) - 1)),
        data.draw(st.sampled_from([0, 1, 5, 40, 1000])),
        data.draw(
            st.sampled_from(
                [0.25, 0.5, 1.0] if RULES[select] == "local_leap" else [-1.0, 0.0, 0.5, 0.75, 1.0, 3.0, 50.0]
            )
        ),
        mask,
        (draw.integers(0, 7, n).astype(np.int32), draw.choice(levels, n)),
        data.draw(st.sampled_from([0.1, 0.25, 0.5])),
        data.draw(st.sampled_from([1, 4, 2**40])),
        draw.choice(np.abs(levels), n),
    )
    got, want = (_core.Ops(table, 1).commit(*args) for table in ("cuda", "generic"))
    assert np.array_equal(got[0], want[0])
    assert np.array_equal(got[1], want[1])


@pytest.mark.parametrize("n", [4031, 4032, 4033, 6000])
@pytest.mark.parametrize(
    ("select", "count", "value"),
    [
        *[(0, 50, 0.0), (0, 9999, 0.0), (1, 0, 0.9), (2, 0, 2.0), (1, 700, 0.9), (1, 9999, 0.9), (2, 300, 2.0)],
        *[(3, 0, 0.2), (3, 300, 0.2), (4, 0, 0.9), (4, 3000, 0.9), (5, 0, 40.0), (5, 300, 40.0)],
    ],
)
def test_commit_of_more_than_the_shared_memory_holds(cuda, n, select, count, value):
    rng = np.random.default_rng(n)
    args = (np.full(n, 99, np.int32), np.arange(n, dtype=np.int32), rng.integers(0, 90, n).astype(np.int32),
            np.round(rng.random(n), 2), select, count, value, 99, None, 0.5, 3, rng.random(n))  # fmt: skip
    got, want = (ops.commit(*args) for ops in (cuda, _core.Ops("generic", 1)))
    assert np.array_equal(got[0], want[0])
    assert np.array_equal(got[1], want[1])


def test_steps_with_fewer_and_fewer_masks_are_one_graph(open_engine, imitation):
    params = SamplingParams(gen_length=24, block_length=24, steps=24, cache="dual")
    with open_engine(CHECKPOINT, compute_type="float32", eot_token_id=IDS["eot"]) as engine:
        before = (
            imitation.llada_cuda_count(b"captures"),
            imitation.llada_cuda_count(b"graph_launches"),
        )
        engine.generate({"prompt_token_ids": [5, 6, 7]}, params)
        assert imitation.llada_cuda_count(b"captures") - before[0] == 1
        # The first step recomputes everything, the second one has a new shape, from the third on there is a graph.
        assert imitation.llada_cuda_count(b"graph_launches") - before[1] == 22
