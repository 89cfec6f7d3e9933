"""Which blocks of threads attention has (csrc/cuda/attention/plan.h): every row meets every key it sees once, whatever
the batch, and there are enough of them."""

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest

from tests import cuda_host

CHUNK = 128
HOPPER, SMALLEST = 227 << 10, 99 << 10  # shared memory that a block may have: sm_90; sm_86, sm_89, sm_120
LLADA = (32, 32, 128)


@dataclass
class Plan:
    lines: int
    rows_of_tile: int
    heads_of_tile: int
    head_parts: int
    out_parts: int
    split: bool
    shared_bytes: int
    items: np.ndarray  # (n, 6): row_begin, num_rows, key_begin, key_end, first_item, num_chunks

    def busy(self) -> np.ndarray:
        return self.items[self.items[:, 1] > 0]


def plan(spans, shape=LLADA, *, float32: bool = False, shared_bytes: int = HOPPER) -> Plan:
    """spans: (row_begin, row_end, visible, capacity); shape: heads, K/V heads, head_dim."""
    room = 4096
    array = np.ascontiguousarray(spans, np.int64).reshape(-1, 4)
    facts, items = np.zeros(8, np.int64), np.zeros((room, 6), np.int32)
    call = cuda_host.library().llada_plan_attention
    call.restype = ctypes.c_bool
    arguments = [array.ctypes.data_as(ctypes.c_void_p)]
    arguments += [ctypes.c_int64(n) for n in (len(array), *shape)] + [ctypes.c_bool(float32)]
    arguments += [ctypes.c_int64(shared_bytes), *(a.ctypes.data_as(ctypes.c_void_p) for a in (facts, items))]
    assert call(*arguments, ctypes.c_size_t(room))
    return Plan(*(int(n) for n in facts[1:]), items=items[: facts[0]])


def random_spans(rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    spans, row = [], 0
    for _ in range(rng.integers(1, 12)):
        rows, visible = int(rng.integers(1, 200)), int(rng.integers(1, 2000))
        capacity = -(-(visible + int(rng.integers(0, 500))) // 64) * 64
        spans.append((row, row + rows, visible, capacity))
        row += rows
    return spans


@pytest.mark.parametrize("seed", range(40))
def test_every_row_meets_every_visible_key_once(seed):
    rng = np.random.default_rng(seed)
    spans = random_spans(rng)
    kv_heads = int(rng.choice([1, 2, 8, 32]))
    shape = (kv_heads * int(rng.choice([1, 3, 4, 8, 48])), kv_heads, int(rng.choice([8, 64, 80, 128, 256])))
    made = plan(spans, shape, float32=bool(rng.integers(2)))
    seen = [np.zeros((end - begin, visible), int) for begin, end, visible, _ in spans]
    for row, num_rows, key_begin, key_end, *_ in made.busy():
        assert num_rows <= made.rows_of_tile
        (i,) = (i for i, s in enumerate(spans) if s[0] <= row and row + num_rows <= s[1])  # of one span
        assert key_begin % CHUNK == 0
        seen[i][row - spans[i][0] : row - spans[i][0] + num_rows, key_begin:key_end] += 1
    assert all((part == 1).all() for part in seen)
    assert made.rows_of_tile * made.heads_of_tile <= made.lines
    assert made.heads_of_tile * made.head_parts >= shape[0] // kv_heads
    assert made.out_parts * 128 >= shape[2]


@pytest.mark.parametrize("visible", [129, 256, 500, 1024, 1900])
def test_chunks_of_a_tile_follow_each_other(visible):
    made = plan([(0, 40, visible, 2048), (40, 50, 200, 256)], (8, 2, 64))
    assert made.split
    joined = made.busy()[made.busy()[:, 2] == 0]  # the first chunk of each tile
    for row, num_rows, _, _, first_item, num_chunks in joined:
        keys = visible if row < 40 else 200
        chunks = made.items[first_item : first_item + num_chunks]
        assert (chunks[:, :2] == [row, num_rows]).all()
        assert (chunks[:, 4:] == [first_item, num_chunks]).all()
        assert chunks[0, 2] == 0
        assert chunks[-1, 3] == keys
        assert (chunks[1:, 2] == chunks[:-1, 3]).all()
        assert (chunks[:-1, 3] - chunks[:-1, 2] == CHUNK).all()
    assert joined[:, 1].sum() == 50
    assert len(made.busy()) == joined[:, 5].sum()


def test_steps_of_a_slot_have_one_shape():
    """A graph serves while an answer grows, until four more chunks are needed."""

    def shape_at(visible: int) -> tuple[int, bool]:
        made = plan([(0, 32, visible, 4096)])
        return len(made.items), made.split

    assert len({shape_at(visible) for visible in range(1, 513, 37)}) == 1
    assert shape_at(1025) != shape_at(512)
    assert shape_at(3585) == shape_at(4096)


def test_counts_are_rounded_up():
    assert len(plan([(0, 32, 512, 512)]).items) == 8
    assert len(plan([(0, 1, 1, 64)]).items) == 8
    assert len(plan([(32 * i, 32 * i + 32, 100, 128) for i in range(9)]).items) == 16
    assert len(plan([]).items) == 0


def test_a_block_of_masks_fills_the_device():
    made = plan([(0, 32, 512, 512)])
    assert (made.lines, made.split) == (32, True)
    assert 32 * len(made.busy()) == 128  # of 132 multiprocessors


def test_many_requests_are_not_split():
    made = plan([(32 * i, 32 * i + 32, 512, 512) for i in range(32)])
    assert (made.lines, made.split, len(made.busy())) == (32, False, 32)


def test_a_refresh_is_not_split():
    made = plan([(0, 512, 512, 512)])
    assert (made.lines, made.split, len(made.busy())) == (128, False, 4)


@pytest.mark.parametrize("visible", [8192, 32768])
@pytest.mark.parametrize("requests", [1, 2, 9])
@pytest.mark.parametrize("shape", [LLADA, (32, 8, 128), (64, 1, 128), (8, 4, 256)])
def test_what_chunks_leave_behind_is_bounded(shape, requests, visible):
    made = plan([(32 * i, 32 * i + 32, visible, visible) for i in range(requests)], shape)
    blocks = len(made.items) * shape[1] * made.head_parts * made.out_parts
    assert not made.split or blocks * made.lines * 128 * 4 <= 64 << 20


@pytest.mark.parametrize("head_dim", [8, 64, 80, 128, 256])
def test_a_small_gpu_gets_smaller_tiles(head_dim):
    spans = [(0, 512, 512, 512)]
    assert plan(spans, (4, 4, head_dim)).lines == 128
    small = plan(spans, (4, 4, head_dim), shared_bytes=SMALLEST)
    assert small.shared_bytes <= SMALLEST
    assert small.lines == (128 if head_dim <= 64 else 64)


@pytest.mark.parametrize("float32", [True, False])
@pytest.mark.parametrize("head_dim", [8, 64, 128, 200, 256])
def test_every_head_fits_a_data_centre_gpu(head_dim, float32):
    sm_80 = 163 << 10
    made = plan([(0, 512, 512, 512)], (4, 4, head_dim), float32=float32, shared_bytes=sm_80)
    assert made.shared_bytes <= sm_80
