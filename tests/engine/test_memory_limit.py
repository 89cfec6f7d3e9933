"""memory_limit holds: what a process takes beside the interpreter stays below it, whatever is asked of the engine."""

import subprocess
import sys
from pathlib import Path

import pytest

from llada_rt import ConfigError, Engine, OutOfMemoryError, RequestTooLargeError, SamplingParams
from llada_rt.runtime.runner import _core
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.model.folders import write_shape

# A vocabulary of LLaDA's size on little else: what is held for each token of it is what counts.
WIDE = {"d_model": 64, "vocab_size": 131072, "embedding_size": 131072, "max_sequence_length": 512}

ASK = """
import sys
from pathlib import Path
import numpy, numpy.random, tokenizers
from llada_rt import SamplingParams
from llada_rt.engine import Engine
def peak(name="VmHWM"):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
folder, limit, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
Path("/proc/self/clear_refs").write_text("5")
before = peak()
with Engine(folder, memory_limit=limit, threads=2, max_num_batched_tokens=512, max_num_seqs=4) as engine:
    exec(what)
print(peak() - before)
"""

PROMPTS = "[[n] * 200 for n in range(4)]"
REFERENCE = "SamplingParams(gen_length=256, steps=2, eos_early_stop=False)"
AUDITED = "SamplingParams(preset='fast', gen_length=20, audit=1, error_budget=0.1)"
ASKED = {
    "steps of all rows": f"engine.generate({PROMPTS}, {REFERENCE})",
    "guided": f"engine.generate({PROMPTS}, {REFERENCE}.replace(cfg_scale=0.5))",
    # More positions than have their logits at once, in the first audited step; later steps ask for fewer.
    "audit": f"engine.generate([[1] * 200] * 2, {AUDITED})",
    "recall": "engine.infill([[5] * 40, {'hole': [1, 3]}] + [[6] * 8, 2] * 40 + [[7] * 9])",
    "score": "engine.score([3] * 100, [4] * 100, mc_num=40)",
    "score, guided": "engine.score([3] * 100, [4] * 100, mc_num=20, cfg_scale=1.0)",
    "forward": "engine.forward([3] * 10)",
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> tuple[Path, int]:
    """The folder, and the least that its engine asks for."""
    folder = write_shape(tmp_path_factory.mktemp("models") / "wide", WIDE)
    with pytest.raises(ConfigError) as caught:
        Engine(folder, memory_limit=1, threads=2, max_num_batched_tokens=512, max_num_seqs=4)
    return folder, int(str(caught.value).split("at least ")[1].split()[0])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure a peak")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ASKED)
def test_it_holds(wide, what):
    folder, least = wide
    limit = least + (2 << 20)  # K/V for a few of them
    ran = subprocess.run(
        [sys.executable, "-c", ASK, str(folder), str(limit), ASKED[what]], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-1500:]
    assert int(ran.stdout) <= limit, f"{int(ran.stdout) / limit:.2f} of the limit"


def test_what_forward_gives_must_fit_too(wide):
    folder, least = wide
    with Engine(
        folder, memory_limit=least + (2 << 20), threads=1, max_num_batched_tokens=512, max_num_seqs=4
    ) as engine:
        with pytest.raises(OutOfMemoryError, match="the result takes 209715200 bytes"):
            engine.forward([3] * 400)
        with pytest.raises(OutOfMemoryError, match="the result takes"):
            engine.forward_in_place([3] * 400)
        assert engine.forward([3] * 4).shape == (4, 131072)


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8", "int4"])
def test_the_needs_are_those_of_the_loaded_model(compute_type):
    runtime = _core.Runtime(str(CHECKPOINT), compute_type=compute_type, num_threads=3)
    needs = _core.memory_needs(str(CHECKPOINT), compute_type=compute_type, num_threads=3, num_rows=77)
    assert needs == (
        compute_type,
        runtime.weight_bytes,
        runtime.workspace_bytes(77),
        runtime.kv_slot_bytes(1),
    )


def test_samples_are_counted_before_they_are_made(engine: Engine, monkeypatch):
    """1,024 samples of 64 templates each took 3.7 s and 370 MB before they were refused."""
    monkeypatch.setattr("llada_rt.runtime.intake.make_sequence", None)
    monkeypatch.setattr(engine._reader, "read", None)
    segments = [[1], {"hole": [1, 64]}, [2]]
    with pytest.raises(RequestTooLargeError, match="65536 samples"):
        engine.infill(segments, SamplingParams(n=1024))
    with pytest.raises(RequestTooLargeError, match="1024 samples"):
        engine.generate([[1]], SamplingParams(n=1024, gen_length=8))
    assert IDS.mask == engine.mask_token_id
