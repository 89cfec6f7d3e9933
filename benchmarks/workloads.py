"""What is asked of whom: the folders of a masked model and of its autoregressive twin, questions, and what is right."""

import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.baselines.contract import Answer, Question
from benchmarks.engine_system import Engines, EngineSystem
from benchmarks.measure import Check, Entry, Exam, Judge, all_tokens, any_answer
from benchmarks.questions import PAIRS, Pair, fixed_questions
from benchmarks.shapes import SHAPES
from llada_rt.options.precedence import RULES
from llada_rt.runtime.runner import describe_model

CHECKED = 20  # answers that are held against the slow loop in torch
ORDINARY = 1 << 15  # random prompts are of the first so many tokens
ALIKE = 0.9  # of an ARM's answers: rounding may turn a few
ROUNDED = 0.5  # of ours with rounded weights: a masked model that is unsure turns more often


@dataclass(frozen=True)
class Workload:
    """`arm` is None where a model has no twin. `stop_ids` is empty for fixed work: no end token ends it."""

    name: str
    about: str
    mdm: Path
    arm: Path | None
    questions: Sequence[Question]
    stop_ids: tuple[int, ...] = ()
    judge: Judge | None = None
    check: Check = any_answer
    setting: Mapping[str, Any] | None = None  # what rows say of it
    reference: Callable[[], list[tuple[int, ...]]] | None = None  # the first answers, by the published loop in torch
    exam: Exam | None = None
    encode: Callable[[str], Sequence[int]] | None = None  # text -> token ids, where there is a tokenizer
    vocabulary: int = ORDINARY
    is_fixed: bool = False  # no end token ends an answer

    @property
    def twin(self) -> Path:
        """`arm`, where somebody asks it."""
        if self.arm is None:
            raise ValueError(f"{self.name}: expected a model with an autoregressive twin, which it has not")
        return self.arm

    def ours(
        self,
        name: str,
        engines: Engines,
        engine_options: Mapping[str, Any],
        params_options: Mapping[str, Any],
        setting: Mapping[str, Any] | None = None,
    ) -> Entry:
        """The Engine with these options. A setting that claims to be the published loop is held against it."""
        entry = Entry(
            name,
            lambda: EngineSystem(
                name, self.mdm, engine_options, params_options, stop_ids=self.stop_ids, engines=engines
            ),
            {**(self.setting or {}), **engine_options, **params_options, **(setting or {})},
            self.check,
            self.judge,
        )
        if self.reference is None or not is_exact(params_options):
            return entry
        at_least = 1.0 if engine_options.get("compute_type") == "float32" else ROUNDED
        return replace(entry, check=agrees_with(self.reference, at_least))


def is_exact(params: Mapping[str, Any]) -> bool:
    """Whether decoding is the published loop's with all positions in one block: no cache, one token a step."""
    return params.get("preset", "reference") == "reference" and not (
        {*RULES, "steps", "block_length"} & params.keys() or params.get("cache", "none") != "none"
    )


def agrees_with(reference: Callable[[], list[tuple[int, ...]]], at_least: float) -> Check:
    """That this share of the first answers are the reference's, token for token."""

    def check(answers: Sequence[Answer]) -> str | None:
        expected = reference()
        if len(answers) < len(expected):
            return f"{len(answers)} answers, expected at least {len(expected)}"
        same = sum(answer.tokens == tokens for answer, tokens in zip(answers, expected, strict=False))
        if same >= at_least * len(expected):
            return None
        return f"{same} of {len(expected)} answers are those of the reference, expected {at_least:.0%}"

    return check


def pair_workload(name: str, num_questions: int, *, num_examined: int = 0) -> Workload:
    """A trained pair of `questions.PAIRS`; with an exam of more questions than are timed."""
    whole = PAIRS[name](max(num_questions, num_examined))
    pair = whole.some(num_questions)
    return Workload(
        name,
        pair.about,
        pair.mdm,
        pair.arm,
        pair.questions,
        pair.stop_ids,
        pair.judge,
        setting={"pair": name, "about": pair.about},
        exam=Exam(whole.questions, whole.judge) if num_examined > num_questions else None,
        reference=cache(lambda: _published_answers(pair)),
        encode=lambda text: pair.tokenizer.encode(text, add_special_tokens=False).ids,
        vocabulary=pair.tokenizer.get_vocab_size(),
    )


def _published_answers(pair: Pair) -> list[tuple[int, ...]]:
    from training.evaluation import torch_sampler
    from training.model import LLaDA

    items = pair.items[:CHECKED]
    canvases = torch_sampler(LLaDA.from_folder(pair.mdm))(items)
    answers = []
    for item, canvas in zip(items, canvases, strict=True):
        answer = list(canvas[item.start :])
        end = next((i for i, token in enumerate(answer) if token in pair.stop_ids), len(answer))
        answers.append(tuple(answer[:end]))
    return answers


@contextmanager
def shape_workload(
    name: str, *, prompt_length: int = 64, num_tokens: int = 128, count: int = 1, arm: bool = True
) -> Iterator[Workload]:
    """Fixed work: random weights of a shape of `shapes.SHAPES`, and the same weights read as an ARM."""
    shape = SHAPES[name]
    length = max(shape.config.max_sequence_length, prompt_length + num_tokens)
    with tempfile.TemporaryDirectory() as place:
        mdm = shape.write(Path(place) / "mdm")
        config = replace(shape.config, max_sequence_length=length)
        (mdm / "config.json").write_text(config.to_json("bfloat16"))
        twin = Path(place) / "arm"
        if arm:
            twin.mkdir()
            (twin / "config.json").write_text(replace(config, causal=True).to_json("bfloat16"))
            os.link(mdm / "model.safetensors", twin / "model.safetensors")
        yield Workload(
            name,
            "random weights",
            mdm,
            twin if arm else None,
            fixed_questions(shape, prompt_length=prompt_length, num_tokens=num_tokens, count=count),
            check=all_tokens(num_tokens),
            vocabulary=shape.vocab_size,
            is_fixed=True,
            setting={"shape": name, "prompt_length": prompt_length, "num_tokens": num_tokens},
        )


def folder_workload(folder: Path, *, prompt_length: int, num_tokens: int, count: int) -> Workload:
    """A model of the user's, asked random tokens. What its answers are worth is not judged."""
    facts = describe_model(folder).model
    special = {facts.get(name) for name in ("mask_token_id", "eos_token_id", "eot_token_id")}
    choice = random.Random(0)
    ordinary = [token for token in range(min(facts["vocab_size"], ORDINARY)) if token not in special]
    prompts = [choice.choices(ordinary, k=prompt_length) for _ in range(count)]
    questions = [Question(tuple(prompt), num_tokens) for prompt in prompts]
    return Workload(
        str(folder), "random prompts", folder, None, questions, setting={"model": str(folder)}, vocabulary=len(ordinary)
    )
