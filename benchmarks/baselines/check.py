"""Before anything is timed: the torch loops and the engine give the same tokens on a small model in float32.

Twenty answers in each loop; a fault in a baseline, or in ours, would make every ratio meaningless.
"""

import tempfile
from pathlib import Path

import torch

from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from benchmarks.baselines.llada_torch import FullLoop
from benchmarks.baselines.padded_batch import PaddedBatch
from benchmarks.shapes import BLOCK_LENGTH, PROMPT_LENGTH, Shape
from llada_rt import Engine, SamplingParams
from llada_rt.options.types import Cache
from training.model import LLaDA

TINY = Shape("tiny", d_model=128, n_layers=2, mlp_hidden_size=192, vocab_size=512)
NUM_PROMPTS = 20


def check_baselines(*, compile: bool = False) -> None:
    """Leaves the program if one loop's tokens differ from the engine's."""
    with tempfile.TemporaryDirectory() as name:
        folder = TINY.write(Path(name))
        model = LLaDA.from_folder(folder, dtype=torch.float32)
        prompts = [[(7 * i + j * j) % 500 for j in range(PROMPT_LENGTH)] for i in range(NUM_PROMPTS)]
        with Engine(folder, compute_type="float32", threads=1) as engine:
            caches: tuple[Cache, ...] = ("none", "dual")
            answers = {cache: engine.generate(prompts, _params(cache)) for cache in caches}
    span = (PROMPT_LENGTH, PROMPT_LENGTH + BLOCK_LENGTH)
    for index, prompt in enumerate(prompts):
        canvas = [*prompt, *[TINY.config.mask_token_id] * BLOCK_LENGTH]
        loops: dict[str, tuple[Cache, FullLoop | DualCacheLoop]] = {
            "LLaDA": ("none", FullLoop(model, canvas, TINY.config.mask_token_id)),
            "Fast-dLLM": ("dual", DualCacheLoop(model, canvas, span, lean=False, compile=compile)),
            "lean": ("dual", DualCacheLoop(model, canvas, span, lean=True, compile=compile)),
        }
        for name, (cache, loop) in loops.items():
            loop.denoise(span, BLOCK_LENGTH)
            expected = answers[cache][index].outputs[0].token_ids
            got = loop.canvas[0, slice(*span)].tolist()
            if got[: len(expected)] != expected:
                raise SystemExit(f"torch {name}: prompt {index}: tokens differ from the engine's: nothing is timed")


def check_padded_batch(num_steps: int) -> None:
    """Leaves the program if a row without padding has other tokens than the engine gives the same request alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = TINY.write(Path(name))
        model = LLaDA.from_folder(folder, dtype=torch.float32)
        prompts = [[(7 * i + j * j) % 500 for j in range(PROMPT_LENGTH // (1 + i % 2))] for i in range(NUM_PROMPTS)]
        lengths = [2 * BLOCK_LENGTH] * NUM_PROMPTS
        whole = range(0, NUM_PROMPTS, 2)  # the long prompts
        params = _params("dual", 2 * BLOCK_LENGTH, 2 * num_steps)
        with Engine(folder, compute_type="float32", threads=1) as engine:
            expected = [engine.generate(prompts[row], params)[0].outputs[0].token_ids for row in whole]
    for lean in (False, True):
        batch = PaddedBatch(model, prompts, lengths, block_length=BLOCK_LENGTH, num_steps=num_steps, lean=lean)
        got = batch.run()
        if any(got[row][: len(tokens)] != tokens for row, tokens in zip(whole, expected, strict=True)):
            raise SystemExit(f"padded batch, lean {lean}: tokens differ from the engine's: nothing is timed")


def _params(cache: Cache, gen_length: int = BLOCK_LENGTH, steps: int | None = None) -> SamplingParams:
    return SamplingParams(
        preset="quality",
        gen_length=gen_length,
        block_length=BLOCK_LENGTH,
        steps=steps,
        cache=cache,
        eos_early_stop=False,
    )
