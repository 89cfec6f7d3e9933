"""What the comparisons conclude from their rows, and what they check before."""

from dataclasses import replace

import pytest
import torch

from benchmarks import matched_quality, roof, scaling
from benchmarks.baselines.contract import Answer
from benchmarks.cost_model import Work, answer_cost
from benchmarks.fixed_work import break_even_text, fixed_params, measured_seconds
from benchmarks.fixed_work import findings as fixed_findings
from benchmarks.questions import PAIRS
from benchmarks.rivals import RIVALS, OnTorch, rival_entries
from benchmarks.workloads import agrees_with, is_exact, pair_workload, shape_workload
from llada_rt import ConfigError, Engine, SamplingParams
from tests.benchmarks.fakes import FakeSystem, FakeTime
from tests.benchmarks.test_figures import LIMITS, row
from training.model import LLaDA


def answers(*texts: tuple[int, ...]) -> list[Answer]:
    return [Answer(tokens, total_s=1.0) for tokens in texts]


def test_agreement_with_the_reference():
    reference = [(1, 2), (3,), (4,), (5,)]
    assert agrees_with(lambda: reference, 1.0)(answers(*reference, (9,))) is None  # more were asked than are checked
    three = answers((1, 2), (3,), (4,), (6,))
    assert agrees_with(lambda: reference, 0.75)(three) is None
    assert "3 of 4 answers" in agrees_with(lambda: reference, 0.76)(three)
    assert "expected at least 4" in agrees_with(lambda: reference, 0.5)(three[:3])


@pytest.mark.parametrize(
    ("params", "exact"),
    [
        ({}, True),
        ({"preset": "quality"}, False),  # blocks of 32
        ({"preset": "fast"}, False),
        ({"threshold": 0.9}, False),
        ({"cache": "dual"}, False),
        ({"cache": "none"}, True),
        ({"steps": 4}, False),
    ],
)
def test_what_claims_to_be_the_published_loop(params, exact):
    assert is_exact(params) == exact


def test_our_exact_setting_is_held_against_torch():
    """A wrong reference fails exact settings, not approximate ones: those are judged by their share right."""
    work = replace(pair_workload("sudoku", 2), reference=lambda: [(0,), (0,)])
    engines, options = None, {"compute_type": "float32", "threads": 1}
    exact = work.ours("exact", engines, options, {"preset": "reference"})
    fast = work.ours("fast", engines, options, {"preset": "fast"})
    made = answers((1, 2), (3, 4))
    assert "0 of 2" in exact.check(made)
    assert fast.check(made) is None


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name):
    pair = PAIRS[name](7)
    assert len(pair.questions) == 7
    assert len(pair.some(3).items) == 3
    right = [
        Answer(tuple(pair.tokenizer.encode(min(item.accepted), add_special_tokens=False).ids), total_s=1.0)
        for item in pair.items
    ]
    assert pair.judge(right) == 7
    assert pair.judge([replace(answer, tokens=answer.tokens[:-1]) for answer in right]) == 0
    assert LLaDA.from_folder(pair.arm).config.causal


def test_the_same_random_weights_as_a_masked_model_and_as_an_arm(monkeypatch):
    from benchmarks import workloads
    from benchmarks.baselines.check import TINY

    monkeypatch.setitem(workloads.SHAPES, "tiny", TINY)
    with shape_workload("tiny", prompt_length=8, num_tokens=16, count=2) as work:
        mdm, arm = LLaDA.from_folder(work.mdm), LLaDA.from_folder(work.arm)
        assert arm.config.causal
        assert not mdm.config.causal
        assert all(torch.equal(a, b) for a, b in zip(mdm.parameters(), arm.parameters(), strict=True))
        with Engine(work.mdm, threads=1) as engine:
            params = SamplingParams(gen_length=16, **fixed_params(16, 3, block=8))
            output = engine.generate(list(work.questions[0].prompt), params)[0].outputs[0]
        assert output.diffusion.nfe == 2 * 3  # two blocks of 8, three tokens a step
        made = answers(tuple(output.token_ids), tuple(range(15)))
        assert "1 answers of 15 tokens, expected 16" in work.check(made)


