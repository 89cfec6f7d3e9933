"""lm-evaluation-harness runs its tasks on an Engine: model `llada_rt` (the package's extra `eval`).

    python -m llada_rt.tools.lm_eval_adapter run --model llada_rt --model_args model_dir=DIR,mc_num=128 --tasks arc_easy

From Python: `lm_eval.simple_evaluate(model=LladaRtLM("DIR"), tasks=[...])`. Contexts and continuations are encoded as
LLaDA's own evaluation does (ML-GSAI/LLaDA, eval_llada.py). One thing is different: a request's noise is keyed by its
content, so that no result depends on which other requests are asked, or in which order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

try:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ImportError("lm-evaluation-harness is missing: pip install 'llada-rt[eval]'") from error

from ..config import EngineConfig
from ..engine import Engine
from ..errors import ChatTemplateError, ConfigError, ContextLengthError, TokenizerError
from ..options import renamed
from ..params import ALIASES, SamplingParams

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from ..text.tokenizer import Tokenizer

_logger = logging.getLogger(__name__)
_ENGINE_OPTIONS = {field.name for field in dataclasses.fields(EngineConfig)} - {"model_dir"} | set(renamed.ENGINE)
_PARAMS = {field.name for field in dataclasses.fields(SamplingParams)} - {"seed", "cfg_scale"} | set(ALIASES)
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the harness's order
_MOST_TOLD = 10  # documents named in a warning
_TOGETHER = 64  # generation requests handed to the engine in one call


class LladaRtLM(LM):
    """An Engine behind the harness's three methods.

    Args:
        model_dir: The model folder. None: the demo model that comes with the package.
        mc_num: Draws of a likelihood, as in `Engine.score`.
        seed: Seed of the draws and of the noise of generation.
        cfg_scale: Classifier-free guidance, in likelihoods and in generation.
        check_greedy: Answer whether a continuation is the greedy one, which costs a forward per token. False answers
            "no", as LLaDA's script recommends.
        batch_size: Accepted for the harness's sake: the engine batches by itself.
        max_batch_size: Accepted too.
        device: "cpu", or else the engine's own choice, for the harness says "cuda:0" when nobody has asked for one.
        **options: Options of EngineConfig and SamplingParams. A `gen_length` is used for every task, as LLaDA's
            settings are. Without one the task's own limit is used, and failing that the model's default.
    """

    def __init__(
        self,
        model_dir: str | None = None,
        *,
        mc_num: int = 128,
        seed: int = 0,
        cfg_scale: float = 0.0,
        check_greedy: bool = False,
        batch_size: object = None,
        max_batch_size: object = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        unknown = set(options) - _ENGINE_OPTIONS - _PARAMS
        if unknown:
            raise ConfigError(f"unknown model argument {sorted(unknown)[0]!r}", param=sorted(unknown)[0])
        engine_options = {name: options.pop(name) for name in list(options) if name in _ENGINE_OPTIONS}
        engine_options["device"] = "cpu" if device == "cpu" else "auto"
        self.mc_num, self.seed, self.cfg_scale, self.check_greedy = mc_num, seed, cfg_scale, check_greedy
        self.num_merged = 0  # continuations so far that merge with their context, see _tell_merged
        self.engine = Engine(model_dir, **engine_options)
        self._has_length = any(ALIASES.get(name, name) == "gen_length" for name in options)
        self.params = self.engine.default_params.replace(**options, cfg_scale=cfg_scale)

    # ---------------------------------------------------------------- likelihood

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """(log p(continuation | context), is it the greedy one) of each; all are checked before the first is run."""
        encoded = [self._encode_pair(*request.args) for request in requests]
        for context, continuation, _ in encoded:
            self._check_length(context, continuation)
        self._tell_merged([request for request, pair in zip(requests, encoded, strict=True) if pair[2]], len(requests))
        results = []
        for request, (context, continuation, _) in zip(requests, encoded, strict=True):
            if continuation:
                result = self._log_likelihood(context, continuation), self._is_greedy(context, continuation)
            else:
                result = 0.0, True  # no token, whose probability is one
            self.cache_hook.add_partial("loglikelihood", request.args, result)
            results.append(result)
        return results

    def _tell_merged(self, merged: Sequence[Instance], num_requests: int) -> None:
        """Count the continuations whose score is that of other tokens than those of their text, and say which."""
        self.num_merged += len(merged)
        if not merged:
            return
        names = [f"{request.task_name or 'a request'}, document {request.doc_id}" for request in merged[:_MOST_TOLD]]
        more = f" and {len(merged) - _MOST_TOLD} more" if len(merged) > _MOST_TOLD else ""
        _logger.warning(
            "%d of %d continuations share a token with the end of their context; as in the harness, their score is "
            "that of the tokens after it: %s%s",
            *(len(merged), num_requests, "; ".join(names), more),
        )

    def loglikelihood_rolling(self, requests: Sequence[Instance]) -> list[float]:
        """log p(text) of each text, a lower bound in expectation.

        A text that is longer than the context is cut into windows of half a context, each given the window before.
        """
        results = []
        half = max(1, self.engine.max_length // 2)
        for request in requests:
            (text,) = request.args
            ids = self._tokenizer.encode(text)
            whole = self._tokenizer.encode_prompt(text)
            bos = whole[: len(whole) - len(ids)]  # given, as before any prompt
            step = half if len(whole) > self.engine.max_length else max(1, len(ids))
            result = sum(
                self._log_likelihood(ids[max(0, begin - half) : begin] or bos, ids[begin : begin + step])
                for begin in range(0, len(ids), step)
            )
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
            results.append(result)
        return results

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """LLaDA's pair encoding, which is the harness's own: trailing spaces of the context belong to the continuation;
        the ids of both together, from as many on as the context alone has, are the continuation's.
        """
        return self._encode_pair(context, continuation)[:2]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int], bool]:
        """The pair, and whether a token of the two together reaches over the seam. Where the rule then leaves the
        continuation nothing, it gets the tokens from the first one on that the context alone does not have.
        """
        bare = context.rstrip()
        context, continuation = bare, context[len(bare) :] + continuation
        whole, alone = (self._tokenizer.encode_prompt(text) for text in (context + continuation, context))
        is_merged = whole[: len(alone)] != alone or (len(whole) == len(alone) and continuation != "")
        if is_merged and len(whole) <= len(alone):
            pairs = enumerate(zip(whole, alone, strict=False))
            split = next((place for place, (a, b) in pairs if a != b), len(whole))
            return whole[:split], whole[split:], True
        return alone, whole[len(alone) :], is_merged

    def _log_likelihood(self, context: list[int], continuation: list[int]) -> float:
        seed = _seed_of(self.seed, context, continuation)
        score = self.engine.score(context, continuation, mc_num=self.mc_num, seed=seed, cfg_scale=self.cfg_scale)
        return score.log_likelihood

    def _is_greedy(self, context: list[int], continuation: list[int]) -> bool:
        """Whether one token a step, the surest first, writes the continuation."""
        if not self.check_greedy:
            return False
        length = len(continuation)
        params = SamplingParams(gen_length=length, cfg_scale=self.cfg_scale).over(SamplingParams())
        prompt = {"prompt_token_ids": context} if context else {"segments": [length]}
        return self.engine.generate(prompt, params)[0].outputs[0].token_ids == continuation

    def _check_length(self, context: list[int], continuation: list[int]) -> None:
        length = len(context) + len(continuation)
        if length > self.engine.max_length:
            raise ContextLengthError(
                f"{len(context)} tokens of context + {len(continuation)} of continuation = {length} are more than the "
                f"{self.engine.max_length} of the model's context",
                param="prompt",
                hint="fewer shots; nothing is cut silently",
            )

    # ---------------------------------------------------------------- generation

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The answer to each context, cut before the first of its stop strings."""
        seen: Counter[str] = Counter()
        prompts, params = [], []
        for request in requests:
            context, arguments = request.args
            key = json.dumps([context, arguments], sort_keys=True, default=str)
            prompts.append(context)
            params.append(self._params_of(arguments, _seed_of(self.seed, key, seen[key])))
            seen[key] += 1  # repeats of one request draw noise of their own
        results: list[str] = []
        for begin in range(0, len(requests), _TOGETHER):
            here = slice(begin, begin + _TOGETHER)
            for request, output in zip(requests[here], self.engine.generate(prompts[here], params[here]), strict=True):
                text = self._answer(output.outputs[0].token_ids, _stops(request.args[1]))
                self.cache_hook.add_partial("generate_until", request.args, text)
                results.append(text)
        return results

    def _params_of(self, arguments: Mapping[str, Any], seed: int) -> SamplingParams:
        changes: dict[str, Any] = {"seed": seed}
        limit = next((arguments[name] for name in _MAX_TOKENS if arguments.get(name) is not None), None)
        if limit is not None and not self._has_length:
            # One block, one token a step, unless the model arguments say more.
            changes |= {"gen_length": int(limit)} | {
                name: None for name in ("steps", "block_length") if getattr(self.params, name) == self.params.gen_length
            }
        if arguments.get("do_sample"):
            changes["temperature"] = float(arguments.get("temperature", 1.0))
            for name in ("top_p", "top_k", "min_p"):
                if name in arguments:
                    _logger.warning("%s=%r has no counterpart in llada-rt and is left out", name, arguments[name])
        return self.params.replace(**changes)

    def _answer(self, ids: list[int], stops: Iterable[str]) -> str:
        """Text before the first end token and the first stop string. Stop strings may be special tokens."""
        ends = self.engine.end_token_ids
        ids = ids[: next((index for index, token in enumerate(ids) if token in ends), len(ids))]
        text = self._tokenizer.decode(ids, skip_special_tokens=False)
        cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
        if cut < len(text):
            ids = self._tokenizer.encode(text[:cut])
        return self._tokenizer.decode(ids)

    # ---------------------------------------------------------------- chat

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the model's chat template writes it; an answer already begun comes after it."""
        begun = ""
        if not add_generation_prompt and chat_history and chat_history[-1]["role"] == "assistant":
            begun = chat_history[-1]["content"]
            chat_history = chat_history[:-1]
        return self._tokenizer.render_chat(chat_history) + begun

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """What the harness writes into its log: the template's source."""
        if isinstance(chat_template, str):
            raise ChatTemplateError("a model folder has one chat template; it cannot be chosen by name")
        return self._tokenizer.template_source or ""

    @property
    def tokenizer_name(self) -> str:
        """Keys the harness's cache of encoded requests."""
        return self.engine.config.model_dir.resolve().as_posix().replace("/", "__")

    @property
    def _tokenizer(self) -> Tokenizer:
        if self.engine.tokenizer is None:
            raise TokenizerError("the model folder has no tokenizer.json, which evaluation needs")
        return self.engine.tokenizer


def _stops(arguments: Mapping[str, Any]) -> list[str]:
    until = arguments.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def _seed_of(*content: object) -> int:
    """64 bits that depend on the content alone."""
    return int.from_bytes(hashlib.sha256(json.dumps(content).encode()).digest()[:8], "little")


def main() -> None:
    """The harness's command line, which knows the model `llada_rt`."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    # Run as a script this file is another module than the one that has registered the model.
    from llada_rt.tools import lm_eval_adapter

    lm_eval_adapter.main()
else:
    register_model("llada_rt", "llada-rt")(LladaRtLM)
