"""What is asked: prompts with the options that are their own, and the right answers where they are known."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidRequestError, LladaRtError
from ..excerpt import excerpt_of
from ..params import SamplingParams
from .space import OPEN, Options

Judge = Callable[[Any, str], float]  # (the answer as it was given, the text) -> whether it is right, or a share of that

TEMPLATE_LENGTH = 4096  # a template is as long as it is: no block is cut to fit


@dataclass(frozen=True, slots=True)
class Question:
    """`index`: where it was in the list. `length`: positions of the answer. `answer`: what is right, in the form of the
    judge; None if nobody knows.
    """

    index: int
    prompt: Any
    own: Options
    length: int
    answer: Any


def questions_of(
    prompts: object, answers: object, params: object, defaults: SamplingParams, judge: Judge | None
) -> list[Question]:
    """Checked questions, in a mixed order that is always the same: files are often sorted by task."""
    if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Sequence) or not prompts:
        got = "none" if isinstance(prompts, Sequence) and not prompts else excerpt_of(prompts)
        raise InvalidRequestError(
            f"prompts: expected a list of prompts, got {got}",
            param="prompts",
            hint="give some dozens of the kind that the model is to answer",
        )
    if all(isinstance(prompt, int) for prompt in prompts):
        raise InvalidRequestError(
            "prompts: expected a list of prompts, got token ids", param="prompts", hint="put the ids into a list"
        )
    count = len(prompts)
    known = _answers(answers, count, judge)
    own = [_own(one, f"params[{index}]") for index, one in enumerate(_each(params, count))]
    questions = []
    for index, (prompt, options, answer) in enumerate(zip(prompts, own, known, strict=True)):
        is_template = isinstance(prompt, Mapping) and "segments" in prompt and not prompt.get("open_end")
        length = TEMPLATE_LENGTH if is_template else options.get("gen_length", defaults.gen_length)
        questions.append(Question(index, prompt, {"seed": index, **options, "gen_length": length}, length, answer))
    random.Random(0).shuffle(questions)
    return questions


def digest(questions: Sequence[Question]) -> str:
    """A short text of the prompts, options and answers: other questions have another."""
    told = [(question.prompt, dict(question.own), question.answer) for question in questions]
    return hashlib.sha256(json.dumps(told, default=repr).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _each(params: object, count: int) -> list[SamplingParams]:
    if params is None:
        return [SamplingParams()] * count
    if isinstance(params, SamplingParams):
        return [params] * count
    if not isinstance(params, (list, tuple)) or not all(isinstance(one, SamplingParams) for one in params):
        raise InvalidRequestError(f"params: expected SamplingParams, got {type(params).__name__}", param="params")
    if len(params) != count:
        raise InvalidRequestError(
            f"params: expected one, or one for each of {count} prompts, got {len(params)}", param="params"
        )
    return list(params)


def _own(params: SamplingParams, place: str) -> dict[str, Any]:
    for name in params.given:
        if name not in OPEN:
            raise InvalidRequestError(
                f"{place}: expected options that tune leaves alone, got {name}",
                param=name,
                hint=f"leave {name} out; {', '.join(OPEN)} may be given",
            )
    return dict(params.given)


def _answers(answers: object, count: int, judge: Judge | None) -> list[Any]:
    if answers is None:
        if judge is not None:
            raise InvalidRequestError(
                "judge: expected answers beside it, got none", param="judge", hint="without answers leave judge out"
            )
        return [None] * count
    if isinstance(answers, (str, bytes)) or not isinstance(answers, Sequence):
        raise InvalidRequestError(
            f"answers: expected a list with one for each prompt, got {excerpt_of(answers)}", param="answers"
        )
    if len(answers) != count:
        raise InvalidRequestError(
            f"answers: expected one for each of {count} prompts, got {len(answers)}", param="answers"
        )
    missing = [index for index, answer in enumerate(answers) if answer is None]
    if len(missing) == count:
        return _answers(None, count, judge)
    if missing:
        raise InvalidRequestError(
            f"answers: expected one for each prompt or none at all, got {count - len(missing)} for {count} prompts; "
            f"prompts[{missing[0]}] has none",
            param="answers",
            hint="leave out the prompts without an answer, or all answers: then the exact decoder's answers count",
        )
    return list(answers) if judge is not None else [_accepted(each, index) for index, each in enumerate(answers)]


def _accepted(answer: object, index: int) -> list[str]:
    """Texts that are right, without the white space around them."""
    texts = [answer] if isinstance(answer, str) else answer
    if not isinstance(texts, (list, tuple, set, frozenset)) or not texts or not all(isinstance(t, str) for t in texts):
        raise InvalidRequestError(
            f"answers[{index}]: expected a text or a list of texts that are right, got {excerpt_of(answer)}",
            param="answers",
            hint="a judge takes answers of any other form",
        )
    return sorted({text.strip() for text in texts})


def exact_match(answer: Sequence[str], text: str) -> float:
    """The judge where the caller brings none: one of the accepted texts, white space around it aside."""
    return float(text.strip() in answer)


def judged(judge: Judge, answer: Any, text: str) -> float:
    """What a judge says, checked."""
    try:
        said = judge(answer, text)
    except LladaRtError:
        raise
    except Exception as error:
        raise InvalidRequestError(
            f"judge: expected whether a text is right, got {type(error).__name__}: {excerpt_of(str(error))}",
            param="judge",
        ) from error
    try:
        score = float(said)
    except (TypeError, ValueError):
        score = -1.0
    if not 0 <= score <= 1:
        raise InvalidRequestError(
            f"judge: expected True, False or a number from 0 to 1, got {excerpt_of(said)}", param="judge"
        )
    return score
