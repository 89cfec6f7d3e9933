"""verify: whether a model folder is whole and sound, and answers as the model that the folder was made from.

Whole: the lengths and SHA-256 of the manifest, the tensors that config.json calls for. Sound: finite values, usable
scales. Agreement: the two models' logits side by side, on masked positions of answers that the source model gives.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine import Engine
from ..errors import ConfigError, LladaRtError
from ..excerpt import excerpt
from ..folder import quantize
from ..folder.checkpoint import FLOATS, StoredTensor, read_checkpoint
from ..folder.model_files import check_folder, read_json, read_manifest, resolve_file, unknown_keys_text
from ..outputs import RequestOutput
from ..params import SamplingParams
from ..runtime.runner import describe_model
from .inspection import layout_faults

# Asked of a model that nobody gave prompts for.
DEFAULT_PROMPTS = (
    "Write one sentence about the sea.",
    "What is 17 + 25?",
    "Name three colours of the rainbow.",
    "Translate into French: good morning.",
    "床前明月光的下一句是什么？ 直接输出句子即可。",
    "用一句话介绍北京。",
    "def fibonacci(n):",
    "Why is the sky blue?",
)
HIDDEN_SHARES = (1.0, 0.5, 0.2)  # of an answer's positions, masked anew before the two models are compared
MAX_ANSWER = 32
IDS_LENGTH, IDS_COUNT = 32, 4  # of the random prompts for a model without a tokenizer


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at; `is_good` None: there was nothing to look at."""

    name: str
    is_good: bool | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return {"check": self.name, "ok": self.is_good, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a model agrees with its source, over `num_positions` masked positions."""

    num_positions: int
    top1: float  # share of positions with the same largest logit
    max_difference: float  # between two logits of a token
    mean_kl: float  # nats, of the source's distribution to the model's
    equal_tokens: float  # share of answer tokens that come out the same from both

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def verify_folder(model_dir: str | os.PathLike[str]) -> list[Check]:
    """Checks of the files alone. A folder without a usable config.json raises ModelError."""
    folder = Path(model_dir)
    description = describe_model(folder)
    keys = unknown_keys_text(description.model) or "every key is known"
    checks = [Check("config", True, keys), _guarded("files", lambda: _check_files(folder))]
    tensors: dict[str, StoredTensor] = {}

    def check_layout() -> Check:
        tensors.update(read_checkpoint(folder))
        faults = layout_faults(description, tensors, quantize.stored_type(read_json(folder, "config.json")))
        return _of_faults("tensors", faults, f"{len(tensors)} with the names, shapes and types expected")

    checks.append(_guarded("tensors", check_layout))
    checks.append(_guarded("values", lambda: _check_values(tensors)))
    return checks


def compare(engine: Engine, source: Engine, prompts: Sequence[str] | None = None) -> Agreement:
    """Both engines stay open. `prompts`: texts; None: DEFAULT_PROMPTS, or random ids for a model without a tokenizer.

    The source answers each prompt. A share of the answer's positions is masked again (HIDDEN_SHARES, chosen by a fixed
    seed), and both models give logits for the masked positions.
    """
    if engine.vocab_size != source.vocab_size or engine.mask_token_id != source.mask_token_id:
        raise ConfigError(
            f"expected models of one vocabulary, got {engine.vocab_size} tokens with mask {engine.mask_token_id} and "
            f"{source.vocab_size} with mask {source.mask_token_id}"
        )
    requests, params = _requests(source, prompts), _params(source)
    answers, ours = source.generate(requests, params), engine.generate(requests, params)
    equal = [
        token == other
        for answer, mine in zip(answers, ours, strict=True)
        for token, other in zip(answer.outputs[0].token_ids, mine.outputs[0].token_ids, strict=False)
    ]
    totals = _Totals()
    for canvas, hidden in _canvases(source.mask_token_id, answers):
        totals.add(engine.forward(canvas)[hidden], source.forward(canvas)[hidden])
    return totals.agreement(sum(equal) / max(1, len(equal)))


class _Totals:
    """Sums over positions."""

    def __init__(self) -> None:
        self.num_positions = self.num_same = 0
        self.max_difference = self.kl = 0.0

    def add(self, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> None:
        """Logits (positions, vocabulary) of both."""
        self.num_positions += len(ours)
        self.num_same += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        self.max_difference = max(self.max_difference, float(np.abs(ours - theirs).max(initial=0)))
        log_p, log_q = (_log_softmax(logits) for logits in (theirs, ours))
        self.kl += float((np.exp(log_p) * (log_p - log_q)).sum())

    def agreement(self, equal_tokens: float) -> Agreement:
        n = max(1, self.num_positions)
        return Agreement(self.num_positions, self.num_same / n, self.max_difference, self.kl / n, equal_tokens)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted: NDArray[np.float64] = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    total: NDArray[np.float64] = np.exp(shifted).sum(-1, keepdims=True)
    return shifted - np.log(total)


def _requests(engine: Engine, prompts: Sequence[str] | None) -> list[Any]:
    if engine.tokenizer is None:
        if prompts is not None:
            raise ConfigError("expected a model with a tokenizer for prompts of text, got one without")
        special = {engine.mask_token_id, *engine.end_token_ids}
        plain = [token for token in range(min(engine.vocab_size, 4096)) if token not in special]
        length = min(IDS_LENGTH, engine.max_length // 4)
        return [np.random.default_rng(seed).choice(plain, length).tolist() for seed in range(IDS_COUNT)]
    texts = DEFAULT_PROMPTS if prompts is None else prompts
    if engine.has_chat_template:
        return [{"messages": [{"role": "user", "content": text}]} for text in texts]
    return list(texts)


def _params(engine: Engine) -> SamplingParams:
    """The model's own way of decoding, of answers short enough for a large model on a small machine."""
    params = engine.default_params
    if params.gen_length <= MAX_ANSWER:
        return params
    return params.replace(gen_length=MAX_ANSWER, steps=None, block_length=None)


