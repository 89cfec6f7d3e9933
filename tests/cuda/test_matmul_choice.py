"""Which kernel multiplies: decided by shapes and device alone."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llada_rt.runtime import device
from tests.cuda.matmul_doors import OPERANDS, TILES, choose

# Outputs and inputs of LLaDA-8B: queries, keys and values, after attention, gate and up, down.
LLADA_8B = [(4096, 4096), (8192, 4096), (24576, 4096), (4096, 12288)]


def size(tile: str) -> tuple[int, int]:
    rows, outputs = tile.split("x")
    return int(rows), int(outputs)


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8", "int8_bfloat16", "int4", "float8"])
@pytest.mark.parametrize(("outputs", "inputs"), LLADA_8B)
def test_a_block_of_masks_streams_weights_once(compute_type, outputs, inputs):
    """32 rows are one tile high, and a quarter of the multiprocessors or more have work."""
    rows, wide = size(choose(32, outputs, inputs, compute_type).tile)
    assert rows == 32
    assert outputs / wide >= 132 / 4


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8", "float8"])
def test_thousands_of_rows_take_large_tiles(compute_type):
    for outputs, inputs in LLADA_8B:
        rows, wide = size(choose(4096, outputs, inputs, compute_type).tile)
        assert rows * wide >= 128 * 128


def test_tiles_grow_with_the_rows():
    for outputs, inputs in LLADA_8B:
        heights = [size(choose(rows, outputs, inputs).tile)[0] for rows in (1, 32, 64, 256, 1024, 8192)]
        assert heights == sorted(heights)
        assert heights[0] < heights[-1]


def test_a_smaller_gpu_gets_what_fits_its_shared_memory():
    """sm_86 lets a block have 99 KiB."""
    for rows in (1, 32, 512, 8192):
        for outputs, inputs in LLADA_8B:
            tile = choose(rows, outputs, inputs, capability=86, processors=84, shared_bytes=99 << 10).tile
            assert tile not in {"128x128", "128x256"}


def test_what_is_for_tests_has_one_tile():
    assert {choose(rows, 4096, 4096, "float32").tile for rows in (1, 33, 4096)} == {"64x64"}
    assert {choose(rows, 4096, 4094, aligned=False).tile for rows in (1, 33, 4096)} == {"64x64"}


def test_without_cutlass_the_tier_is_plain():
    for compute_type in OPERANDS:
        for capability in (80, 90, 100, 120):
            assert choose(512, 4096, 4096, compute_type, capability=capability).tier == "plain"


@pytest.mark.parametrize(
    ("compute_type", "capability", "tier"),
    [
        ("bfloat16", 90, "cutlass_sm90"),
        ("float8", 90, "cutlass_sm90"),
        ("bfloat16", 80, "cutlass_sm80"),
        ("bfloat16", 120, "cutlass_sm80"),
        ("float8", 120, "plain"),
        ("float32", 90, "plain"),
        ("int8", 90, "plain"),
        ("int8_bfloat16", 90, "plain"),
        ("int4", 90, "plain"),
    ],
)
def test_tier_where_cutlass_is_asked_for(compute_type, capability, tier):
    assert choose(32, 4096, 4096, compute_type, capability=capability, cutlass=True).tier == tier


@pytest.mark.parametrize("cutlass", [False, True])
@pytest.mark.parametrize("compute_type", OPERANDS)
def test_the_tier_does_not_depend_on_the_rows(compute_type, cutlass):
    """Tiers add in different orders: a request alone must meet the tier that it meets in a batch."""
    tiers = {choose(rows, 4096, 4096, compute_type, cutlass=cutlass).tier for rows in (1, 31, 32, 64, 65, 512, 9999)}
    assert len(tiers) == 1


def test_cutlass_leaves_odd_shapes_alone():
    assert choose(32, 4095, 4096, cutlass=True).tier == "plain"
    assert choose(32, 4096, 4090, cutlass=True).tier == "plain"
    assert choose(32, 4096, 4096, aligned=False, cutlass=True).tier == "plain"


@pytest.mark.parametrize("compute_type", ["bfloat16", "float8"])
def test_tiles_of_cutlass_grow_with_the_rows(compute_type):
    for outputs, inputs in LLADA_8B:
        tiles = [choose(rows, outputs, inputs, compute_type, cutlass=True).cutlass_tile for rows in (1, 32, 512, 4096)]
        assert tiles[0] == tiles[1] == "64x32"
        areas = [size(tile.split()[0])[0] * size(tile.split()[0])[1] for tile in tiles]
        assert areas == sorted(areas)
        assert areas[-1] >= 128 * 128


def test_a_few_rows_more_than_a_tile_take_a_wider_one():
    """Weights come from memory once: 64 rows by two tiles of 32 would read them twice from the cache."""
    assert choose(64, 24576, 4096, cutlass=True).cutlass_tile == "64x64"


def test_tiles_that_float8_lacks_are_not_chosen():
    for rows in (1, 33, 64, 128, 256, 512, 4096):
        for outputs, inputs in LLADA_8B:
            assert choose(rows, outputs, inputs, "float8", cutlass=True).cutlass_tile in {"64x32", "128x128"}


def test_every_tile_is_somebodys_choice():
    chosen = {
        choose(rows, outputs, inputs).tile
        for rows in (1, 32, 64, 128, 512, 1024, 8192)
        for outputs, inputs in [*LLADA_8B, (512, 4096), (32768, 4096)]
    }
    assert chosen == set(TILES)


def has_cutlass() -> bool:
    return device.missing_cuda() is None and importlib.import_module("llada_rt._cuda").HAS_CUTLASS


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("cutlas", 'ConfigError LLADA_CUDA_PRODUCTS: expected plain or cutlass, got "cutlas"'),
        (
            "cutlass",
            "accepted" if has_cutlass() else "ConfigError LLADA_CUDA_PRODUCTS=cutlass: this build has no CUTLASS",
        ),
    ],
)
def test_a_tier_that_is_not_there_is_refused(asked, message):
    """In a process of its own, that has asked for nothing before; any call may be the one that reads the variable."""
    code = """
import numpy as np
from llada_rt import _core
from tests import cuda_host
cuda_host.add_table()
x = np.ones((2, 16), np.float32)
try:
    _core.Ops("cuda", 1).matmul(x, x, "bfloat16")
    print("accepted")
except Exception as error:
    print(type(error).__name__, error)
"""
    environment = {**os.environ, "LLADA_CUDA_PRODUCTS": asked, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert message in done.stdout


# The products as they are; a later record timed SwiGLU with another end.
RECORD = Path(__file__).parents[2] / "benchmarks/results/gpu/2026-11-27b-h200-6f8a3963/results.jsonl"


def test_the_choice_is_near_the_fastest_that_was_timed():
    """On the GPU of the record, for each product of LLaDA-8B: within a tenth of the fastest of its tier."""
    timed: dict[tuple, dict[str, float]] = {}
    for line in RECORD.read_text().splitlines():
        each = json.loads(line)
        if each["what"] == "product timed" and each["kernel"].startswith("cutlass_sm90"):
            key = each["compute_type"], each["weight"], each["rows"]
            timed.setdefault(key, {})[each["kernel"].removeprefix("cutlass_sm90 ")] = each["us"]
    sizes = dict(zip(("query", "kv", "gate_up", "down"), LLADA_8B, strict=True))
    assert len(timed) >= 24
    for (compute_type, weight, rows), times in timed.items():
        chosen = choose(rows, *sizes[weight], compute_type, cutlass=True).cutlass_tile
        assert times[chosen] <= 1.1 * min(times.values()), (compute_type, weight, rows, chosen, times)
