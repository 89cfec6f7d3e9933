"""The reference's runs of the committed checkpoint through the Engine:

every rule, score, cache and switch, infilling too.
"""

import itertools

import pytest

from llada_rt import Engine, SamplingParams, _core
from tests.data.make_goldens import CHECKPOINT, DECODER_GOLDENS, GOLDENS
from tests.golden import load
from tests.tolerance import CONFIDENCE

RECORDED = load(GOLDENS.parent, GOLDENS.name)
IDS = RECORDED["ids"]
RULE_GROUPS = load(DECODER_GOLDENS.parent, DECODER_GOLDENS.name)["groups"]
GROUPS = RECORDED["groups"] + RULE_GROUPS


def label(group: dict) -> str:
    plain = {"temperature": 0.0, "cfg_scale": 0.0, "remasking": "low_confidence", "seed": 0, "cache": "none"}
    shown = {key: value for key, value in group["params"].items() if value is not False and plain.get(key) != value}
    return " ".join(str(value) for value in shown.values())


def open_engine(table: str, threads: int) -> Engine:
    return Engine(
        CHECKPOINT, compute_type="float32", cpu_isa=table, threads=threads, max_num_seqs=16, eot_token_id=IDS["eot"]
    )


def params_of(group: dict) -> SamplingParams:
    """The reference preset lets the mask win, the others do not; whatever else they set is set back here."""
    unsaid = {"propose_mask", "steps"} if "adablock" in group["params"] else {"propose_mask"}
    own = {key: value for key, value in group["params"].items() if key not in unsaid}
    preset = "reference" if group["params"]["propose_mask"] else "quality"
    return SamplingParams(**own, preset=preset, eos_early_stop=False, return_tokens=True)


def is_infill(group: dict) -> bool:
    return any(set(case["canvas"][case["span"][0] :]) != {IDS["mask"]} for case in group["cases"])


def prompt_of(case: dict) -> dict:
    return {"prompt_token_ids": case["canvas"][: case["span"][0]]}


def segments(canvas: list[int]) -> list:
    """A template as `infill` takes it: fixed token ids, and how many masks between them."""
    runs = ((masked, list(run)) for masked, run in itertools.groupby(canvas, lambda token: token == IDS["mask"]))
    return [len(run) if masked else run for masked, run in runs]


def assert_as_recorded(case: dict, output, *, is_cut: bool) -> None:
    """Token, step and confidence of each position; `is_cut`: what lies behind an end token is not returned."""
    tokens = {token.position: token for token in output.outputs[0].tokens}
    start, stop = case["span"]
    if is_cut:
        stop = next((p for p in range(start, stop) if case["output"][p] in (IDS["eos"], IDS["eot"])), stop)
        assert sorted(tokens) == list(range(start, stop))
    assert [tokens[p].id for p in range(start, stop)] == case["output"][start:stop], case["canvas"]
    for step, position, token, confidence in case["commits"]:
        if position < stop:
            got = tokens[position]
            assert (got.step, got.id) == (step, token), (case["canvas"], position)
            assert got.confidence == pytest.approx(confidence, abs=CONFIDENCE)
    assert output.outputs[0].diffusion.nfe == case["num_forward"]


@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("group", GROUPS, ids=label)
def test_committed_runs(group: dict, table: str):
    """Alone and in one ragged batch."""
    params, cases = params_of(group), group["cases"]
    with open_engine(table, threads=2) as engine:
        if is_infill(group):
            for case in cases:
                assert_as_recorded(case, engine.infill(segments(case["canvas"]), params), is_cut=False)
            return
        prompts = [prompt_of(case) for case in cases]
        for case, prompt, output in zip(cases, prompts, engine.generate(prompts, params), strict=True):
            assert_as_recorded(case, output, is_cut=params.preset != "reference")
            assert_as_recorded(case, engine.generate(prompt, params)[0], is_cut=params.preset != "reference")


@pytest.mark.parametrize("threads", [1, 3])
def test_committed_runs_all_at_once(threads: int):
    """One batch of every generation there is, whatever its options: neighbours are not felt."""
    pairs = [(case, params_of(group)) for group in GROUPS if not is_infill(group) for case in group["cases"]]
    with open_engine(_core.tables()[0], threads) as engine:
        outputs = engine.generate([prompt_of(case) for case, _ in pairs], [params for _, params in pairs])
    for (case, params), output in zip(pairs, outputs, strict=True):
        assert_as_recorded(case, output, is_cut=params.preset != "reference")
