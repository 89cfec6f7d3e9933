"""A request whose logits overflow fails by itself; those beside it do not notice."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llada_rt import Engine, ModelError, SamplingParams, _core
from llada_rt.runtime import records
from tests.data.make_goldens import CHECKPOINT

POISON = 3  # a token whose value vector is large where the output projection is larger
LAYER = "model.transformer.blocks.0."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The tiny checkpoint, finite in every weight, in which attending to POISON overflows float32."""
    weights = {name: np.array(value, np.float32) for name, value in load_file(CHECKPOINT / "model.safetensors").items()}
    table, value, out = (
        weights[n] for n in ("model.transformer.wte.weight", LAYER + "v_proj.weight", LAYER + "attn_out.weight")
    )
    table[:, 0] = 0
    table[POISON, 0] = 1e3
    value[0] = 0
    value[0, 0] = 1
    out[0] = 0
    out[0, 0] = 3e38
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((CHECKPOINT / "config.json").read_text())
    return tmp_path


def test_only_the_request_itself_fails(folder: Path):
    params = SamplingParams(gen_length=8)
    with Engine(folder, compute_type="float32") as engine:
        alone = engine.generate([1, 2, 4], params)[0].outputs[0].token_ids
        neighbour = engine.stream([1, 2, 4], params)
        first = next(neighbour)
        with pytest.raises(ModelError, match="no finite logits at position 3"):
            engine.generate([POISON] * 3, params)
        events = [first, *neighbour]
        assert events[-1].output.outputs[0].token_ids == alone
        with pytest.raises(ModelError, match="no finite logits"):
            list(engine.stream([POISON] * 3, SamplingParams(gen_length=8, cache="dual", block_length=4)))
        assert engine.num_open_slots == 0
        assert engine.generate([1, 2, 4], params)[0].outputs[0].token_ids == alone


def test_a_step_that_could_only_edit(folder: Path):
    """Nothing is edited, and the position is told."""
    runtime = _core.Runtime(str(folder), compute_type="float32", num_threads=2)
    canvas = np.array([POISON, POISON, 1, 2, 4, 5], np.int32)
    plan = records.blank(1)
    spans = np.array([(0, 6, 6), (3, 6, 6)], records.SPAN)
    records.put(plan, slot=runtime.open_slot(canvas), first_end=1, next_end=1, editable_begin=1, editable_end=2)
    records.put(plan, block_start=2, block_stop=6, commit_start=2, mask_id=99, kind=1, max_post_steps=5)
    (outcome,), commits = runtime.denoise(plan, spans, 9)
    assert outcome[["num_steps", "block_done", "bad_position"]].tolist() == (1, 1, 3)
    assert len(commits) == 0
    assert np.array_equal(runtime.canvas(0), canvas)
