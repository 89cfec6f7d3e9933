"""Every recorded run of the published code through the Engine:

same tokens on every table, alone and in ragged batches.
"""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from llada_rt import Engine, SamplingParams, _core
from tests.denoise.expected import useful_forwards
from tests.golden import cache_of, folder_params, load
from tests.tolerance import RECORDED_LIKELIHOOD


def open_engine(folder: Path, table: str, threads: int) -> Engine:
    ids = load(folder, "generate.json")
    return Engine(
        folder,
        compute_type="float32",
        cpu_isa=table,
        threads=threads,
        max_num_seqs=32,
        mask_token_id=ids["mask_id"],
        eos_token_id=ids["eos_id"],
        eot_token_id=ids["eot_id"],
    )


def params_of(case: dict) -> SamplingParams:
    return SamplingParams(**case["params"], cache=cache_of(case))


def assert_as_recorded(case: dict, num_forward: int, output, label: object) -> None:
    assert [*case["prompt"], *output.outputs[0].token_ids] == case["output"], (label, case["function"], case["params"])
    nfe = output.outputs[0].diffusion.nfe
    assert nfe == num_forward, (label, case["function"], case["params"])
    assert nfe <= case["num_forward"]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("folder", folder_params())
def test_recorded_runs_alone(folder: Path, table: str, threads: int):
    cases = load(folder, "generate.json")["cases"]
    with open_engine(folder, table, threads) as engine:
        for number, (case, num_forward) in enumerate(zip(cases, useful_forwards(folder), strict=True)):
            (output,) = engine.generate([{"prompt_token_ids": case["prompt"]}], params_of(case))
            assert_as_recorded(case, num_forward, output, number)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("folder", folder_params())
def test_recorded_runs_in_ragged_batches(folder: Path, table: str, threads: int):
    """All cases of equal parameters together: prompts of 1 to 31 tokens, no padding, each as if it were alone."""
    cases = load(folder, "generate.json")["cases"]
    batches = defaultdict(list)
    for number, case in enumerate(cases):
        batches[case["function"], json.dumps(case["params"], sort_keys=True)].append(number)
    with open_engine(folder, table, threads) as engine:
        for numbers in batches.values():
            prompts = [{"prompt_token_ids": cases[n]["prompt"]} for n in numbers]
            outputs = engine.generate(prompts, params_of(cases[numbers[0]]))
            for number, output in zip(numbers, outputs, strict=True):
                assert_as_recorded(cases[number], useful_forwards(folder)[number], output, number)


@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("folder", folder_params())
def test_recorded_runs_all_at_once(folder: Path, table: str):
    """Neighbours with other caches, rules and guidance, more of them than run together."""
    cases = load(folder, "generate.json")["cases"]
    with open_engine(folder, table, threads=2) as engine:
        prompts = [{"prompt_token_ids": case["prompt"]} for case in cases]
        outputs = engine.generate(prompts, [params_of(case) for case in cases])
    for number, output in enumerate(outputs):
        assert_as_recorded(cases[number], useful_forwards(folder)[number], output, number)


@pytest.mark.parametrize("table", _core.tables())
@pytest.mark.parametrize("folder", folder_params())
def test_recorded_likelihoods(folder: Path, table: str):
    with open_engine(folder, table, threads=2) as engine:
        for case in load(folder, "likelihood.json"):
            rows = [row for batch in case["noisy"] for row in batch]
            ratios = [ratio for batch in case["mask_ratio"] for ratio in batch]
            noise = [{"tokens": row, "mask_ratio": ratio} for row, ratio in zip(rows, ratios, strict=True)]
            score = engine.score(case["prompt"], case["answer"], noise=noise, cfg_scale=case["cfg_scale"])
            assert score.log_likelihood == pytest.approx(case["log_likelihood"], rel=RECORDED_LIKELIHOOD["engine"])
