"""Known answers of Random123 (kat_vectors, philox4x32 10) for the generator, and the range of the draws."""

import numpy as np
import pytest

from .philox import open_unit, philox4x32, uniform

KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_known_answers(counter, key, words):
    assert [f"{word:08x}" for word in philox4x32(counter, key)] == words.split()


def test_no_draw_is_zero_or_one():
    ends = open_unit(np.array([0, 2**53 - 1], np.uint64))
    assert 0 < ends[0] < ends[1] < 1
    assert np.isfinite(np.log(-np.log(ends))).all()


def test_draws_are_uniform_and_keyed():
    u = uniform(7, step=3, positions=np.arange(100), tokens=np.arange(400), stream=0)
    assert u.min() > 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * u.size)
    alone = uniform(7, step=3, positions=np.array([42]), tokens=np.array([17]), stream=0)
    assert alone[0, 0] == u[42, 17]
    assert uniform(7, step=3, positions=np.array([42]), tokens=np.array([17]), stream=1)[0, 0] != u[42, 17]
