"""What a step must cost: operations and bytes counted, and the time of a machine that wastes neither.

A forward of `batch` canvases, `rows` positions recomputed in each, `keys` visible, `head_rows` with logits, takes

    operations = 2 batch rows body + 2 batch head_rows head + 4 layers batch rows keys width
    bytes      = weight_bytes (body + head) + batch (keys + rows) K/V bytes of a position
    seconds    = max(operations / peak, bytes / bandwidth)

Activations, launches and softmax cost nothing here, so these are ceilings; ratios between modes are what to trust. An
operation is a multiplication or an addition. `llada_8b.py` applies it to LLaDA-8B on machines that were not at hand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

# How positions are recomputed. `none`, `prefix` and `dual` recompute the whole canvas in the first step of a block;
# `block_causal` computes the prompt once and each finished block once more; `arm` writes one token a step.
Mode = Literal["none", "prefix", "dual", "block_causal", "arm"]
MODES: tuple[Mode, ...] = ("none", "prefix", "dual", "block_causal", "arm")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a transformer with SwiGLU (three matrices) and a head of its own."""

    name: str
    d_model: int
    n_layers: int
    mlp_hidden_size: int
    vocab_size: int
    kv_share: float = 1.0  # of the heads that have keys and values of their own

    @property
    def body(self) -> float:
        """Weights of all layers."""
        attention = (2 + 2 * self.kv_share) * self.d_model**2
        return self.n_layers * (attention + 3 * self.d_model * self.mlp_hidden_size)

    @property
    def head(self) -> float:
        return float(self.d_model * self.vocab_size)

    def kv_bytes(self, element_bytes: float) -> float:
        """Bytes of one position, over all layers."""
        return 2 * self.n_layers * self.d_model * self.kv_share * element_bytes


@dataclass(frozen=True, slots=True)
class Machine:
    """`peak`: operations a second with the elements that the products use; `bandwidth`: bytes a second."""

    name: str
    peak: float
    bandwidth: float
    weight_bytes: float = 2.0  # of a weight
    kv_element_bytes: float = 2.0

    def at(self, share: float) -> "Machine":
        """The same machine when only this share of both limits is reached."""
        return replace(self, peak=self.peak * share, bandwidth=self.bandwidth * share)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one or several forwards cost."""

    operations: float
    num_bytes: float
    seconds: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.operations + other.operations, self.num_bytes + other.num_bytes, self.seconds + other.seconds)

    def times(self, count: float) -> "Cost":
        return Cost(self.operations * count, self.num_bytes * count, self.seconds * count)


FREE = Cost(0.0, 0.0, 0.0)


def step_cost(model: ModelShape, machine: Machine, *, batch: int, rows: float, keys: float, head_rows: float) -> Cost:
    """One forward; `rows`, `keys` and `head_rows` are those of one canvas."""
    operations = 2 * batch * (rows * model.body + head_rows * model.head)
    operations += 4 * model.n_layers * batch * rows * keys * model.d_model
    num_bytes = machine.weight_bytes * (model.body + model.head)
    num_bytes += batch * (keys + rows) * model.kv_bytes(machine.kv_element_bytes)
    return Cost(operations, num_bytes, max(operations / machine.peak, num_bytes / machine.bandwidth))


@dataclass(frozen=True, slots=True)
class Work:
    """Answers of `gen_length` tokens after prompts of `prompt_length`, `batch` of them in step."""

    prompt_length: int = 256
    gen_length: int = 256
    block_length: int = 32
    batch: int = 1
    masked_head: bool = False  # logits of what is still masked, as here; otherwise of the whole block in every step

    @property
    def canvas(self) -> int:
        return self.prompt_length + self.gen_length

    @property
    def num_tokens(self) -> int:
        return self.batch * self.gen_length

    def blocks(self) -> Iterator[tuple[int, int]]:
        """(first, behind the last) position of each block."""
        for start in range(self.prompt_length, self.canvas, self.block_length):
            yield start, min(start + self.block_length, self.canvas)


def answer_cost(model: ModelShape, machine: Machine, work: Work, mode: Mode, tokens_per_step: float = 1.0) -> Cost:
    """A whole answer. `tokens_per_step` need not be whole: it is a mean; an ARM has none but 1.

    ValueError where it is below 1 or above the block's length.
    """
    if mode == "arm":
        return _arm_cost(model, machine, work)
    if not 1 <= tokens_per_step <= work.block_length:
        raise ValueError(f"tokens_per_step: expected 1 to {work.block_length}, got {tokens_per_step}")
    total = FREE

    def step(rows: float, keys: float, head_rows: float) -> Cost:
        return step_cost(model, machine, batch=work.batch, rows=rows, keys=keys, head_rows=head_rows)

    if mode == "block_causal":
        total += step(work.prompt_length, work.prompt_length, 0)
    for start, stop in work.blocks():
        block = stop - start
        num_steps = max(1.0, block / tokens_per_step)
        # The mean over block, block - tokens, ... masks.
        head = (block + min(tokens_per_step, block)) / 2 if work.masked_head else block
        if mode == "block_causal":
            total += step(block, stop, head).times(num_steps) + step(block, stop, 0)
            continue
        rows = {"none": work.canvas, "prefix": work.canvas - start, "dual": block}[mode]
        total += step(work.canvas, work.canvas, head) + step(rows, work.canvas, head).times(num_steps - 1)
    return total


def _arm_cost(model: ModelShape, machine: Machine, work: Work) -> Cost:
    """The prompt in one forward, then a token a step; the mean step stands for all, since each is linear in keys."""
    prompt = step_cost(model, machine, batch=work.batch, rows=work.prompt_length, keys=work.prompt_length, head_rows=1)
    keys = work.prompt_length + work.gen_length / 2
    return prompt + step_cost(model, machine, batch=work.batch, rows=1, keys=keys, head_rows=1).times(work.gen_length)


def tokens_per_second(
    model: ModelShape, machine: Machine, work: Work, mode: Mode, tokens_per_step: float = 1.0
) -> float:
    """At most, over the whole batch."""
    return work.num_tokens / answer_cost(model, machine, work, mode, tokens_per_step).seconds


def break_even(mdm_seconds: Callable[[float], float], arm_seconds: float, block_length: int) -> float | None:
    """The fewest tokens a step with which a masked model answers as soon as an ARM; None: not with a block a step.

    `mdm_seconds`: tokens a step -> seconds, not increasing. By bisection, to a thousandth.
    """
    low, high = 1.0, float(block_length)
    if mdm_seconds(high) > arm_seconds:
        return None
    if mdm_seconds(low) <= arm_seconds:
        return low
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if mdm_seconds(middle) <= arm_seconds else (middle, high)
    return high


def modelled_break_even(
    model: ModelShape, machine: Machine, work: Work, mode: Mode, arm: ModelShape | None = None
) -> float | None:
    """Against an ARM of the same shape, or of `arm`'s."""
    return break_even(
        lambda k: answer_cost(model, machine, work, mode, k).seconds,
        answer_cost(arm or model, machine, work, "arm").seconds,
        work.block_length,
    )
