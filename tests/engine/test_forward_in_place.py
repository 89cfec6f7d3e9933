"""Logits and hidden states by DLPack: the numbers of `forward`, no copy, alive as long as somebody has them."""

import gc
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from llada_rt import Engine, _core
from llada_rt.errors import ConfigError, InvalidRequestError
from llada_rt.runtime import device
from tests import cuda_host
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder

TOKENS = [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8"])
def test_logits_are_those_of_forward(compute_type):
    with Engine(CHECKPOINT, device="cpu", compute_type=compute_type) as engine:
        want = engine.forward(TOKENS)
        array = engine.forward_in_place(TOKENS)
        assert array.shape == want.shape
        assert np.array_equal(torch.from_dlpack(array).numpy(), want)
        assert np.array_equal(np.from_dlpack(array), want)


@pytest.mark.parametrize(("compute_type", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_head_on_hidden_states_gives_the_logits(compute_type, dtype):
    with Engine(CHECKPOINT, device="cpu", compute_type=compute_type) as engine:
        hidden = torch.from_dlpack(engine.forward_in_place(TOKENS, what="hidden"))
        want = torch.from_numpy(engine.forward(TOKENS))
    assert hidden.dtype == dtype
    from safetensors.torch import load_file

    head = load_file(CHECKPOINT / "model.safetensors")["model.transformer.ff_out.weight"].to(dtype).float()
    assert torch.allclose(hidden.float() @ head.T, want, atol=1e-4)


def test_the_memory_outlives_the_engine():
    engine = Engine(CHECKPOINT, device="cpu", compute_type="float32")
    want = engine.forward(TOKENS)
    kept = torch.from_dlpack(engine.forward_in_place(TOKENS))
    never_taken = engine.forward_in_place(TOKENS).__dlpack__(max_version=(1, 0))
    engine.close()
    del engine, never_taken
    gc.collect()
    assert np.array_equal(kept.numpy(), want)


def test_what_is_refused():
    with Engine(CHECKPOINT, device="cpu", compute_type="int8") as engine:
        with pytest.raises(ConfigError, match="leaves them floats, got int8"):
            engine.forward_in_place(TOKENS, what="hidden")
        with pytest.raises(InvalidRequestError, match="logits or hidden"):
            engine.forward_in_place(TOKENS, what="attention")
        with pytest.raises(InvalidRequestError, match="at least one token"):
            engine.forward_in_place([])
        with pytest.raises(InvalidRequestError, match="copy=False"):
            engine.forward_in_place(TOKENS).__dlpack__(copy=True)
        assert engine.num_open_slots == 0


class LongForward:
    """A forward that takes long, in a thread of its own; beside it a thread that wants the GIL every millisecond."""

    def __init__(self, runtime, length: int) -> None:
        self.pauses: list[float] = []  # between two turns of that thread
        self.step = threading.Thread(target=runtime.forward, args=(np.arange(length, dtype=np.int32) % 100,))
        self.ticker = threading.Thread(target=self._tick)

    def __enter__(self):
        self.began = time.perf_counter()
        self.step.start()
        self.ticker.start()
        time.sleep(0.05)  # by now it is at work
        assert self.is_running
        return self

    def __exit__(self, *_) -> None:
        self.step.join()
        self.took = time.perf_counter() - self.began
        self.ticker.join()

    @property
    def is_running(self) -> bool:
        return self.step.is_alive()

    def _tick(self) -> None:
        last = time.perf_counter()
        while self.is_running:
            time.sleep(0.001)
            now = time.perf_counter()
            self.pauses.append(now - last)
            last = now


TAKERS = {
    "array": lambda array: array,
    "capsule": lambda array: array.__dlpack__(max_version=(1, 0)),
    "torch": torch.from_dlpack,
}


@pytest.mark.parametrize("taken", TAKERS.values(), ids=TAKERS)
def test_an_array_is_freed_while_a_step_runs(tmp_path, taken):
    folder = write_folder(tmp_path / "model", config={"max_sequence_length": 8000})
    runtime = _core.Runtime(str(folder), compute_type="float32", table="generic", num_threads=1)
    held = [taken(runtime.forward_in_place(np.arange(100, dtype=np.int32), False))]
    with LongForward(runtime, 8000) as step:
        began = time.perf_counter()
        held.clear()
        freeing = time.perf_counter() - began
        assert step.is_running
    assert freeing < step.took / 4
    assert max(step.pauses) < step.took / 4


@pytest.mark.skipif(device.missing_cuda() is None, reason="a GPU's step is over before another thread can see it")
def test_on_a_device_other_threads_go_on_while_it_is_freed(tmp_path):
    cuda_host.add_table()
    folder = write_folder(tmp_path / "model", config={"max_sequence_length": 8192})
    runtime = _core.Runtime(str(folder), compute_type="float32", table="cuda", num_threads=1)
    held = [runtime.forward_in_place(np.arange(10, dtype=np.int32), False)]
    with LongForward(runtime, 400) as step:
        held.clear()  # the session is the step's until it is over
    assert max(step.pauses) < step.took / 4


def test_its_deleter_needs_no_gil():
    """Another library frees on a thread that Python never saw, while the GIL is somebody's who waits for just that."""
    code = f"""
import ctypes, numpy
from llada_rt import _core
runtime = _core.Runtime({str(CHECKPOINT)!r}, num_threads=1)
capsule = runtime.forward_in_place(numpy.arange(5, dtype=numpy.int32), False).__dlpack__()
api = ctypes.pythonapi
api.PyCapsule_GetPointer.restype = ctypes.c_void_p
api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
managed = api.PyCapsule_GetPointer(capsule, b"dltensor")
name = ctypes.create_string_buffer(b"used_dltensor")
api.PyCapsule_SetName(capsule, name)
deleter = ctypes.c_void_p.from_address(managed + 56)  # behind DLTensor (48 bytes) and the context
thread = ctypes.c_void_p()
system = ctypes.PyDLL(None)  # whose calls keep the GIL
assert system.pthread_create(ctypes.byref(thread), None, deleter, ctypes.c_void_p(managed)) == 0
assert system.pthread_join(thread, None) == 0
runtime.close()
print("freed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip(), done.returncode) == ("freed", 0), done.stderr
