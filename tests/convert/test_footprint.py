"""The planned memory against what the engine allots, and against the resident memory of a process that serves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llada_rt import ConfigError, ContextLengthError, InvalidRequestError, ModelNotFoundError, _core
from llada_rt.config import DEMO_DIR
from llada_rt.runtime.footprint import Load, footprint_of, runnable_types
from llada_rt.runtime.memory import resident_bytes
from llada_rt.runtime.runner import describe_model
from tests.convert.test_convert import environment
from tests.data.make_goldens import CHECKPOINT
from tests.model.folders import record_of, write_config

MOST_OFF = 0.10  # of the peak, what issue and documentation promise

# The peak of a process from the moment the model is loaded, and what it held before.
SERVE = """
import json, sys
from pathlib import Path
import numpy, tokenizers
import llada_rt.engine
from llada_rt import SamplingParams
from llada_rt.runtime.memory import resident_bytes
folder, compute_type, num_seqs, length, block_length = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
before = resident_bytes()
with llada_rt.engine.Engine(folder, compute_type=compute_type, threads=1, max_num_seqs=num_seqs) as engine:
    Path("/proc/self/clear_refs").write_text("5")
    prompts = [[3 + i] * (length - block_length) for i in range(num_seqs)]
    params = SamplingParams(gen_length=block_length, steps=2)
    engine.generate(prompts, params)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps([before, int(status["VmHWM"].split()[0]) * 1024]))
"""


# LLaDA-8B's shape, and bytes of two canvases of 1,024 by the memory arithmetic as it was first written, in Python.
EIGHT_B = {
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
}
EIGHT_B_BYTES = {  # weights, rotary angles, K/V, workspace
    "float32": [32_062_324_736, 2_097_152, 2_147_483_648, 303_034_368],
    "bfloat16": [16_031_694_848, 2_097_152, 1_073_741_824, 202_371_072],
    "int8": [8_546_922_496, 2_097_152, 1_073_741_824, 286_273_536],
    "int8_bfloat16": [8_546_922_496, 2_097_152, 1_073_741_824, 202_371_072],
    "int4": [5_722_882_048, 2_097_152, 1_073_741_824, 202_371_072],
}


@pytest.mark.parametrize("compute_type", runnable_types(DEMO_DIR))
@pytest.mark.parametrize("folder", [CHECKPOINT, DEMO_DIR], ids=["tiny", "demo"])
def test_terms_are_what_the_engine_allots(folder, compute_type):
    runtime = _core.Runtime(str(folder), compute_type=compute_type, num_threads=1)
    plan = footprint_of(folder, Load(3, 100, 32, 4096, 1), compute_type=compute_type, process_bytes=0)
    terms = {term.name: term.num_bytes for term in plan.terms}
    assert terms["weights"] == runtime.weight_bytes
    assert plan.kv_bytes_per_token == runtime.kv_bytes_per_token
    assert terms["K/V"] == 3 * runtime.kv_slot_bytes(100)
    # Beside what requests come to take, the runtime counts on a candidate in each row, and the most that it can tell.
    assert terms["workspace"] + terms["rotary angles"] < runtime.workspace_bytes(300)
    model = describe_model(folder).model
    assert {name: value for name, value in runtime.config.items() if name != "checkpoint_dtype"} == model


@pytest.mark.parametrize("compute_type", EIGHT_B_BYTES)
def test_a_shape_without_weights(compute_type, tmp_path):
    folder = write_config(tmp_path, EIGHT_B)
    plan = footprint_of(folder, Load(2, 1024, 32, 4096, 2), compute_type=compute_type, process_bytes=0)
    terms = {term.name: term.num_bytes for term in plan.terms}
    assert [terms[name] for name in ("weights", "rotary angles", "K/V", "workspace")] == EIGHT_B_BYTES[compute_type]
    with pytest.raises(ModelNotFoundError):  # what "auto" is, only the weights say
        footprint_of(folder, Load(2, 1024, 32, 4096, 2), process_bytes=0)


def test_a_load_that_cannot_be():
    with pytest.raises(ConfigError, match="expected one of auto, float32"):
        footprint_of(DEMO_DIR, Load(1, 64, 32, 4096, 1), compute_type="float8", process_bytes=0)
    with pytest.raises(ContextLengthError, match="expected canvases of 1 to 512 positions"):
        footprint_of(DEMO_DIR, Load(1, 513, 32, 4096, 1), process_bytes=0)
    with pytest.raises(InvalidRequestError, match="expected 0 to 64 candidates"):
        footprint_of(DEMO_DIR, Load(1, 64, 65, 4096, 1), process_bytes=0)


def test_compute_types_that_a_folder_runs_in(tmp_path):
    """The same list that a refusal of another one names."""
    folder = write_config(tmp_path, {"quantization": record_of("int8")})
    assert runnable_types(folder) == ("int8", "int8_bfloat16")
    for each, types in ((folder, runnable_types(folder)), (DEMO_DIR, runnable_types(DEMO_DIR))):
        with pytest.raises(ConfigError, match="expected one of auto, " + ", ".join(types) + "(,| for)"):
            footprint_of(each, Load(1, 64, 32, 4096, 1), compute_type="float8", process_bytes=0)


def test_rows_of_the_largest_step():
    def rows(num_seqs: int, length: int, budget: int = 4096) -> int:
        return Load(num_seqs, length, 32, budget, 1).num_rows

    assert rows(1, 192) == 192
    assert rows(8, 192) == 8 * 192
    assert rows(100, 192) == 21 * 192
    assert rows(4, 5000) == 5000


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure a peak")
@pytest.mark.parametrize(
    ("compute_type", "num_seqs", "length", "block_length"),
    [("bfloat16", 1, 96, 32), ("bfloat16", 8, 512, 256), ("float32", 3, 300, 200), ("int8", 8, 512, 256)],
)
def test_the_peak_is_within_a_tenth_of_the_formula(compute_type, num_seqs, length, block_length):
    arguments = [compute_type, *map(str, (num_seqs, length, block_length))]
    command = [sys.executable, "-c", SERVE, str(DEMO_DIR), *arguments]
    process, peak = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout
    )
    load = Load(num_seqs, length, block_length, 4096, 1)
    plan = footprint_of(DEMO_DIR, load, compute_type=compute_type, process_bytes=process)
    assert abs(plan.num_bytes - peak) <= MOST_OFF * peak, f"{plan.num_bytes} planned, {peak} measured"


def test_resident_bytes():
    before = resident_bytes()
    held = np.ones(50_000_000, np.uint8)
    assert 0.9 * held.nbytes < resident_bytes() - before < 1.5 * held.nbytes
    assert resident_bytes("no such process") == 0


def test_the_plan_in_words():
    plan = footprint_of(DEMO_DIR, Load(8, 512, 512, 4096, 2), process_bytes=7)
    assert plan.compute_type == "bfloat16"
    assert plan.num_bytes == sum(term.num_bytes for term in plan.terms)
    facts = plan.to_dict()
    assert facts["terms"]["process"]["bytes"] == 7
    assert facts["terms"]["K/V"]["formula"] == "8 sequences x 512 positions x 4096 bytes"
