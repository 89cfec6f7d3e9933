"""The reference's runs of the committed checkpoint through the Engine:

every rule, score, cache and switch, infilling too.
"""

import pytest

from llada_rt import Engine, SamplingParams, _core
from tests.data.make_goldens import CHECKPOINT, GOLDENS
from tests.golden import load
from tests.tolerance import CONFIDENCE

RECORDED = load(GOLDENS.parent, GOLDENS.name)
IDS = RECORDED["ids"]
GROUPS = RECORDED["groups"]


def label(group: dict) -> str:
    plain = {"temperature": 0.0, "cfg_scale": 0.0, "remasking": "low_confidence", "seed": 0, "cache": "none"}
    shown = {key: value for key, value in group["params"].items() if value is not False and plain.get(key) != value}
    return " ".join(str(value) for value in shown.values())


def open_engine(table: str, threads: int) -> Engine:
    return Engine(
        CHECKPOINT, compute_type="float32", table=table, threads=threads, max_num_seqs=16, eot_token_id=IDS["eot"]
    )


def params_of(group: dict) -> SamplingParams:
    """The reference preset lets the mask win, the others do not; whatever else they set is set back here."""
    own = {key: value for key, value in group["params"].items() if key != "propose_mask"}
    preset = "reference" if group["params"]["propose_mask"] else "quality"
    return SamplingParams(**own, preset=preset, eos_early_stop=False, return_tokens=True)


def is_infill(group: dict) -> bool:
    return any(case["canvas"][-1] != IDS["mask"] or case["span"][1] < len(case["canvas"]) for case in group["cases"])


def segments(canvas: list[int]) -> list:
    """A template as `infill` takes it: fixed token ids, and how many masks between them."""
    parts: list = []
    for token in canvas:
        if token == IDS["mask"]:
            parts = [*parts[:-1], parts[-1] + 1] if parts and isinstance(parts[-1], int) else [*parts, 1]
        else:
            parts = [*parts[:-1], [*parts[-1], token]] if parts and isinstance(parts[-1], list) else [*parts, [token]]
    return parts


def assert_as_recorded(case: dict, output) -> None:
    """Token, step and confidence of each position that was returned:

    outside the reference preset up to an end token.
    """
    tokens = {token.position: token for token in output.outputs[0].tokens}
    ends = [p for p in range(*case["span"]) if case["output"][p] in (IDS["eos"], IDS["eot"])]
    assert len(tokens) in (
        len(case["canvas"]),
        len(case["output"]) - case["span"][0],
        min(ends, default=0) - case["span"][0],
    )
    for step, position, token, confidence in case["commits"]:
        if position not in tokens:
            assert position >= ends[0]
            continue
        got = tokens[position]
        assert (got.step, got.id) == (step, token), (case["canvas"], position)
        assert got.confidence == pytest.approx(confidence, abs=CONFIDENCE)
    assert output.outputs[0].diffusion.nfe == case["num_forward"]


@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("group", GROUPS, ids=label)
def test_committed_runs(group: dict, table: str):
    params = params_of(group)
    with open_engine(table, threads=2) as engine:
        if is_infill(group):
            for case in group["cases"]:
                output = engine.infill(segments(case["canvas"]), params)
                assert_as_recorded(case, output)
            return
        prompts = [{"prompt_token_ids": case["canvas"][: case["span"][0]]} for case in group["cases"]]
        together = engine.generate(prompts, params)
        for case, prompt, output in zip(group["cases"], prompts, together, strict=True):
            (alone,) = engine.generate([prompt], params)
            assert_as_recorded(case, output)
            assert_as_recorded(case, alone)
            if params.preset == "reference":
                assert output.outputs[0].token_ids == case["output"][case["span"][0] :]


@pytest.mark.parametrize("threads", [1, 3])
def test_committed_runs_all_at_once(threads: int):
    """One batch of every generation there is, whatever its options: neighbours are not felt."""
    table = _core.tables()[0]
    cases = [(case, params_of(group)) for group in GROUPS if not is_infill(group) for case in group["cases"]]
    prompts = [{"prompt_token_ids": case["canvas"][: case["span"][0]]} for case, _ in cases]
    with open_engine(table, threads) as engine:
        outputs = engine.generate(prompts, [params for _, params in cases])
    for (case, _), output in zip(cases, outputs, strict=True):
        assert_as_recorded(case, output)
