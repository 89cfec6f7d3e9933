"""What the machine grants: threads by affinity mask, tables by name, and the package without torch."""

import os
import subprocess
import sys

import pytest

from llada_rt import _core
from llada_rt.errors import ConfigError, DeviceError
from tests.data.make_goldens import CHECKPOINT


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_threads_follow_the_affinity_mask():
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs an affinity mask of at least two cores")
    code = (
        "import os; from llada_rt import _core; cores = os.sched_getaffinity(0); "
        "os.sched_setaffinity(0, {min(cores)}); print(_core.default_num_threads())"
    )
    assert python(code) == "1"
    assert 1 <= _core.default_num_threads() <= len(os.sched_getaffinity(0))


def test_a_table_of_another_machine_is_refused():
    with pytest.raises(DeviceError, match=r'expected one of .*generic.*, got "neon"'):
        _core.Runtime(str(CHECKPOINT), table="neon")


@pytest.mark.parametrize("num_threads", [-1, 100_000])
def test_thread_counts_out_of_range(num_threads: int):
    with pytest.raises(ConfigError, match="threads: expected 1 to 1024"):
        _core.Runtime(str(CHECKPOINT), num_threads=num_threads)


def test_a_forked_child_can_still_compute():
    """The pool's threads do not survive a fork; the child computes alone, and both leave cleanly."""
    code = f"""
import os, numpy as np
from llada_rt import _core
runtime = _core.Runtime({str(CHECKPOINT)!r}, compute_type="float32", num_threads=3)
tokens = np.arange(100, dtype=np.int32)
before = runtime.forward(tokens)
child = os.fork()
if child == 0:
    same = np.array_equal(runtime.forward(tokens), before)
    runtime.close()
    os._exit(0 if same else 1)
print(os.waitpid(child, 0)[1])
"""
    assert python(code) == "0"


def test_the_engine_never_imports_torch():
    code = (
        "import sys, llada_rt; from llada_rt import Engine, SamplingParams; "
        f"engine = Engine({str(CHECKPOINT)!r}); engine.generate([[1, 2]], SamplingParams(gen_length=4)); "
        "print('torch' in sys.modules)"
    )
    assert python(code) == "False"
