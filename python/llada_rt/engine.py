"""Engine: prompts in, texts out. The one object that a program needs."""

from __future__ import annotations

import atexit
import dataclasses
import difflib
import inspect
import os
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from types import TracebackType
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .config import DEMO_DIR, ENGINE_FIELDS, EngineConfig, EngineOptions
from .errors import ConfigError, InvalidRequestError, ModelWarning
from .excerpt import excerpt_of
from .folder.model_files import check_folder, default_params, special_ids, unknown_keys_text
from .log import logger, tell_loaded, warn_of_folder
from .options import foreign
from .options.types import with_options
from .outputs import EngineStats, RequestOutput, ScoreOutput, StepEvent, TextEvent
from .params import SamplingParams
from .runtime.dispatcher import Dispatcher
from .runtime.generate_job import Event, StreamMode
from .runtime.intake import Intake
from .runtime.runner import Runner
from .text.requests import Prompt, RequestReader, Segments
from .text.tokenizer import Tokenizer

# Engines to close at exit: a daemon thread must not be inside the compiled loop when the interpreter is taken down.
_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _before_fork() -> None:
    for engine in list(_open_engines):
        engine._dispatcher.before_fork()


def _after_fork() -> None:
    for engine in list(_open_engines):
        engine._dispatcher.forked()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


@atexit.register
def _close_engines() -> None:
    for engine in list(_open_engines):
        engine.close()


