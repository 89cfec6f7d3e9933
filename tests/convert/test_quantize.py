"""The rule that turns weights into integers and scales, and the bytes that it leaves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llada_rt.errors import UnsupportedModelError
from llada_rt.folder import quantize
from llada_rt.folder.checkpoint import TensorSpec
from tests.tolerance import ROUNDING

SMALLEST = float(np.finfo(np.float32).smallest_subnormal)

WEIGHTS = st.tuples(st.integers(1, 5), st.integers(1, 70)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(-(2.0**100), 2.0**100, width=32))
)


def halves(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1).astype(int) - 8


@given(WEIGHTS)
def test_int8_is_within_half_a_step(weight):
    integers, scales = quantize.quantize_int8(weight)
    assert (integers.dtype, scales.dtype) == (np.int8, np.float32)
    assert (integers.shape, scales.shape) == (weight.shape, weight.shape[:1])
    assert (scales > 0).all()
    assert (integers >= -127).all()
    exact = integers.astype(np.float64) * scales[:, None]
    # Half a step, and the rounding of scale and quotient; a subnormal scale is only known to its last bit.
    slack = scales * (0.5 + 127 * ROUNDING["float32"]) + 127 * SMALLEST
    assert (np.abs(exact - weight) <= slack[:, None]).all()


@given(WEIGHTS)
def test_int4_is_within_half_a_step(weight):
    rows, cols = weight.shape
    packed, scales = quantize.quantize_int4(weight)
    assert (packed.shape, scales.shape) == ((rows, -(-cols // 2)), (rows, -(-cols // 32)))
    assert (packed.dtype, scales.dtype) == (np.uint8, np.float32)
    assert (scales > 0).all()
    integers = halves(packed)
    assert (np.abs(integers) <= 7).all()
    assert (integers[:, cols:] == 0).all()  # behind an odd end
    spread = np.repeat(scales, 32, 1)[:, :cols]
    exact = integers[:, :cols].astype(np.float64) * spread
    assert (np.abs(exact - weight) <= spread * (0.5 + 7 * ROUNDING["float32"]) + 7 * SMALLEST).all()


def test_known_bytes():
    weight = np.array([[127, -127, 0.5, 1.5, -2.5], [0, 0, 0, 0, 0]], np.float32)
    integers, scales = quantize.quantize_int8(weight)
    assert integers.tolist() == [[127, -127, 0, 2, -2], [0] * 5]  # ties to the even integer
    assert scales.tolist() == [1, 1]  # a row of zeros has the scale 1
    packed, scales = quantize.quantize_int4(np.array([[7, -7, 0.5, 1.5, -2.5]], np.float32))
    assert packed.tolist() == [[15 | 1 << 4, 8 | 10 << 4, 6 | 8 << 4]]
    assert scales.tolist() == [[1]]


def test_groups_have_their_own_scales():
    weight = np.full((1, 70), 0.25, np.float32)
    weight[0, 32:64] = 700
    weight[0, 64:] = 0
    packed, scales = quantize.quantize_int4(weight)
    assert scales.tolist() == [[np.float32(0.25) / np.float32(7), 100, 1]]
    assert halves(packed)[0].tolist() == [7] * 64 + [0] * 6


@pytest.mark.parametrize("cols", [1, 31, 32, 33, 64])
def test_back_to_floats(cols):
    weight = np.random.default_rng(0).standard_normal((7, cols)).astype(np.float32)
    integers, scales = quantize.quantize_int8(weight)
    assert np.abs(quantize.dequantize_int8(integers, scales) - weight).max() <= scales.max()
    packed, scales = quantize.quantize_int4(weight)
    back = quantize.dequantize_int4(packed, scales, cols)
    assert back.shape == weight.shape
    assert np.abs(back - weight).max() <= scales.max()


def test_what_a_folder_holds():
    name = "model.transformer.blocks.0.ff_out.weight"
    assert quantize.specs(name, (6, 70), "int8") == (
        TensorSpec(name, "I8", (6, 70)),
        TensorSpec(name + ".scales", "F32", (6,)),
    )
    assert quantize.specs(name, (6, 71), "int4") == (
        TensorSpec(name, "U8", (6, 36)),
        TensorSpec(name + ".scales", "F32", (6, 3)),
    )
    assert quantize.is_quantized_tensor(name, (6, 70))
    assert not quantize.is_quantized_tensor(quantize.EMBEDDING, (6, 70))
    assert not quantize.is_quantized_tensor("model.transformer.ln_f.weight", (70,))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_the_record(kind):
    record = quantize.record(kind)
    assert quantize.stored_type({"quantization": record}) == kind
    assert quantize.stored_type({}) is None
    for name, value in (("version", 2), ("method", "gptq"), ("compute_type", "int3"), ("group_size", 128)):
        with pytest.raises(UnsupportedModelError, match="quantization"):
            quantize.stored_type({"quantization": record | {name: value}})
    for strange in ([], "int8", {"compute_type": []}, 8):
        with pytest.raises(UnsupportedModelError):
            quantize.stored_type({"quantization": strange})
