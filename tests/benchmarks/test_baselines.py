"""The torch loops that we are compared with do what they say: the tokens of the published loops, and of our engine."""

import pytest
import torch

from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from benchmarks.baselines.llada_torch import FullLoop
from llada_rt import Engine, SamplingParams
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.reference.denoise import Params, generate
from tests.reference.forward import Model
from training.model import LLaDA

PROMPT = [7, 99, 23, 4, 81, 12, 140]
BLOCK_LENGTH, NUM_BLOCKS = 8, 3
CANVAS = [*PROMPT, *[IDS.mask] * (BLOCK_LENGTH * NUM_BLOCKS)]


@pytest.fixture(scope="module")
def model() -> LLaDA:
    return LLaDA.from_folder(CHECKPOINT, dtype=torch.float32)


def run(loop, num_steps: int) -> list[int]:
    for start in range(len(PROMPT), len(CANVAS), BLOCK_LENGTH):
        loop.denoise((start, start + BLOCK_LENGTH), num_steps)
    return loop.canvas[0].tolist()


def published(cache: str, num_steps: int) -> list[int]:
    params = Params(
        steps=num_steps * NUM_BLOCKS, gen_length=BLOCK_LENGTH * NUM_BLOCKS, block_length=BLOCK_LENGTH, cache=cache
    )
    return generate(Model(CHECKPOINT), PROMPT, params, IDS).canvas.tolist()


@pytest.mark.parametrize("num_steps", [3, 8])
def test_full_loop(model, num_steps):
    assert run(FullLoop(model, CANVAS, IDS.mask), num_steps) == published("none", num_steps)


@pytest.mark.parametrize("lean", [False, True], ids=["published", "lean"])
@pytest.mark.parametrize("num_steps", [3, 8])
def test_dual_cache_loop(model, num_steps, lean):
    block = (len(PROMPT), len(PROMPT) + BLOCK_LENGTH)
    assert run(DualCacheLoop(model, CANVAS, block, lean=lean), num_steps) == published("dual", num_steps)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_the_engine_agrees(model, cache):
    params = SamplingParams(
        gen_length=BLOCK_LENGTH * NUM_BLOCKS, block_length=BLOCK_LENGTH, cache=cache, eos_early_stop=False
    )
    with Engine(CHECKPOINT, compute_type="float32", threads=1) as engine:
        ours = engine.generate(PROMPT, params)[0].outputs[0].token_ids
    theirs = published(cache, BLOCK_LENGTH)[len(PROMPT) :]
    assert theirs[: len(ours)] == ours
