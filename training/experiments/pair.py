"""A pair: a masked model and its autoregressive twin learn the same rows and are examined while they learn.

    python -m training.experiments.pair training/recipes/sudoku_pair --out runs/sudoku_pair --threads 2

The folder holds mdm.toml and arm.toml: the same task, the same sizes, one of them `causal`. Every `sample_every` steps
each answers `--curve` questions that no training row gives away (exam.jsonl); in the end both answer `--num`, the
masked model through the runtime in several settings, and their likelihood is taken. results.json holds it all. The
same command goes on where it was stopped.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from training.distributed import World
from training.evaluation import arm_sampler, evaluate, evaluate_likelihood, load_items, torch_sampler
from training.model import LLaDA
from training.objectives import choose_objective
from training.progress import read_metrics
from training.recipe import RunConfig, open_data, read_recipe, run_command, train_and_export
from training.tasks.items import Item, answer_text, ask
from training.tokenization import EOS_TOKEN, token_id
from training.trainer import Trainer

KINDS = ("mdm", "arm")
EXAM, RESULTS = "exam.jsonl", "results.json"
SETTINGS: dict[str, dict[str, Any]] = {  # of the runtime; the first is the published loop
    "reference": {},
    "threshold 0.9": {"threshold": 0.9},
    "dual cache, threshold 0.9": {"cache": "dual", "threshold": 0.9},
}
SHOWN = 4  # answers in samples.txt


class Exam:
    """Questions put to a model while it learns: a line of exam.jsonl each time, some answers as sample text."""

    def __init__(self, items: Sequence[Item], tokenizer: Tokenizer, folder: Path) -> None:
        self.items, self.tokenizer, self.folder = items, tokenizer, folder
        self.trainer: Trainer | None = None

    def __call__(self, model: LLaDA) -> str:
        assert self.trainer is not None
        if model.config.causal:
            sampler = arm_sampler(model, [token_id(self.tokenizer, EOS_TOKEN)])
        else:
            sampler = torch_sampler(model)
        answers: list[list[int]] = []

        def keep(items: Sequence[Item]) -> list[list[int]]:
            answers.extend(sampler(items))
            return answers

        (tally,) = ask(self.items, self.tokenizer, keep).values()
        trainer = self.trainer
        record = {"step": trainer.step, "tokens": trainer.num_tokens, "cpu_s": round(trainer.cpu_s, 1)}
        with (self.folder / EXAM).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "right": tally.right, "asked": tally.asked}) + "\n")
        trainer.progress.say(f"step {trainer.step}: {tally.right} of {tally.asked} right")
        shown = zip(self.items[:SHOWN], answers[:SHOWN], strict=True)
        return f"{tally.right} of {tally.asked} right\n" + "\n".join(
            f"{answer_text(self.tokenizer, item, answer)}  (right: {min(item.accepted)})" for item, answer in shown
        )


def check_pair(configs: Mapping[str, RunConfig]) -> None:
    """Same rows, same sizes, one of them causal: otherwise it is not a comparison."""
    mdm, arm = (configs[kind] for kind in KINDS)
    if mdm.data is None or mdm.data.task is None or mdm.data != arm.data:
        raise ValueError(f"expected one task and one [data] for both, got {mdm.data} and {arm.data}")
    if mdm.model is None or arm.model is None or mdm.model.causal or not arm.model.causal:
        raise ValueError("expected [model] in both, causal in arm.toml only")
    sizes = [{**vars_of(config.model), "causal": None} for config in (mdm, arm)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"expected models of one size, got {sizes[0]} and {sizes[1]}")


def vars_of(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}


def train(config: RunConfig, *, num_questions: int) -> bool:
    """One of the two, up to its exported folder; nothing if that is there. False if a signal stopped it."""
    assert config.data is not None
    assert config.data.task is not None
    if (config.out / "model" / "config.json").exists():
        return True
    world = World()
    data = open_data(config, world)
    items, _ = load_items(config.data.task, data.tokenizer, num=num_questions, seed=0, chat=False, gen_length=None)
    exam = Exam(items, data.tokenizer, config.out)

    def attach(trainer: Trainer) -> None:
        exam.trainer, trainer.samples = trainer, exam

    trainer = train_and_export(
        config, lambda model: choose_objective(model, config.train, "tokens"), world, data, ready=attach
    )
    return not trainer.interrupted


def examine(folder: Path, config: RunConfig, *, num: int, seed: int = 1) -> dict[str, Any]:
    """What a trained model of the pair can do: its curve, its answers to new questions, its likelihood."""
    assert config.data is not None
    assert config.data.task is not None
    model = folder / "model"
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    task = config.data.task
    items, rows = load_items(task, tokenizer, num=num, seed=seed, chat=False, gen_length=None)
    settings: dict[str, dict[str, Any]] = {"greedy": {}} if config.model and config.model.causal else SETTINGS
    answers: dict[str, dict[str, Any]] = {}
    for name, options in settings.items():
        tallies, facts = evaluate(model, items, options=options)
        tally = tallies[task]
        answers[name] = {
            "right": tally.right,
            "asked": tally.asked,
            "share": tally.share,
            "standard_error": tally.standard_error,
            **{key: round(facts[key], 3) for key in ("tokens_per_forward", "seconds") if key in facts},
        }
    last = read_metrics(folder)[-1]
    lines = (folder / EXAM).read_text(encoding="utf-8").splitlines()
    curve = {record["step"]: record for record in map(json.loads, lines)}  # a step done twice counts once
    parameters = LLaDA.from_folder(model).num_parameters
    return {
        "parameters": parameters,
        "train": {key: last[key] for key in ("step", "tokens", "cpu_s", "loss")},
        "answers": answers,
        "likelihood": evaluate_likelihood(model, rows, num_draws=128, estimator="counted"),
        "curve": [curve[step] for step in sorted(curve)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, help="folder with mdm.toml and arm.toml")
    parser.add_argument("--out", type=Path, required=True, help="folder of both runs")
    parser.add_argument("--only", choices=KINDS, help="train only this one; results come when both are there")
    parser.add_argument("--curve", type=int, default=128, help="questions at each point of the learning curve")
    parser.add_argument("--num", type=int, default=500, help="questions in the end")
    parser.add_argument("--threads", type=int, help="of torch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with run_command():
        configs = {
            kind: read_recipe(arguments.recipes / f"{kind}.toml", arguments.out / kind, RunConfig) for kind in KINDS
        }
        check_pair(configs)
        for kind in KINDS if arguments.only is None else (arguments.only,):
            if not train(configs[kind], num_questions=arguments.curve):
                return
        if any(not (config.out / "model" / "config.json").exists() for config in configs.values()):
            return
        results = {kind: examine(config.out, config, num=arguments.num) for kind, config in configs.items()}
        (arguments.out / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        for kind, result in results.items():
            for name, answer in result["answers"].items():
                print(f"{kind}, {name}: {100 * answer['share']:.1f} % of {answer['asked']}")


if __name__ == "__main__":
    main()