# ---------------------------------------------------------------- break-even


def test_break_even_between_and_beyond_the_measured_points():
    seconds = {1: 12.0, 2: 7.0, 4: 4.5}  # 2 + 10 / tokens a step
    at = measured_seconds(seconds)
    assert [at(k) for k in (1, 2, 4, 8)] == pytest.approx([12, 7, 4.5, 3.25])
    assert break_even_text(seconds, 7.0) == "2.0"
    assert break_even_text(seconds, 20.0) == "1 already"
    assert break_even_text(seconds, 3.25) == "8.0 (extrapolated)"
    assert break_even_text(seconds, 1.0) == "none up to a block a step"


def test_break_even_of_a_single_point():
    assert break_even_text({4: 2.0}, 1.0) == "none up to a block a step"


def test_fixed_work_concludes_for_each_arm_that_has_a_speed():
    setting = {"shape": "s", "line": "int8"}
    rows = [row(f"ours int8 k={k}", "mdm", 100.0 * k, **setting, tokens_per_step=k) for k in (1, 2, 4)]
    rows += [row("torch", "arm", 50.0, shape="s"), row("llama.cpp-q8_0", "arm", 300.0, shape="s")]
    rows.append(row("transformers", "arm", None, shape="s"))
    (line,) = fixed_findings("s", rows)
    assert "torch 1 already" in line
    assert "llama.cpp-q8_0 3.0" in line
    assert "transformers" not in line


# ---------------------------------------------------------------- matched quality


def quality_rows(fast: float, share: float) -> list[dict]:
    rows = [
        row("ours int8 fast", "mdm", fast),
        row("ours int8 fast@1", "mdm", fast / 2),
        row("ours int8 reference", "mdm", 50.0),
        row("torch-llada", "mdm", 5000.0),  # another's masked model is not ours
        row("llama.cpp-q8_0", "arm", 200.0),
        row("llama.cpp-q8_0@1", "arm", 400.0),
        row("torch", "arm", 100.0),
    ]
    for each in rows:
        each["share_right"] = 0.95
    rows[0]["share_right"] = rows[1]["share_right"] = share
    return rows


@pytest.mark.parametrize(
    ("fast", "share", "words"),
    [
        (500.0, 0.95, ["1.25 times llama.cpp-q8_0@1 (asked 1.0, 95.0% right): met", "5.00 times torch"]),
        (500.0, 0.941, ["): met; 5.00 times"]),
        (
            500.0,
            0.93,
            ["1.25 times llama.cpp-q8_0@1 (asked 1.0, 95.0% right): MISSED", "(asked 3.0, 95.0% right): MISSED"],
        ),
        (250.0, 0.95, ["0.62 times llama.cpp-q8_0@1 (asked 1.0, 95.0% right): MISSED", "2.50 times torch (asked 3.0"]),
    ],
)
def test_whether_the_target_is_met(fast, share, words):
    (line,) = matched_quality.verdict("verse", quality_rows(fast, share))
    for each in words:
        assert each in line


def test_only_what_is_as_often_right_is_compared():
    work = pair_workload("sudoku", 1)
    lines = matched_quality.findings(work, quality_rows(500.0, 0.9))
    assert "sudoku: llama.cpp-q8_0@1 400 tokens/s, 95.0% right" in lines[0]
    assert "ours int8 reference: 0.12 times as fast" in lines[0]
    nothing = [{**each, "share_right": 0.99 if each["kind"] == "arm" else 0.5} for each in quality_rows(500.0, 0.9)]
    assert "nothing of ours is as often right" in matched_quality.findings(work, nothing)[0]


# ---------------------------------------------------------------- roof, scaling


