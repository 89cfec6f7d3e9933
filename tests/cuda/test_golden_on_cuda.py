"""Recorded runs of the published code on the CUDA backend: all of them on a GPU, some in the imitation."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from llada_rt import _core
from llada_rt.runtime import device
from tests.data.make_goldens import CHECKPOINT
from tests.denoise.expected import useful_forwards
from tests.denoise.test_golden import assert_as_recorded, params_of
from tests.golden import folder_params, load
from tests.model.test_forward import assert_as_good_as_torch, torch_logits
from tests.reference.forward import Model

has_gpu = device.missing_cuda() is None


def open_recorded(open_engine, folder: Path):
    ids = load(folder, "generate.json")
    return open_engine(
        folder,
        compute_type="float32",
        max_num_seqs=32,
        mask_token_id=ids["mask_id"],
        eos_token_id=ids["eos_id"],
        eot_token_id=ids["eot_id"],
    )


@pytest.mark.parametrize("folder", folder_params())
def test_recorded_runs(folder: Path, open_engine):
    """Token for token; of the imitation's one run of each published loop, the shortest."""
    cases = list(enumerate(load(folder, "generate.json")["cases"]))
    if not has_gpu:
        by_loop = {}
        for number, case in sorted(cases, key=lambda pair: -pair[1]["num_forward"] * len(pair[1]["output"])):
            by_loop[case["function"]] = (number, case)
        cases = list(by_loop.values())
    with open_recorded(open_engine, folder) as engine:
        for number, case in cases:
            (output,) = engine.generate([{"prompt_token_ids": case["prompt"]}], params_of(case))
            assert_as_recorded(case, useful_forwards(folder)[number], output, number)


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu, reason="needs a GPU: minutes in the imitation")
@pytest.mark.parametrize("folder", folder_params())
def test_recorded_runs_all_at_once(folder: Path, open_engine):
    """Neighbours with other caches, rules and guidance, more of them than run together."""
    cases = load(folder, "generate.json")["cases"]
    with open_recorded(open_engine, folder) as engine:
        prompts = [{"prompt_token_ids": case["prompt"]} for case in cases]
        outputs = engine.generate(prompts, [params_of(case) for case in cases])
    for number, output in enumerate(outputs):
        assert_as_recorded(cases[number], useful_forwards(folder)[number], output, number)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("folder", folder_params())
def test_forward_equals_recorded_logits(folder: Path, dtype: str, open_engine):
    recorded = load_file(folder / "forward.safetensors")
    tokens, plain, want = (
        [recorded[f"forward_{j}_{what}"] for j in range(len(recorded) // 3)]
        for what in ("ids", "logits", "logits_float64")
    )
    if dtype == "bfloat16":
        plain = [torch_logits(folder, ids, dtype) for ids in tokens]
    runtime = _core.Runtime(str(folder), compute_type=dtype, table="cuda")
    assert_as_good_as_torch([runtime.forward(ids) for ids in tokens], want, plain, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forward_equals_reference(dtype: str, open_engine):
    runtime, model = _core.Runtime(str(CHECKPOINT), compute_type=dtype, table="cuda"), Model(CHECKPOINT)
    tokens = [np.random.default_rng(n).integers(0, 160, n).astype(np.int32) for n in (1, 7, 33, 64, 65)]
    plain = [torch_logits(CHECKPOINT, ids, dtype) for ids in tokens]
    assert_as_good_as_torch([runtime.forward(t) for t in tokens], [model.forward(t) for t in tokens], plain, dtype)
