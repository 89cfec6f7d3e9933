"""Whom we are compared with, by the names of the command line; each is opened only where its package is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch

from benchmarks.baselines.contract import System, cut
from benchmarks.measure import Entry
from benchmarks.workloads import ALIKE, CHECKED, Workload, agrees_with
from llada_rt import ConfigError
from training import arm
from training.model import LLaDA

Open = Callable[[Workload, int], System]  # workload, threads


@dataclass(frozen=True, slots=True)
class Rival:
    about: str
    open: Open
    setting: Mapping[str, object] = field(default_factory=dict)
    is_arm: bool = True
    fixed_work_only: bool = False  # it knows no end tokens


def _torch_arm(dtype: torch.dtype) -> Open:
    def open(work: Workload, threads: int) -> System:
        from benchmarks.baselines.arm_torch import TorchArm

        return TorchArm(work.arm, dtype=dtype, stop_ids=work.stop_ids)

    return open


def _llama_cpp(gguf_type: str) -> Open:
    def open(work: Workload, threads: int) -> System:
        from benchmarks.baselines.arm_llama_cpp import LlamaCppArm

        return LlamaCppArm(work.arm, gguf_type=gguf_type, threads=threads, stop_ids=work.stop_ids)

    return open


RIVALS: Mapping[str, Rival] = {
    "torch": Rival("the ARM in torch, bfloat16, static cache", _torch_arm(torch.bfloat16), {"type": "bfloat16"}),
    "torch-float32": Rival("the same in float32", _torch_arm(torch.float32), {"type": "float32"}),
    "llama.cpp-bf16": Rival("the ARM in llama.cpp, bfloat16 weights", _llama_cpp("bf16"), {"type": "bf16"}),
    "llama.cpp-q8_0": Rival("the ARM in llama.cpp, 8-bit weights", _llama_cpp("q8_0"), {"type": "q8_0"}),
}


def rival_entries(work: Workload, names: Sequence[str], threads: int, setting: Mapping[str, object]) -> list[Entry]:
    """An entry for each name that this workload can be put to. ConfigError for an unknown one."""
    torch.set_num_threads(threads)
    answers = cache(lambda: _arm_answers(work))
    entries = []
    for name in names:
        if name not in RIVALS:
            raise ConfigError(f"against: expected names of {', '.join(RIVALS)}, or none, got {name!r}", param="against")
        rival = RIVALS[name]
        if (rival.is_arm and work.arm is None) or (rival.fixed_work_only and work.stop_ids):
            continue
        entry = Entry(
            name,
            lambda rival=rival: rival.open(work, threads),
            {**(work.setting or {}), "threads": threads, **rival.setting, **setting},
            work.check,
            work.judge,
            may_fail=True,
        )
        if rival.is_arm and work.judge is not None:
            entry = replace(entry, check=agrees_with(answers, ALIKE))
        entries.append(entry)
    return entries


def _arm_answers(work: Workload) -> list[tuple[int, ...]]:
    """The first answers of the twin, by the plain definition in float32: what every package must give too."""
    asked = work.questions[:CHECKED]
    model, limit = LLaDA.from_folder(work.arm), max(question.max_new_tokens for question in asked)
    answers = arm.generate(model, [q.prompt for q in asked], max_new_tokens=limit, stop_ids=work.stop_ids)
    return [
        cut(answer[: question.max_new_tokens], work.stop_ids) for question, answer in zip(asked, answers, strict=True)
    ]
