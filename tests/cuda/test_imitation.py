"""The imitation of a GPU (tests/cpp/cuda_host) reports what a GPU would stop at: values where their type may not be."""

import ctypes

import numpy as np
import pytest

from tests.cuda_host import library


def copy_values(num_bytes: int, *, from_offset: int = 0, to_offset: int = 0, in_kernel: bool = True) -> str | None:
    """What was wrong with copying 32 values of that size, from and to that many bytes behind a multiple of 16."""
    memory = np.zeros(2 * 1024 + 16, np.uint8)
    begin = memory.ctypes.data + -memory.ctypes.data % 16
    door = library().llada_copy_values
    door.restype = ctypes.c_char_p
    door.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_bool]
    wrong = door(num_bytes, begin + from_offset, begin + 1024 + to_offset, in_kernel)
    return None if wrong is None else wrong.decode()


@pytest.mark.parametrize("num_bytes", [4, 8, 16])
def test_aligned_values_are_copied(num_bytes):
    assert copy_values(num_bytes) is None
    assert copy_values(num_bytes, from_offset=num_bytes, to_offset=3 * num_bytes) is None


@pytest.mark.parametrize("side", ["from_offset", "to_offset"])
@pytest.mark.parametrize(
    ("num_bytes", "offset", "kind"), [(4, 2, "float"), (8, 4, "float2"), (16, 4, "uint4"), (16, 8, "uint4")]
)
def test_a_kernel_that_misses_the_alignment_is_named(num_bytes, offset, kind, side):
    wrong = copy_values(num_bytes, **{side: offset})
    assert wrong is not None
    assert wrong.startswith("copy_kernel: address 0x")
    assert f"{kind}' is not a multiple of {num_bytes} " in wrong
    assert "alignment.cc:" in wrong
    assert copy_values(num_bytes) is None  # the next kernel has nothing to do with it


def test_host_code_is_not_a_kernel():
    """x86 allows it, and no GPU runs it."""
    assert copy_values(8, from_offset=4, in_kernel=False) is None
