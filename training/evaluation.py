"""How a model folder answers a task, and how likely it finds the right answers.

A masked model answers through the compiled runtime (`llada_rt`, its public API only) or the plain loop of sampling.py,
an ARM through arm.py. An answer is right or not: exact match, or whatever the task accepts. The likelihood is the Monte
Carlo bound of a masked model, the perplexity of an ARM.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from training import arm, likelihood, sampling
from training.model import LLaDA, ModelConfig
from training.rows import RowConfig, read_records
from training.tasks import TASK_NAMES, Split, find_task
from training.tasks.items import Item, Sampler, Tally, ask, encode_rows, make_items
from training.vocabulary import Vocabulary, open_vocabulary

if TYPE_CHECKING:
    from llada_rt import Engine

UNLIKE_REFERENCE = ("cache", "threshold", "factor")  # options that the published loop does not have


def torch_sampler(model: LLaDA) -> Sampler:
    """One block, one token a step: a prompt followed by masks and a template with holes are the same canvas."""
    return lambda items: sampling.infill(model, [item.canvas for item in items])


def arm_sampler(model: LLaDA, stop_ids: Sequence[int]) -> Sampler:
    """Greedy, up to as many tokens as the canvas has masks. ValueError for a template: an ARM has no way to fill it."""

    def answer(items: Sequence[Item]) -> list[list[int]]:
        if templates := [item.task for item in items if item.start == 0]:
            raise ValueError(f"{templates[0]}: a template with holes; an ARM writes from left to right only")
        filled: list[list[int]] = [[]] * len(items)
        by_length: dict[int, list[int]] = {}
        for index, item in enumerate(items):
            by_length.setdefault(len(item.canvas) - item.start, []).append(index)
        for length, indices in by_length.items():
            prompts = [items[index].canvas[: items[index].start] for index in indices]
            answers = arm.generate(model, prompts, max_new_tokens=length, stop_ids=stop_ids)
            for index, prompt, tokens in zip(indices, prompts, answers, strict=True):
                filled[index] = [*prompt, *tokens]
        return filled

    return answer


class EngineSampler:
    """The compiled runtime through its public API; counts tokens and forwards.

    options: SamplingParams beside the length. Without any, the published loop: one block, one token a step.
    """

    def __init__(self, engine: "Engine", options: Mapping[str, Any]) -> None:
        self.engine, self.options = engine, dict(options)
        self.num_tokens = self.num_forwards = 0

    def __call__(self, items: Sequence[Item]) -> list[list[int]]:
        prompts, params = zip(*map(self.request, items), strict=True)
        outputs = [output.outputs[0] for output in self.engine.generate(list(prompts), list(params))]
        self.num_tokens += sum(item.canvas.count(self.engine.mask_token_id) for item in items)
        self.num_forwards += sum(output.diffusion.nfe for output in outputs)
        return [[*item.canvas[: item.start], *output.token_ids] for item, output in zip(items, outputs, strict=True)]

    def request(self, item: Item) -> tuple[dict[str, Any], Any]:
        """An answer as generation after a prompt, a template as segments; either way one block unless options say."""
        from llada_rt import SamplingParams

        length = len(item.canvas) - item.start
        preset = "quality" if set(UNLIKE_REFERENCE) & set(self.options) else "reference"
        params = SamplingParams(**{"preset": preset, "gen_length": length, "block_length": length, **self.options})
        if item.start:
            return {"prompt_token_ids": list(item.canvas[: item.start])}, params
        return {"segments": segments(item.canvas, self.engine.mask_token_id)}, params

    @property
    def tokens_per_forward(self) -> float:
        return self.num_tokens / self.num_forwards


def segments(canvas: Sequence[int], mask_id: int) -> list[list[int] | int]:
    """Token ids with masks -> alternating runs: lists of given ids, numbers of holes."""
    runs = itertools.groupby(canvas, key=lambda token: token == mask_id)
    return [len(list(run)) if hidden else list(run) for hidden, run in runs]


# ------------------------------------------------------------------------------------------------------ one evaluation


def load_items(
    task: str,
    source: Tokenizer | Vocabulary,
    *,
    num: int,
    seed: int,
    chat: bool,
    gen_length: int | None,
    split: Split = "test",
) -> tuple[list[Item], list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    """The questions, and (prompt, answer) tokens of each for the likelihood. `num`: rows taken of a file."""
    config = RowConfig(chat=chat)
    if task in TASK_NAMES:
        chosen = find_task(task)
        rows = [(f"{task}:{i}", row) for i, row in enumerate(chosen.generate(seed, num, split), 1)]
        check = chosen.check
    else:
        path = Path(task)
        if not path.suffix:
            raise ValueError(f"task: expected a file, 'verse' or one of {list(TASK_NAMES)}, got {task!r}")
        rows, check = list(itertools.islice(read_records(path, config), num)), None
        if not rows:
            raise ValueError(f"{path}: no rows")
    items = make_items(task, rows, source, config, gen_length=gen_length, check=check)
    return items, [(example.prompt, example.answer) for example in encode_rows(rows, source, config)]


def evaluate(
    folder: Path,
    items: Sequence[Item],
    *,
    options: Mapping[str, Any] | None = None,
    torch_loop: bool = False,
    compute_type: str = "float32",
) -> tuple[dict[str, Tally], dict[str, Any]]:
    """(right and asked per task, facts of the run) of a model folder. An ARM leaves templates out.

    options: SamplingParams of the runtime beside the length; only the runtime has any.
    """
    vocabulary = open_vocabulary(folder)
    config = ModelConfig.from_json(folder / "config.json")
    facts: dict[str, Any] = {}
    if options and (config.causal or torch_loop):
        raise ValueError(f"options: expected none, as they are the runtime's, got {dict(options)}")
    began = time.perf_counter()
    if config.causal:
        answerable = [item for item in items if item.start]
        if not answerable:
            raise ValueError("these are templates with holes; an ARM writes from left to right only")
        if len(answerable) < len(items):
            facts["templates left out"] = len(items) - len(answerable)
        tallies = ask(answerable, vocabulary, arm_sampler(LLaDA.from_folder(folder), vocabulary.end_ids))
        facts["setting"] = "ARM, greedy"
    elif torch_loop:
        tallies = ask(items, vocabulary, torch_sampler(LLaDA.from_folder(folder)))
        facts["setting"] = "torch loop"
    else:
        from llada_rt import Engine

        arithmetic: dict[str, Any] = {"compute_type": compute_type}  # the engine checks it
        with Engine(str(folder), **arithmetic) as engine:
            sampler = EngineSampler(engine, options or {})
            began = time.perf_counter()
            tallies = ask(items, vocabulary, sampler)
        facts["setting"] = ", ".join(["runtime", *(f"{k}={v}" for k, v in (options or {}).items())])
        facts["tokens_per_forward"] = sampler.tokens_per_forward
    facts["seconds"] = time.perf_counter() - began
    return tallies, facts


def evaluate_likelihood(
    folder: Path,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    num_draws: int,
    estimator: likelihood.Estimator,
    seed: int = 0,
) -> dict[str, Any]:
    """Nats per answer token and their standard error: a bound for a masked model, exact for an ARM."""
    model = LLaDA.from_folder(folder)
    if model.config.causal:
        exact = arm.perplexity(model, rows)
        return {"kind": "exact", **asdict(exact), "perplexity": exact.perplexity}
    found = likelihood.bound(model, rows, num_draws=num_draws, estimator=estimator, seed=seed)
    return {"kind": "upper bound", "estimator": estimator, **asdict(found), "perplexity": found.perplexity}
