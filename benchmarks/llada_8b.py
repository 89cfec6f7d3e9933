"""What to expect of LLaDA-8B on machines that were not at hand: the cost model's ceilings, and a share of them.

GPU limits are those of the vendors' data sheets (dense, SXM). A CPU is so many of the cores that were measured (Zen 4,
AVX-512), its memory that of a server with twelve channels of DDR5-4800 once the cores can draw so much. Nothing here
was measured on LLaDA-8B.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.cost_model import Machine, ModelShape, Work, modelled_break_even, tokens_per_second

LLADA_8B = ModelShape("LLaDA-8B", d_model=4096, n_layers=32, mlp_hidden_size=12288, vocab_size=126464)
# An autoregressive model that one would take instead: eight of 32 heads have keys and values.
LLAMA_8B = ModelShape("Llama-3.1-8B", 4096, 32, 14336, 128256, kv_share=0.25)

H100, H200, B200 = (
    Machine("H100", 989e12, 3.35e12),
    Machine("H200", 989e12, 4.8e12),
    Machine("B200", 2250e12, 8.0e12),
)
GPUS = (H100, H200, B200)
CORE_COUNTS = (2, 4, 8, 16, 32, 64)
# What one core does a second: int8 operations of a register-only loop (bfloat16 has half), and bytes that it reads.
CORE_INT8_PEAK, CORE_BANDWIDTH, SOCKET_BANDWIDTH = 473e9, 23e9, 460.8e9
TOKENS_PER_STEP = 2.8  # what threshold 0.9 gave LLaDA-8B on GSM8K without further training (Fast-dLLM)
SHARE = 0.6  # of both limits: what whole steps reach here


def cpu(cores: int, weight_bytes: float) -> Machine:
    peak = CORE_INT8_PEAK * cores / (1 if weight_bytes == 1 else 2)
    bandwidth = min(CORE_BANDWIDTH * cores, SOCKET_BANDWIDTH)
    kind = "int8" if weight_bytes == 1 else "bfloat16"
    return Machine(f"{cores} cores, {kind}", peak, bandwidth, weight_bytes)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens a second of `share` of the limits; break-even in tokens a step, None: not even with a block a step."""

    machine: str
    batch: int
    none: float
    prefix: float
    dual: float
    arm: float  # of the same shape
    break_even: float | None  # dual against that ARM
    break_even_grouped: float | None  # dual against LLAMA_8B


def machines() -> tuple[Machine, ...]:
    return (*GPUS, *(cpu(cores, weight_bytes) for weight_bytes in (2.0, 1.0) for cores in CORE_COUNTS))


def predict(share: float = SHARE, tokens_per_step: float = TOKENS_PER_STEP) -> Iterator[Prediction]:
    """P = G = 256, blocks of 32; each GPU at batch 1 and 32, each CPU at batch 1."""
    for machine in machines():
        for batch in (1, 32) if machine in GPUS else (1,):
            work, real = Work(batch=batch), machine.at(share)
            none, prefix, dual = (
                tokens_per_second(LLADA_8B, real, work, mode, tokens_per_step) for mode in ("none", "prefix", "dual")
            )
            yield Prediction(
                machine.name,
                batch,
                none,
                prefix,
                dual,
                tokens_per_second(LLADA_8B, real, work, "arm"),
                modelled_break_even(LLADA_8B, real, work, "dual"),
                modelled_break_even(LLADA_8B, real, work, "dual", LLAMA_8B),
            )


def table(share: float = SHARE) -> list[str]:
    """Lines of Markdown."""

    def number(value: float) -> str:
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"

    def tokens(value: float | None) -> str:
        return "never" if value is None else f"{value:.1f}"

    lines = [
        f"| prediction, {share:.0%} of the limits | batch | `none` | `prefix` | `dual` | ARM of this shape | "
        "break-even tokens a step | against an ARM with a quarter of the K/V |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for p in predict(share):
        cells = " | ".join(number(value) for value in (p.none, p.prefix, p.dual, p.arm))
        lines.append(f"| {p.machine} | {p.batch} | {cells} | {tokens(p.break_even)} | {tokens(p.break_even_grouped)} |")
    return lines
