"""The cases of bench_ops: right on a small shape, and a wrong result is noticed."""

import numpy as np
import pytest

from benchmarks import bench_ops
from benchmarks.baselines.check import TINY
from benchmarks.machine import CPU_COMPUTE_TYPES
from llada_rt import _core


@pytest.mark.parametrize("kind", CPU_COMPUTE_TYPES)
@pytest.mark.parametrize("maker", dict.fromkeys(bench_ops.MAKERS.values()), ids=lambda maker: maker.__name__)
def test_cases(maker, kind):
    ops = _core.Ops(_core.tables()[0], 1)
    cases = list(maker(TINY, ops, kind, np.random.default_rng(0)))
    assert cases
    for case in cases:
        assert case.num_bytes > 0
        case.check(case.run(ops))


@pytest.mark.parametrize("op", ["matmul", "matmul_swiglu", "attention", "rms_norm", "embed"])
def test_a_wrong_result_is_noticed(op):
    ops = _core.Ops(_core.tables()[0], 1)
    case = next(c for c in bench_ops.MAKERS[op](TINY, ops, "bfloat16", np.random.default_rng(0)) if c.op == op)
    result = case.run(ops)
    result[0, -1] += 0.1 * np.abs(result).max()
    with pytest.raises(AssertionError):
        case.check(result)


def test_every_op_of_a_step_has_a_case():
    runtime_ops = {"embed", "rms_norm", "matmul", "matmul_swiglu", "rope", "rope_kv_write", "attention", "candidates"}
    assert runtime_ops | {"commit"} <= set(bench_ops.MAKERS)


def test_a_measurement(tmp_path):
    ops, timed = _core.Ops(_core.tables()[0], 1), _core.Ops(_core.tables()[0], 1, repeats=3)
    case = next(iter(bench_ops.product_cases(TINY, ops, "float32", np.random.default_rng(0))))
    facts = bench_ops.measure(case, timed, rounds=2, threads=1, peak=100.0, copy=10.0)
    assert facts["wall_us"] > 0
    assert facts["share"] == pytest.approx(facts["gflops"] / 100)
