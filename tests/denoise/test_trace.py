"""The trace of a runtime and of single ops: what is counted, and that looking changes nothing."""

import numpy as np
import pytest

from llada_rt import _core
from tests.data.make_goldens import CHECKPOINT
from tests.denoise.test_runtime import CANVAS, plan

NUM_LAYERS = 2


@pytest.fixture
def runtime():
    runtime = _core.Runtime(str(CHECKPOINT), compute_type="float32", num_threads=2)
    yield runtime
    runtime.close()


def denoise(runtime) -> np.ndarray:
    slot = runtime.open_slot(CANVAS)
    runtime.denoise(*plan(slot, propose_mask=1), 100)
    canvas = runtime.canvas(slot)
    runtime.close_slot(slot)
    return canvas


def test_each_op_of_a_step_is_counted(runtime):
    runtime.set_trace(True)
    denoise(runtime)
    spent = runtime.trace()
    num_steps = 8
    assert spent["denoise"][0] == 1
    for op in ("candidates", "commit", "embed"):
        assert spent[op][0] == num_steps, op
    for op in ("attention", "rope", "rope_kv_write"):
        assert spent[op][0] == num_steps * NUM_LAYERS, op
    assert spent["rms_norm"][0] == num_steps * (2 * NUM_LAYERS + 1)
    assert all(wall > 0 for _, wall, _ in spent.values())
    assert sum(wall for op, (_, wall, _) in spent.items() if op != "denoise") <= spent["denoise"][1]


def test_looking_changes_nothing(runtime):
    before = denoise(runtime)
    runtime.set_trace(True)
    assert np.array_equal(denoise(runtime), before)
    runtime.set_trace(False)
    assert np.array_equal(denoise(runtime), before)
    assert runtime.trace() == {}


def test_it_begins_with_nothing(runtime):
    assert runtime.trace() == {}
    runtime.set_trace(True)
    denoise(runtime)
    runtime.set_trace(True)
    assert runtime.trace() == {}


def test_single_ops_are_repeated():
    x, weight = np.ones((3, 8), np.float32), np.full((5, 8), 2, np.float32)
    timed = _core.Ops(_core.tables()[0], 1, repeats=7)
    assert np.array_equal(timed.matmul(x, weight, "float32"), np.full((3, 5), 16))
    spent = timed.trace()
    assert {op: calls for op, (calls, _, _) in spent.items()} == {"matmul": 7}
    assert timed.trace() == {}
    assert _core.Ops(_core.tables()[0], 1).trace() == {}
