"""Whom we are compared with, by the names of the command line; each is opened only where its package is, torch among
them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from benchmarks.baselines.contract import Answer, Question, System, cut
from benchmarks.measure import Entry
from benchmarks.workloads import ALIKE, CHECKED, Workload, agrees_with
from llada_rt import ConfigError

if TYPE_CHECKING:
    from benchmarks.baselines.arm_llama_cpp import WeightType
    from benchmarks.baselines.mdm_torch import Cache

THRESHOLD = 0.9  # of Fast-dLLM, as published
Open = Callable[[Workload, int], System]  # workload, threads


@dataclass(frozen=True, slots=True)
class Rival:
    about: str
    open: Open
    setting: Mapping[str, object] = field(default_factory=dict)
    alike: float = ALIKE  # share of answers that must be those of the twin in float32
    is_arm: bool = True
    is_examined: bool = True
    fixed_work_only: bool = False  # it knows no end tokens


class OnTorch:
    """A system that computes in torch, whose number of threads is one for the process: set anew for each call."""

    def __init__(self, system: System, threads: int) -> None:
        self.system, self.threads = system, threads
        self.name, self.kind, self.close = system.name, system.kind, system.close

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        import torch

        torch.set_num_threads(self.threads)
        return self.system.answer(questions)


def _torch_arm(dtype: str) -> Open:
    def open(work: Workload, threads: int) -> System:
        import torch

        from benchmarks.baselines.arm_torch import TorchArm

        return OnTorch(TorchArm(work.twin, dtype=getattr(torch, dtype), stop_ids=work.stop_ids), threads)

    return open


def _transformers(work: Workload, threads: int) -> System:
    from benchmarks.baselines.arm_transformers import TransformersArm

    return OnTorch(TransformersArm(work.twin, stop_ids=work.stop_ids), threads)


def _torch_mdm(cache: "Cache", tokens_per_step: int = 1) -> Open:
    """Fixed work writes so many tokens a step; of a trained pair the dual cache goes with its threshold."""

    def open(work: Workload, threads: int) -> System:
        from benchmarks.baselines.mdm_torch import TorchMdm

        rule: dict[str, Any] = (
            {"tokens_per_step": tokens_per_step} if work.is_fixed or cache == "none" else {"threshold": THRESHOLD}
        )
        return OnTorch(TorchMdm(work.mdm, cache=cache, stop_ids=work.stop_ids, **rule), threads)

    return open


def _llama_cpp(gguf_type: "WeightType") -> Open:
    def open(work: Workload, threads: int) -> System:
        from benchmarks.baselines.arm_llama_cpp import LlamaCppArm

        return LlamaCppArm(work.twin, gguf_type=gguf_type, threads=threads, stop_ids=work.stop_ids)

    return open


RIVALS: Mapping[str, Rival] = {
    "torch-llada": Rival(
        "the same masked model, LLaDA's loop in torch",
        _torch_mdm("none"),
        {"type": "bfloat16", "tokens_per_step": 1},
        is_arm=False,
        is_examined=False,
    ),
    "torch-fast-dllm": Rival(
        "the same, Fast-dLLM's dual cache in torch",
        _torch_mdm("dual"),
        {"type": "bfloat16", "cache": "dual", "tokens_per_step": 1},
        is_arm=False,
    ),
    "torch-fast-dllm-k4": Rival(
        "the same, four tokens a step",
        _torch_mdm("dual", 4),
        {"type": "bfloat16", "cache": "dual", "tokens_per_step": 4},
        is_arm=False,
        fixed_work_only=True,
    ),
    "torch": Rival("the ARM in torch, bfloat16, static cache", _torch_arm("bfloat16"), {"type": "bfloat16"}),
    "torch-float32": Rival("the same in float32", _torch_arm("float32"), {"type": "float32"}),
    "transformers": Rival("the ARM as LlamaForCausalLM, bfloat16, static cache", _transformers, {"type": "bfloat16"}),
    "llama.cpp-bf16": Rival("the ARM in llama.cpp, bfloat16 weights", _llama_cpp("bf16"), {"type": "bf16"}),
    "llama.cpp-q8_0": Rival("the ARM in llama.cpp, 8-bit weights", _llama_cpp("q8_0"), {"type": "q8_0"}),
    "llama.cpp-q4_k_m": Rival(
        "the ARM in llama.cpp, 4-bit weights", _llama_cpp("q4_k_m"), {"type": "q4_k_m"}, alike=0.5
    ),
}


def rival_entries(work: Workload, names: Sequence[str], threads: int, setting: Mapping[str, object]) -> list[Entry]:
    """An entry for each name that this workload can be put to; "name@1" is with so many threads, a URL with "#model" an
    endpoint. ConfigError.
    """
    answers = cache(lambda: _arm_answers(work))
    entries = []
    for name in names:
        if is_endpoint(name):
            entries.append(endpoint_entry(work, name, setting))
            continue
        kind, _, own = name.partition("@")
        if kind not in RIVALS or (own and not (own.isdecimal() and 1 <= int(own) <= 1024)):
            raise ConfigError(
                f"against: expected names of {', '.join(RIVALS)}, each maybe with @ and a number of threads, "
                f"http://host/v1#model, or none, got {name!r}",
                param="against",
            )
        rival, count = RIVALS[kind], int(own or threads)
        if (rival.is_arm and work.arm is None) or (rival.fixed_work_only and not work.is_fixed):
            continue
        entry = Entry(
            name,
            partial(rival.open, work, count),
            {**(work.setting or {}), "threads": count, **rival.setting, **setting},
            work.check,
            work.judge,
            is_examined=rival.is_examined,
            may_fail=True,
        )
        if rival.is_arm and work.judge is not None:
            entry = replace(entry, check=agrees_with(answers, rival.alike))
        entries.append(entry)
    return entries


def is_endpoint(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def open_endpoint(work: Workload, name: str) -> System:
    """A server that speaks OpenAI's completions, "http://host:8000/v1#model"; prompts go as token ids. ConfigError."""
    from benchmarks.baselines.openai_endpoint import OpenAIEndpoint

    url, _, model = name.partition("#")
    if not model:
        raise ConfigError(f"expected an address and a model, http://host:8000/v1#model, got {name!r}", param="against")
    try:
        return OpenAIEndpoint(url, model, stop_ids=work.stop_ids, ignore_eos=work.is_fixed, encode=work.encode)
    except ValueError as error:
        raise ConfigError(str(error), param="against") from error


def endpoint_entry(work: Workload, name: str, setting: Mapping[str, object]) -> Entry:
    """What serves there is not known, so it need not answer as anybody else, nor the same way twice."""
    own = {**(work.setting or {}), "endpoint": name, **setting}
    return Entry(name, partial(open_endpoint, work, name), own, work.check, work.judge, repeats_itself=False)


def _arm_answers(work: Workload) -> list[tuple[int, ...]]:
    """The first answers of the twin, by the plain definition in float32: what every package must give too."""
    from training import arm
    from training.model import LLaDA

    asked = work.questions[:CHECKED]
    model, limit = LLaDA.from_folder(work.twin), max(question.max_new_tokens for question in asked)
    answers = arm.generate(model, [q.prompt for q in asked], max_new_tokens=limit, stop_ids=work.stop_ids)
    return [
        cut(answer[: question.max_new_tokens], work.stop_ids) for question, answer in zip(asked, answers, strict=True)
    ]
