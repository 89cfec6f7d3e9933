"""What one has without an engine, at the same shape, context and work: Fast-dLLM's loop with its dual cache as
published, in eager torch, and an autoregressive model of the same shape with a static cache and a CUDA graph for a
token. A dry run takes a small shape, on the processor, without the graph.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.baselines.arm_cuda_torch import GraphedArm
from benchmarks.baselines.fast_dllm_torch import DualCacheLoop
from benchmarks.gpu.bench import repeat
from benchmarks.gpu.flight import Flight
from benchmarks.gpu.rig import Samples, Taken, sizes_of
from benchmarks.gpu.steps import Sizes, masked, num_steps, tokens_per_step
from training.model import LLaDA

FAST_DLLM, ARM = "torch Fast-dLLM, eager", "torch ARM, graph"
KS = (3, 4.2)  # tokens a step


def run(flight: Flight) -> None:
    sizes = sizes_of(flight)
    canvas = masked(flight.shape, sizes.canvas, sizes.prompt).tolist()
    model = flight.shape.model(flight.device)
    with default_device(flight.device):
        with flight.attempt(f"answers of {FAST_DLLM}"):
            measure_answers(flight, model, canvas, sizes)
        with flight.attempt(ARM):
            measure_arm(flight, model, canvas[: sizes.prompt], sizes)
        with flight.attempt(f"steps of {FAST_DLLM}"):
            measure_steps(flight, model, canvas, sizes)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """Where torch makes what it is not told a place for: the baselines say none."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def samples_of(flight: Flight, run: Callable[[], object], before: Callable[[], object] = lambda: None) -> Samples:
    """Rounds of it, after one that warms up; `before` is not timed."""
    samples = Samples()

    def one_round() -> None:
        before()
        flight.wait()
        began = time.perf_counter()
        run()
        flight.wait()
        samples.taken.append(Taken(time.perf_counter() - began, None))

    one_round()
    samples.taken.clear()
    repeat(flight, one_round)
    return samples


def record_answers(flight: Flight, who: str, k: float, mean: float, num_tokens: int, samples: Samples) -> None:
    fields: dict[str, Any] = {"who": who, "compute_type": "bfloat16", "batch": 1, "k": k, "tokens_per_step": mean}
    rate = num_tokens / samples.wall_s
    flight.record("answer", **fields, gen_length=num_tokens, tokens_per_s=rate, **samples.fields())


def measure_answers(flight: Flight, model: LLaDA, canvas: list[int], sizes: Sizes) -> None:
    gen_length = sizes.canvas - sizes.prompt
    for k in KS:
        asked = num_steps(sizes.block, k)

        def answer(asked: int = asked) -> None:
            loop = DualCacheLoop(model, canvas, (sizes.prompt, sizes.prompt + sizes.block), lean=False)
            for start in range(sizes.prompt, sizes.canvas, sizes.block):
                loop.denoise((start, start + sizes.block), asked)
            assert loop.num_forwards == gen_length // sizes.block * asked, f"{loop.num_forwards} forwards"

        samples = samples_of(flight, answer)
        record_answers(flight, FAST_DLLM, k, tokens_per_step(sizes.block, k), gen_length, samples)


def measure_steps(flight: Flight, model: LLaDA, canvas: list[int], sizes: Sizes) -> None:
    """As ours are timed: a refresh, then so many refinements together, a token each."""
    loop = DualCacheLoop(model, canvas, (sizes.prompt, sizes.prompt + sizes.block), lean=False)
    fresh = loop.canvas.clone()
    named = {"who": FAST_DLLM, "compute_type": "bfloat16", "batch": 1}

    def reset() -> None:
        loop.canvas.copy_(fresh)

    def after_refresh() -> None:
        reset()
        loop.refresh(1)

    def refine() -> None:
        for _ in range(sizes.steps):
            loop.refine(1)

    samples = samples_of(flight, refine, before=after_refresh)
    flight.record("step", phase="refine", **named, **samples.fields(sizes.steps))
    samples = samples_of(flight, lambda: loop.refresh(1), before=reset)
    flight.record("step", phase="refresh", **named, **samples.fields())


def measure_arm(flight: Flight, model: LLaDA, prompt: list[int], sizes: Sizes) -> None:
    """Its graph is recorded in the first answer. A step is a token, from the prompt's end on."""
    arm, num_tokens = GraphedArm(model, sizes.canvas), sizes.canvas - sizes.prompt

    def answer() -> None:
        written = eager_answer(arm, prompt, num_tokens) if flight.dry else arm.answer(prompt, num_tokens)
        assert len(written) == num_tokens, f"{len(written)} tokens, {num_tokens} asked"

    record_answers(flight, ARM, 1, 1.0, num_tokens, samples_of(flight, answer))

    def steps() -> None:
        for _ in range(num_tokens - 1):
            if flight.dry:
                arm._step()
            else:
                arm.replay()

    samples = samples_of(flight, steps, before=lambda: arm.at.fill_(len(prompt)))
    named = {"who": ARM, "compute_type": "bfloat16", "batch": 1}
    flight.record("step", phase="token", **named, **samples.fields(num_tokens - 1))


def eager_answer(arm: GraphedArm, prompt: list[int], num_tokens: int) -> list[int]:
    """What `arm.answer` writes, without the graph, which needs a GPU."""
    tokens = torch.tensor([prompt], device=arm.token.device)  # (1, prompt)
    arm.token.copy_(arm._forward(tokens, torch.arange(len(prompt), device=tokens.device)))
    arm.at.fill_(len(prompt))
    written = [arm.token.clone()]
    for _ in range(num_tokens - 1):
        arm._step()
        written.append(arm.token.clone())
    return torch.cat(written, dim=1)[0].tolist()