def test_break_even_at_the_roof():
    setting = {"shape": "s", "line": "int8", "compute_type": "int8", "cache": "dual"}
    rows = [row(f"ours int8 k={k}", "mdm", 100.0 * k, **setting, tokens_per_step=k) for k in (1, 2, 4)]
    rows.append(row("llama.cpp-q8_0", "arm", 300.0, shape="s", type="q8_0"))
    work = Work(64, 128, 32, masked_head=True)
    lines = roof.findings("s", rows, LIMITS, work)
    (int8,) = [line for line in lines if ", int8:" in line]
    assert "measured against llama.cpp-q8_0, the fastest ARM: 3.0" in int8
    assert roof.findings("s", rows[:3], LIMITS, work) == []


def test_a_rival_s_weights_are_counted_as_it_stores_them():
    work = Work(64, 128, 32)
    costs = {
        kind: roof.ceiling({"shape": "s", "type": kind}, "arm", LIMITS, work)[0] for kind in ("bf16", "q8_0", "float32")
    }
    assert costs["q8_0"].num_bytes / costs["bf16"].num_bytes == pytest.approx(17 / 32, rel=0.05)
    assert costs["float32"].num_bytes / costs["bf16"].num_bytes == pytest.approx(2, rel=0.05)
    ours = roof.ceiling(
        {"shape": "s", "compute_type": "int8", "cache": "dual", "tokens_per_step": 4}, "mdm", LIMITS, work
    )
    assert ours[0] == answer_cost(
        roof.model_shape("s"), roof.machine_of({"compute_type": "int8"}, LIMITS), work, "dual", 4
    )


def test_the_points_of_the_curves():
    together = list(scaling.points(2, quick=False))
    points = [point for each in together for point in each]
    assert [p.batch for p in points if p.axis == "batch"] == [1, 2, 4, 8, 16, 32, 64]
    assert {p.axis for p in points} == {"batch", "prompt_length", "gen_length", "block_length", "threads"}
    assert [p.threads for p in points if p.axis == "threads"] == [1, 2]
    for point in points:
        assert getattr(point, point.axis) == point.value
        assert point.gen_length % point.block_length == 0
    assert [p.value for p in together[-1]] == [1, 2]  # threads, in the same rounds
    assert {p.axis for each in scaling.points(2, quick=True) for p in each} == {"batch"}


# ---------------------------------------------------------------- rivals


def test_rivals_by_name():
    work = pair_workload("sudoku", 1)
    entries = rival_entries(work, ["torch", "llama.cpp-q8_0@1", "torch-fast-dllm-k4"], 2, {"axis": "batch"})
    assert [entry.name for entry in entries] == ["torch", "llama.cpp-q8_0@1"]  # the third is for fixed work
    assert [entry.setting["threads"] for entry in entries] == [2, 1]
    assert all(entry.setting["axis"] == "batch" for entry in entries)
    assert [entry.name for entry in rival_entries(replace(work, arm=None), list(RIVALS), 1, {})] == [
        name for name, rival in RIVALS.items() if not rival.is_arm and not rival.fixed_work_only
    ]


@pytest.mark.parametrize("name", ["nobody", "torch@x", "torch@0", "", "http://127.0.0.1/v1"])
def test_a_rival_that_is_none(name):
    work = pair_workload("sudoku", 1)

    def open_all() -> None:
        for entry in rival_entries(work, [name], 1, {}):
            entry.open()

    with pytest.raises(ConfigError, match="expected"):
        open_all()


def test_each_system_in_torch_has_its_own_threads():
    before = torch.get_num_threads()
    seen = []

    class Seeing(FakeSystem):
        def answer(self, questions):
            seen.append(torch.get_num_threads())
            return []

    try:
        one, two = (OnTorch(Seeing(FakeTime(), 1), threads) for threads in (1, 2))
        for system in (one, two, one):
            system.answer([])
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 1]