def _canvases(mask_id: int, answers: Sequence[RequestOutput]) -> Iterator[tuple[list[int], list[int]]]:
    """(tokens, masked positions) of each answer at each share; what an early end left out is masked always."""
    for seed, answer in enumerate(answers):
        start, length = len(answer.prompt_token_ids), answer.params.gen_length
        tokens = answer.outputs[0].token_ids[:length]
        response = [*tokens, *[mask_id] * (length - len(tokens))]
        order = np.random.default_rng(seed).permutation(length)
        for share in HIDDEN_SHARES:
            hidden = {int(position) for position in order[: math.ceil(share * length)]}
            shown = [mask_id if position in hidden else token for position, token in enumerate(response)]
            masked = [start + position for position, token in enumerate(shown) if token == mask_id]
            yield [*answer.prompt_token_ids, *shown], masked


# ---------------------------------------------------------------- the files


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except LladaRtError as error:
        return Check(name, False, str(error))


def _of_faults(name: str, faults: Sequence[str], good: str) -> Check:
    if not faults:
        return Check(name, True, good)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Check(name, False, faults[0] + more)


def _check_files(folder: Path) -> Check:
    manifest = read_manifest(folder)
    if manifest is None:
        return Check("files", None, "no llada_rt.json: not a converted folder, no checksums to compare")
    check_folder(folder)  # lengths first: they say best what a folder cut short lacks
    faults = []
    for name, record in manifest.items():
        path = resolve_file(folder, name)
        assert path is not None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != record.sha256:
            faults.append(f"{excerpt(name)}: expected SHA-256 {excerpt(record.sha256[:16])}..., got {digest[:16]}...")
    return _of_faults("files", faults, f"{len(manifest)} with the checksums of llada_rt.json")


def _check_values(tensors: Mapping[str, StoredTensor]) -> Check:
    if not tensors:
        return Check("values", None, "no tensors to read")
    faults = [fault for tensor in tensors.values() if (fault := _value_fault(tensor)) is not None]
    return _of_faults("values", faults, "all finite, scales positive")


def _value_fault(tensor: StoredTensor) -> str | None:
    name, dtype = excerpt(tensor.spec.name), tensor.spec.dtype
    if dtype in FLOATS:
        bad = sum(int((~np.isfinite(block)).sum()) for block in tensor.float_blocks())
        if bad:
            return f"{name}: expected finite values, got NaN or infinity {bad} times"
        if tensor.spec.name.endswith(quantize.SCALES) and any((block <= 0).any() for block in tensor.float_blocks()):
            return f"{name}: expected positive scales"
    elif dtype == "I8" and any((block == -128).any() for block in tensor.blocks()):
        return f"{name}: expected integers from -127 to 127, got -128"
    elif dtype == "U8" and any(((block & 15) == 0).any() or (block < 16).any() for block in tensor.blocks()):
        return f"{name}: expected halves from 1 to 15, got 0"
    return None