class Engine:
    """A model, loaded, and the requests that run on it. A context manager.

    A thread of the engine's own runs the steps. Any thread may call the engine, and so may a signal handler, whatever
    it has interrupted; an exception in the middle of a call, KeyboardInterrupt too, takes out that call's requests
    after the step under way. The child of a fork may go on with an engine that was idle at the fork.

    `model_dir`: folder in the published Hugging Face layout; None: the demo model that comes with the package.
    The other options are the fields of EngineConfig.

    Raises ConfigError for an option that makes no sense, a ModelError or TokenizerError for a folder that cannot be
    used, DeviceError for a device or table that is not there, OutOfMemoryError.
    """

    def __init__(self, model_dir: str | os.PathLike[str] | None = None, **options: Unpack[EngineOptions]) -> None:
        began = time.perf_counter()
        names = list(ENGINE_FIELDS)
        for name in options:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"options are {', '.join(names)}"
                if name in foreign.ENGINE:
                    hint = f"it is {foreign.ENGINE[name]}"
                raise ConfigError(f"unknown engine option {excerpt_of(name)}", param=name, hint=hint)
        self.config = EngineConfig(DEMO_DIR if model_dir is None else model_dir, **options)  # type: ignore[arg-type]
        folder = check_folder(self.config.model_dir)
        self.config = dataclasses.replace(self.config, model_dir=folder)
        self._runner = Runner(self.config)
        try:
            unknown = unknown_keys_text(self._runner.config)
            if unknown:
                warnings.warn(unknown, ModelWarning, stacklevel=2)
            self.tokenizer = Tokenizer.load(folder)
            token_id = self.tokenizer.token_id if self.tokenizer else lambda token: None
            self._special = special_ids(self.config, folder, self._runner.config, token_id)
            self.default_params = default_params(folder)
        except BaseException:
            self._runner.close()
            raise
        self._reader = RequestReader(
            self.tokenizer,
            self._special,
            vocab_size=int(self._runner.config["vocab_size"]),
            max_length=int(self._runner.config["max_sequence_length"]),
        )
        self._dispatcher = Dispatcher(self.config, self._runner)
        try:
            self._dispatcher.start_thread()
        except BaseException:
            self._runner.close()
            raise
        self._intake = Intake(
            self._reader, self.tokenizer, self._special, self.default_params, self._dispatcher, self._runner.recall
        )
        _open_engines.add(self)
        tell_loaded(self.info, time.perf_counter() - began)
        size = self.tokenizer.vocab_size if self.tokenizer else 0
        warn_of_folder(folder, num_ends=len(self.end_token_ids), tokenizer_size=size, vocab_size=self.vocab_size)

    # ---------------------------------------------------------------- what it is

    @property
    def mask_token_id(self) -> int:
        return self._special.mask

    @property
    def eos_token_id(self) -> int | None:
        return self._special.eos

    @property
    def eot_token_id(self) -> int | None:
        return self._special.eot

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """All ids that end a text: EOS and EoT first, then what else the folder declares (model_files.special_ids)."""
        return self._special.ordered_ends

    @property
    def vocab_size(self) -> int:
        return self._reader.vocab_size

    @property
    def max_length(self) -> int:
        """Positions that a canvas may have: prompt and response."""
        return self._reader.max_length

    @property
    def has_chat_template(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.has_chat_template

    @property
    def num_running(self) -> int:
        return self._dispatcher.num_running

    @property
    def num_waiting(self) -> int:
        return self._dispatcher.num_waiting

    @property
    def num_open_slots(self) -> int:
        return 0 if self._dispatcher.is_closed else self._runner.num_open_slots

    def info(self) -> dict[str, Any]:
        """What is loaded and how it runs; plain JSON values."""
        runner = self._runner
        return {
            "model_dir": str(self.config.model_dir),
            "is_demo": self.config.model_dir == DEMO_DIR,
            "num_parameters": runner.num_parameters,
            "weight_bytes": runner.weight_bytes,
            "kv_bytes_per_token": runner.kv_bytes_per_token,
            "memory": dataclasses.asdict(runner.memory),
            "compute_type": runner.compute_type,
            "device": runner.placement.device,
            "gpu": runner.gpu(),
            "table": runner.table,
            "tables": runner.tables,
            "threads": runner.num_threads,
            "mask_token_id": self.mask_token_id,
            "eos_token_id": self.eos_token_id,
            "eot_token_id": self.eot_token_id,
            "end_token_ids": list(self.end_token_ids),
            "tokenizer_size": self.tokenizer.vocab_size if self.tokenizer else None,
            "has_chat_template": self.has_chat_template,
            "default_params": self.default_params.to_dict(),
            "model": dict(runner.config),
        }

    def stats(self) -> EngineStats:
        """What runs and waits now, and what has been done since the engine was opened. Waits for nothing."""
        return self._dispatcher.stats()

    def check_health(self, *, stuck_after_s: float = 60.0) -> None:
        """Raises EngineClosedError, or EngineStuckError if a call into the compiled loop lasts longer than
        `stuck_after_s` (in order, they last a fraction of a second or one forward). Waits for nothing.
        """
        self._dispatcher.check_health(stuck_after_s)

    # ---------------------------------------------------------------- requests

    def generate(
        self,
        prompts: Prompt | SequenceOf[Prompt],
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
        *,
        request_ids: SequenceOf[str] | None = None,
    ) -> list[RequestOutput]:
        """Answer one prompt or many; one RequestOutput per prompt, in their order.

        A prompt is text, token ids, or a mapping: {"prompt_token_ids": [...]}, {"prompt": text},
        {"messages": [...]} (through the chat template), each also with one of
        "segments": the answer is a template (see `infill`); with "open_end": True `gen_length` positions follow it;
        "suffix": `gen_length` positions and a text after them (see `fill_middle`);
        "pinned": {position: token id}, tokens of the response that are given.
        A prompt of text begins as the post-processor of tokenizer.json says (BOS, if it adds one); what that adds after
        a text (EOS, SEP) is left out, and ids, segments and rendered conversations get nothing.
        `params`: one for all, one per prompt; what they leave open is as `default_params` say. `request_ids`: names
        for `abort`.

        Raises InvalidRequestError (ContextLengthError, ...) or RequestTooLargeError before any work; one bad request
        and none is run. Raises QueueFullError if the first finds the queue full; the later ones wait for a place.
        """
        jobs = self._intake.generate_jobs(prompts, params, request_ids)
        self._dispatcher.run(jobs)
        return [job.result() for job in jobs]

    def chat(
        self,
        messages: SequenceOf[Mapping[str, Any]],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> RequestOutput:
        """Answer a conversation, [{"role": "user", "content": ...}, ...], through the model's chat template.

        `content` is text or a list of {"type": "text", "text": ...}; a message may have a `name`. If the last message
        is the assistant's, the answer goes on from its end. `chat_template_kwargs`: values the template may ask for.
        The names of control tokens in all of these, <|eot_id|>, are only characters: see `split_special_tokens`.
        """
        prompt = {"messages": messages, "chat_template_kwargs": chat_template_kwargs}
        return self.generate(prompt, params, request_ids=_one(request_id))[0]

    def infill(
        self, segments: Segments, params: SamplingParams | None = None, *, request_id: str | None = None
    ) -> RequestOutput:
        """Fill a template: a str is fixed text, a list of ids fixed tokens, an int that many positions to fill.

        All holes are filled, nothing else is touched; `gen_length` and `eos_early_stop` play no part. `outputs[0]`
        holds the whole template, filled, and in `holes` what went into each. Blocks are cut from the first hole to
        the last, fixed text included; without `block_length` all holes are one block, filled in order of confidence.

        Hole((2, 6)), or {"hole": [2, 6]}, is a hole of bounded length: every length is tried, and the answer is the
        filling that tells best what stands next to the holes (template.py says how).
        """
        return self.generate({"segments": segments}, params, request_ids=_one(request_id))[0]

    def fill_middle(
        self,
        prefix: str | SequenceOf[int],
        suffix: str | SequenceOf[int],
        params: SamplingParams | None = None,
        *,
        request_id: str | None = None,
    ) -> RequestOutput:
        """What may stand between two texts, in `gen_length` positions: `outputs[0].holes[0]`.

        The same as a prompt with {"suffix": ...}; `outputs[0].text` is the middle and the suffix.
        """
        kind = "prompt" if isinstance(prefix, str) else "prompt_token_ids"
        return self.generate({kind: prefix, "suffix": suffix}, params, request_ids=_one(request_id))[0]

    @overload
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: Literal["denoise"] = "denoise",
        request_id: str | None = None,
    ) -> Iterator[StepEvent]: ...

    @overload
    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: Literal["append"],
        request_id: str | None = None,
    ) -> Iterator[TextEvent]: ...

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        mode: StreamMode = "denoise",
        request_id: str | None = None,
    ) -> Iterator[Event]:
        """One prompt, as it is answered. Closing the iterator, or leaving it to be collected, cancels the request.

        `denoise`: a StepEvent for each step, with what it committed. `append`: a TextEvent whenever there is text that
        can no longer change, that is before the first mask, and not possibly part of a character or of a stop.

        Raises as `generate` does, QueueFullError too if the queue is full now. The request is queued when the first
        event is asked for; if the queue has filled by then, that raises.
        """
        job = self._intake.stream_job(prompt, params, mode, request_id)
        self._dispatcher.check_room(len(job.sources))
        return self._dispatcher.events(job)

    def abort(self, request_id: str) -> bool:
        """End a request as it is: its call returns what text there is, with finish_reason "abort". False: there is
        no request of this name under way. May be called from any thread; waits for nothing.
        """
        return self._dispatcher.abort(request_id)

    def apply_chat_template(
        self, messages: SequenceOf[Mapping[str, Any]], *, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation by the model's chat template, as `chat` reads them by default."""
        tokenizer = self._reader.need_tokenizer()
        return tokenizer.apply_chat_template(messages, chat_template_kwargs=chat_template_kwargs)

    def render_chat(
        self, messages: SequenceOf[Mapping[str, Any]], *, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> str:
        """A conversation and the header of the answer as the model's chat template writes them."""
        return str(self._reader.rendered(messages, chat_template_kwargs))

    def encode(
        self, prompt: Prompt, *, split_special_tokens: bool | None = None, add_beginning: bool = True
    ) -> list[int]:
        """Token ids of a prompt as `generate` reads it; what the prompt gives of its answer is left out.

        `add_beginning`: put before a text what the post-processor of tokenizer.json puts there (BOS).
        """
        if isinstance(prompt, str) and not add_beginning:
            return self._reader.ids_of(prompt, "prompt", split=bool(split_special_tokens))
        return self._reader.prompt_parts(prompt, split_special_tokens)[1]

    def decode(self, token_ids: SequenceOf[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids; special tokens leave nothing, or their names."""
        ids = self._reader.check_ids(token_ids, "token_ids")
        return self._reader.need_tokenizer().decode(ids, skip_special_tokens=skip_special_tokens)

    def forward(self, token_ids: SequenceOf[int]) -> NDArray[np.float32]:
        """Logits of one forward pass: (length, vocabulary). Position i predicts token i."""
        ids = self._some_ids(token_ids)
        return self._dispatcher.alone(lambda: self._runner.forward(ids))

    def forward_in_place(self, token_ids: SequenceOf[int], *, what: Literal["logits", "hidden"] = "logits") -> Any:
        """The same as an array that stays on the engine's device and leaves by DLPack: `torch.from_dlpack(it)`.

        "logits": (length, vocabulary) float32; "hidden": what the head reads, the last hidden states after their norm,
        (length, d_model) in the compute type, ConfigError where that is int8 or float8. The memory lives as long as
        somebody has the array, beyond the engine.
        """
        if what not in ("logits", "hidden"):
            raise InvalidRequestError(f"what: expected logits or hidden, got {excerpt_of(what)}", param="what")
        ids = self._some_ids(token_ids)
        return self._dispatcher.alone(lambda: self._runner.forward_in_place(ids, hidden=what == "hidden"))

    def _some_ids(self, token_ids: SequenceOf[int]) -> list[int]:
        ids = self._reader.check_ids(token_ids, "token_ids")
        if not ids:
            raise InvalidRequestError("token_ids: expected at least one token, got none", param="token_ids")
        return ids

    def score(
        self,
        prompt: str | SequenceOf[int],
        answer: str | SequenceOf[int],
        *,
        mc_num: int = 128,
        seed: int = 0,
        noise: SequenceOf[Mapping[str, object]] | None = None,
        cfg_scale: float = 0.0,
        request_id: str | None = None,
    ) -> ScoreOutput:
        """Monte Carlo log-likelihood of `answer` after `prompt`, as LLaDA's get_log_likelihood.

        `noise` replays recorded draws ({"tokens", "mask_ratio"}, "group" as runtime/score.py says) in place
        of `mc_num` draws from `seed`. The draws run beside the generations; the result is the same in any company.
        Raises RequestCancelledError if it is aborted.
        """
        job = self._intake.score_job(
            prompt, answer, mc_num=mc_num, seed=seed, noise=noise, cfg_scale=cfg_scale, request_id=request_id
        )
        self._dispatcher.run([job])
        return job.result()

    def close(self) -> None:
        """Free the model. Requests under way end with EngineClosedError. Closing twice does nothing."""
        was_open = not self._dispatcher.is_closed
        self._dispatcher.close()
        if was_open:
            logger.info("closed the engine on %s", self.config.model_dir)

    def __enter__(self) -> Engine:
        self._dispatcher.check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _one(request_id: str | None) -> list[str] | None:
    return None if request_id is None else [request_id]


Engine.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("model_dir", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation="Path | None"),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for name, field in ENGINE_FIELDS.items()
        ),
    ]
)
Engine.__doc__ = with_options(Engine.__doc__, EngineConfig)
