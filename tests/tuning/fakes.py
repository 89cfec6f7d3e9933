"""An engine of which all is known: how often each setting is right, and how long it takes, on a clock of its own."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llada_rt import CompletionOutput, DiffusionStats, RequestMetrics, RequestOutput, SamplingParams
from llada_rt.tuning.report import TuneReport
from llada_rt.tuning.run import tune

TOKENS = 10  # of an answer
MACHINE = {"device": "none", "threads": 1}
World = Callable[[SamplingParams], tuple[float, float]]  # options -> (share right, seconds an answer)


class FakeEngine:
    """Answers "right" or "wrong". `load`: by what each call's time is multiplied. `stop_at`: Ctrl-C in that call."""

    eos_token_id, eot_token_id = 1, None

    def __init__(self, world: World, *, load: Callable[[int], float] = lambda call: 1.0, stop_at: int = -1) -> None:
        self.world, self.load, self.stop_at = world, load, stop_at
        self.now = 0.0
        self.num_calls = 0
        self.num_scores = 0

    def clock(self) -> float:
        return self.now

    def stats(self) -> Any:
        return SimpleNamespace(busy_s=self.now)

    def score(self, prompt: Sequence[int], answer: Sequence[int], *, mc_num: int, seed: int) -> Any:
        """Token 7 is likely, token 8 is not."""
        self.num_scores += 1
        return SimpleNamespace(log_likelihood=sum({7: -1.0, 8: -3.0, 9: -0.5}.get(token, 0.0) for token in answer))

    def generate(self, prompts: Sequence[Any], params: Sequence[SamplingParams]) -> list[RequestOutput]:
        self.num_calls += 1
        if self.num_calls == self.stop_at:
            raise KeyboardInterrupt
        outputs = []
        for prompt, chosen in zip(prompts, params, strict=True):
            share, seconds = self.world(chosen)
            self.now += round(1024 * seconds * self.load(self.num_calls)) / 1024  # sums of these are exact
            is_right = (
                random.Random(f"{prompt} {chosen.threshold} {chosen.cache} {chosen.block_length}").random() < share
            )
            outputs.append(output_of(prompt, chosen, is_right=is_right))
        return outputs


def output_of(prompt: str, params: SamplingParams, *, is_right: bool) -> RequestOutput:
    stats = DiffusionStats(5, 1, TOKENS / 5, 0, 0, TOKENS, TOKENS, 0, None, None)
    text, token = ("right", 7) if is_right else ("wrong", 8)
    completion = CompletionOutput(0, text, [token] * TOKENS, "stop", None, 0, None, None, stats)
    return RequestOutput("r", prompt, [3, 4], [completion], params, RequestMetrics(0.0, 0.0, 0.0))


def run(engine: FakeEngine, folder: Path, *, count: int = 400, has_answers: bool = True, **given: Any) -> TuneReport:
    """`tune` over as many questions, with the arguments that a test does not care for."""
    arguments: dict[str, Any] = {
        "model": folder,
        "defaults": SamplingParams().over(SamplingParams()),
        "machine": MACHINE,
        "most_batch": 8,
        "judge": None,
        "params": SamplingParams(gen_length=32),
        "settings": None,
        "budget_s": 2000.0,
        "keep": 0.97,
        "batch": None,
        "out": None,
        "restart": False,
        "tell": None,
        "clock": engine.clock,
    }
    prompts = [f"question {index}" for index in range(count)]
    answers = ["right"] * count if has_answers else None
    folder.mkdir(exist_ok=True)
    return tune(engine, lambda prompts, params: None, prompts, answers, **{**arguments, **given})


def figures(report: TuneReport) -> Mapping[str, Any]:
    """What must be the same for the same trials."""
    return {name: value for name, value in report.to_dict().items() if name != "files"}
