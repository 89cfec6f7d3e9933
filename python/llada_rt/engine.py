"""Engine: prompts in, texts out. A program needs no other object."""

from __future__ import annotations

import atexit
import dataclasses
import difflib
import inspect
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from types import TracebackType
from typing import Any, Literal, NamedTuple, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .config import DEMO_DIR, ENGINE_FIELDS, EngineConfig, EngineOptions
from .errors import ConfigError, InvalidRequestError, ModelWarning
from .excerpt import excerpt_of
from .folder.model_files import check_folder, default_params, special_ids, unknown_keys_text
from .log import logger, tell_loaded, warn_of_folder
from .options import foreign
from .options.docstrings import with_options
from .options.renamed import by_new_names
from .outputs import EngineStats, RequestOutput, ScoreOutput, StepEvent, TextEvent
from .params import SamplingParams
from .runtime.device import __version__
from .runtime.dispatcher import Dispatcher
from .runtime.generate_job import Event, StreamMode
from .runtime.intake import Intake
from .runtime.runner import Runner
from .text.requests import Prompt, RequestReader, Segments
from .text.tokenizer import Tokenizer
from .tuning.halving import Progress
from .tuning.questions import Judge
from .tuning.report import TuneReport
from .tuning.run import tune as run_tuning

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
    """A loaded model, and the requests that run on it. A context manager.

    A thread of the engine's own runs the steps. Any thread may call the engine, and so may a signal handler, whatever
    the handler has interrupted. An exception in the middle of a call, KeyboardInterrupt too, takes out that call's
    requests after the step under way. The child of a fork may go on with an engine that was idle at the fork.

    Args:
        model_dir: Folder in the published Hugging Face layout. None: the demo model that comes with the package.

    Attributes:
        config: The options, checked; `config.model_dir` is the folder that was loaded.
        default_params: What the model's generation_config.json says of decoding, for what a request leaves open.
        tokenizer: None if the folder has no tokenizer.json: prompts are then token ids.

    Raises:
        ConfigError: An option makes no sense or is unknown, or the folder's token ids or decoding options make none.
        ModelNotFoundError: The folder, or a file that it must hold, is missing.
        ModelFormatError: A file of the folder is corrupt, truncated or contradicts another one.
        UnsupportedModelError: The folder asks for a model that this runtime does not implement.
        TokenizerError: tokenizer.json or the chat template cannot be read.
        DeviceError: The device or the instruction set is not there, or the threads cannot start.
        OutOfMemoryError: Weights and work do not fit into `memory_limit`, or an allocation was refused.
    """

    def __init__(self, model_dir: str | os.PathLike[str] | None = None, **options: Unpack[EngineOptions]) -> None:
        began = time.perf_counter()
        names = list(ENGINE_FIELDS)
        given = by_new_names(options)
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"options are {', '.join(names)}"
                if name in foreign.ENGINE:
                    hint = f"it is {foreign.ENGINE[name]}"
                raise ConfigError(f"unknown engine option {excerpt_of(name)}", param=name, hint=hint)
        self.config = EngineConfig(DEMO_DIR if model_dir is None else model_dir, **given)  # type: ignore[arg-type]
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
            self._reader,
            self.tokenizer,
            self._special,
            self.default_params,
            self._dispatcher,
            self._runner.recall,
            self._runner.visibility,
        )
        _open_engines.add(self)
        tell_loaded(self.info, time.perf_counter() - began)
        size = self.tokenizer.vocab_size if self.tokenizer else 0
        warn_of_folder(folder, num_ends=len(self.end_token_ids), tokenizer_size=size, vocab_size=self.vocab_size)

    # ---------------------------------------------------------------- what it is

    @property
    def mask_token_id(self) -> int:
        """Id of the mask token, which stands where nothing is decoded yet."""
        return self._special.mask

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-text token, the first where the folder names several. None: the folder names none."""
        return self._special.eos

    @property
    def eot_token_id(self) -> int | None:
        """Id of the end-of-turn token, the first where the folder names several. None: the folder names none."""
        return self._special.eot

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """All ids that end a text: EOS and EoT first, then what else the files of the model folder declare."""
        return self._special.ordered_ends

    @property
    def vocab_size(self) -> int:
        """Number of token ids that the model knows: the width of `forward`'s logits."""
        return self._reader.vocab_size

    @property
    def max_length(self) -> int:
        """Positions that a canvas may have, prompt and response together: the model's context."""
        return self._reader.max_length

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be called: the folder has a tokenizer and a chat template."""
        return self.tokenizer is not None and self.tokenizer.has_chat_template

    @property
    def num_running(self) -> int:
        """Sequences, and draws of scores, that hold K/V memory now."""
        return self._dispatcher.num_running

    @property
    def num_waiting(self) -> int:
        """Samples and scores in the queue now; `max_num_queued_reqs` bounds them."""
        return self._dispatcher.num_waiting

    @property
    def num_open_slots(self) -> int:
        """Slots of K/V memory in use now; a guided sequence has two. 0 after `close`."""
        return 0 if self._dispatcher.is_closed else self._runner.num_open_slots

    def info(self) -> dict[str, Any]:
        """What is loaded and how it runs.

        Returns:
            Plain JSON values by name: the folder (`model_dir`, `is_demo`), `num_parameters`, bytes (`weight_bytes`,
            `kv_bytes_per_token`, `memory`), where the model runs (`device`, `gpu`, the `table` of kernels, the `tables`
            of this machine, `threads`, `compute_type`), token ids, `default_params`, and the shape (`model`).
        """
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
        """What runs and waits now, and what has been done since the engine was opened. Waits for nothing.

        Returns:
            Counts, bytes and seconds; `EngineStats` tells each.
        """
        return self._dispatcher.stats()

    def check_health(self, *, stuck_after_s: float = 60.0) -> None:
        """Return if the engine can serve requests, raise if not. Waits for nothing.

        Args:
            stuck_after_s: Seconds that a call into the compiled loop may last. A call in order lasts 50 ms or one
                step, whichever is longer.

        Raises:
            EngineClosedError: The engine is closed.
            EngineStuckError: The call under way lasts longer than `stuck_after_s`.
            InternalError: The thread that steps has ended with an error.
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
        """Answer one prompt or many, by denoising a canvas of masks.

        The default preset is the published loop of LLaDA (Nie et al. 2025, generate.py). `threshold`, `factor` and the
        caches `prefix` and `dual` are those of Fast-dLLM (Wu et al. 2025).

        A prompt of text begins as the post-processor of tokenizer.json says (BOS, if it adds one). What that adds after
        a text (EOS, SEP) is left out. Ids, segments and rendered conversations get nothing.

        Args:
            prompts: One prompt or a list of them. A prompt is text, token ids, or a mapping: {"prompt": text},
                {"prompt_token_ids": [...]} or {"messages": [...]} (through the chat template, which may ask for
                "chat_template_kwargs"). A mapping may also have one of
                "segments": the answer is a template (see `infill`); with "open_end": True `gen_length` positions
                follow the template;
                "suffix": `gen_length` positions and a text after them (see `fill_middle`);
                "pinned": {position in the response: token id}, tokens that are given.
            params: One for all prompts, or a list with one for each. What they leave open is as the model says
                (`Engine.default_params`).
            request_ids: A name for each prompt, for `abort`: 1 to 256 characters, used by no other request under way.

        Returns:
            One RequestOutput for each prompt, in their order, with `params.n` responses each.

        Raises:
            InvalidRequestError: A prompt or an option cannot be run. The error comes before any work, and no prompt
                of the call is run. Kinds of it are ContextLengthError and ChatRoleError.
            TokenizerError: Text was given to a model without a tokenizer; ChatTemplateError, messages to one without
                a chat template that can be carried out.
            RequestTooLargeError: A request has more samples or needs more K/V memory than this engine has.
            QueueFullError: The first request finds the queue full. The later ones wait for a place.
            ModelError: The logits were not finite.
            OutOfMemoryError: An allocation was refused while the request ran; the engine goes on.
            EngineClosedError: The engine is closed, or was closed meanwhile.
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
        """Answer a conversation through the model's chat template.

        The names of control tokens in messages, <|eot_id|> for one, are only characters: see `split_special_tokens`.

        Args:
            messages: [{"role": "user", "content": ...}, ...], oldest first. `content` is text or a list of
                {"type": "text", "text": ...}; a message may have a `name`. If the last message is the assistant's,
                the answer goes on from its end.
            params: Decoding options. What they leave open is as the model says (`Engine.default_params`).
            request_id: A name for `abort`: 1 to 256 characters, used by no other request under way.
            chat_template_kwargs: Values that the template may ask for, by name.

        Returns:
            The answer, with `params.n` responses.

        Raises:
            ChatRoleError: The template does not know a role, refuses it or leaves its message out.
            ChatTemplateError: The template is missing, broken, or went beyond its limits.
            LladaRtError: As `generate` raises for one prompt.
        """
        prompt = {"messages": messages, "chat_template_kwargs": chat_template_kwargs}
        return self.generate(prompt, params, request_ids=_one(request_id))[0]

    def infill(
        self, segments: Segments, params: SamplingParams | None = None, *, request_id: str | None = None
    ) -> RequestOutput:
        """Fill the holes of a template. Nothing else of the template is touched.

        Blocks are cut from the first hole to the last, fixed text included. Without `block_length` all holes are one
        block, filled in order of confidence.

        Args:
            segments: The template from left to right. A str is fixed text, a list of ids fixed tokens, an int a hole of
                that many positions. Hole((2, 6)), or {"hole": [2, 6]}, is a hole of bounded length: every length is
                tried, and the answer is the filling under which the text beside the holes is most probable.
            params: Decoding options. `gen_length` and `eos_early_stop` play no part, and a stop is refused.
            request_id: A name for `abort`: 1 to 256 characters, used by no other request under way.

        Returns:
            `outputs[0]` holds the whole template, filled; `outputs[0].holes` what went into each hole.

        Raises:
            InvalidRequestError: A segment has none of these forms, there is no hole, or the bounds allow more than 64
                templates.
            LladaRtError: As `generate` raises for one prompt.
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
        """What may stand between two texts, in `gen_length` positions. The same as a prompt with {"suffix": ...}.

        Args:
            prefix: Text or token ids before the middle.
            suffix: Text or token ids after the middle.
            params: Decoding options; `gen_length` is the number of positions in the middle.
            request_id: A name for `abort`: 1 to 256 characters, used by no other request under way.

        Returns:
            `outputs[0].holes[0]` is the middle; `outputs[0].text` is the middle and the suffix.

        Raises:
            LladaRtError: As `generate` raises for one prompt.
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
        """Answer one prompt, and tell each step of the way.

        The request is queued when the first event is asked for. Closing the iterator, or leaving it to be collected,
        cancels the request.

        Args:
            prompt: A prompt in any form that `generate` takes, without holes of bounded length.
            params: Decoding options. What they leave open is as the model says (`Engine.default_params`).
            mode: "denoise": a StepEvent for each step, with what the step committed. "append": a TextEvent whenever
                there is text that can no longer change: what stands before the first mask and cannot be part of a
                character or of a stop.
            request_id: A name for `abort`: 1 to 256 characters, used by no other request under way.

        Returns:
            An iterator of events. Joined, their `text_delta`s are the text of the output, which the last event has.

        Raises:
            InvalidRequestError: At the call: the prompt or an option cannot be run.
            QueueFullError: At the call if the queue is full then, at the first event if the queue has filled since.
            LladaRtError: At the call or from the iterator, as `generate` raises for one prompt.
        """
        job = self._intake.stream_job(prompt, params, mode, request_id)
        self._dispatcher.check_room(len(job.sources))
        return self._dispatcher.events(job)

    def abort(self, request_id: str) -> bool:
        """End a request as it is. Any thread may call this; the call waits for nothing.

        The request's own call then returns what text there is, with finish_reason "abort". A score has no part of a
        result: its call raises RequestCancelledError.

        Args:
            request_id: The name that the request was given.

        Returns:
            False: no request of this name is under way.
        """
        return self._dispatcher.abort(request_id)

    def apply_chat_template(
        self, messages: SequenceOf[Mapping[str, Any]], *, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Token ids of a conversation by the model's chat template, as `chat` reads them by default.

        Args:
            messages: The conversation, as `chat` takes it.
            chat_template_kwargs: Values that the template may ask for, by name.

        Returns:
            The ids of the messages, and of the header that the template writes before the answer. If the last message
            is the assistant's, the ids end where the answer goes on.

        Raises:
            InvalidRequestError: The messages are not a conversation; ChatRoleError for a role.
            ChatTemplateError: The template is missing, broken, or went beyond its limits.
            TokenizerError: The model has no tokenizer.
        """
        tokenizer = self._reader.need_tokenizer()
        return tokenizer.apply_chat_template(messages, chat_template_kwargs=chat_template_kwargs)

    def render_chat(
        self, messages: SequenceOf[Mapping[str, Any]], *, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> str:
        """A conversation and the header of the answer as the model's chat template writes them.

        Args:
            messages: As of `chat`.
            chat_template_kwargs: Names and values that the template may ask for beside the messages.

        Returns:
            The text; `chat` encodes it.

        Raises:
            InvalidRequestError: The messages cannot be read; ChatRoleError, a role that the template refuses.
            TokenizerError: The model has no tokenizer; ChatTemplateError, no chat template that can be carried out.
        """
        return str(self._reader.rendered(messages, chat_template_kwargs))

    def encode(
        self, prompt: Prompt, *, split_special_tokens: bool | None = None, add_beginning: bool = True
    ) -> list[int]:
        """Token ids of a prompt as `generate` reads it; what the prompt gives of its answer is left out.

        Args:
            prompt: As of `generate`.
            split_special_tokens: As of SamplingParams.
            add_beginning: Put before a text what the post-processor of tokenizer.json puts there (BOS).

        Returns:
            (length,) ids.

        Raises:
            InvalidRequestError: The prompt cannot be read.
            TokenizerError: Text was given to a model without a tokenizer.
        """
        if isinstance(prompt, str) and not add_beginning:
            return self._reader.ids_of(prompt, "prompt", split=bool(split_special_tokens))
        return self._reader.prompt_parts(prompt, split_special_tokens)[1]

    def decode(self, token_ids: SequenceOf[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids.

        Args:
            token_ids: (length,) ids of the model's vocabulary.
            skip_special_tokens: Special tokens leave nothing; else their names.

        Returns:
            The text.

        Raises:
            InvalidRequestError: An id is outside the vocabulary.
            TokenizerError: The model has no tokenizer.
        """
        ids = self._reader.check_ids(token_ids, "token_ids")
        return self._reader.need_tokenizer().decode(ids, skip_special_tokens=skip_special_tokens)

    def forward(self, token_ids: SequenceOf[int]) -> NDArray[np.float32]:
        """Logits of one forward pass over all positions, masks included. Position i predicts token i.

        Args:
            token_ids: (length,) ids, 1 to `max_length` of them; a list, a tuple or a numpy array.

        Returns:
            (length, vocab_size) float32, not normalised.

        Raises:
            InvalidRequestError: There is no id, or one is none of the vocabulary.
            ContextLengthError: There are more ids than the context holds.
            OutOfMemoryError: The result, or the keys and values, do not fit beside the running requests.
            EngineClosedError: The engine is closed.
        """
        ids = self._some_ids(token_ids)
        return self._dispatcher.alone(lambda: self._runner.forward(ids))

    def forward_in_place(self, token_ids: SequenceOf[int], *, what: Literal["logits", "hidden"] = "logits") -> Any:
        """The same as `forward`, as an array that stays on the engine's device.

        Args:
            token_ids: (length,) ids, 1 to `max_length` of them; a list, a tuple or a numpy array.
            what: "logits", or "hidden": what the head reads, the last hidden states after their norm.

        Returns:
            An array that leaves by DLPack, `torch.from_dlpack(array)`, without a copy. "logits": (length, vocab_size)
            float32. "hidden": (length, d_model) float32 or bfloat16, as the products take their rows. The memory lives
            as long as somebody has the array, beyond the engine.

        Raises:
            InvalidRequestError: `what` is neither, there is no id, or one is none of the vocabulary.
            ContextLengthError: There are more ids than the context holds.
            ConfigError: "hidden" in the compute types int8 and float8, whose head reads quantised rows.
            OutOfMemoryError: The result, or the keys and values, do not fit beside the running requests.
            EngineClosedError: The engine is closed.
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
        """Monte Carlo log-likelihood of `answer` after `prompt`, a lower bound in expectation.

        The estimator is that of LLaDA's get_log_likelihood.py (Nie et al. 2025). A draw masks l of the L answer tokens.
        The value of a draw is the sum of the masked tokens' log-probabilities, times L / l. The estimate is the mean
        of the values. The draws run beside the generations, and the result is the same in any company.

        Args:
            prompt: Text or token ids, which are never masked.
            answer: Text or token ids, at least one token.
            mc_num: Number of draws, 1 to 1,000,000. Each costs one forward of prompt and answer.
            seed: Seed of the draws, 0 to 2**64 - 1.
            noise: Recorded draws in place of `mc_num` draws from `seed`. Each is {"tokens": (prompt + answer,) ids with
                masks in the answer, "mask_ratio": l / L}, and may have "group": an integer that draws share which
                depend on each other, for the standard error.
            cfg_scale: Classifier-free guidance, from 0; above 0 a draw costs two forwards, one with the prompt masked.
            request_id: A name for `abort`: 1 to 256 characters, used by no other request under way.

        Returns:
            The natural logarithm and its standard error. The output unpacks as (log_likelihood, standard_error).

        Raises:
            InvalidRequestError: An argument cannot be used; ContextLengthError if prompt and answer are too long.
            TokenizerError: Text was given to a model without a tokenizer.
            RequestTooLargeError: A draw needs more K/V memory than this engine has.
            QueueFullError: The queue is full.
            RequestCancelledError: The score was aborted.
            EngineClosedError: The engine is closed, or was closed meanwhile.
        """
        job = self._intake.score_job(
            prompt, answer, mc_num=mc_num, seed=seed, noise=noise, cfg_scale=cfg_scale, request_id=request_id
        )
        self._dispatcher.run([job])
        return job.result()

    def tune(
        self,
        prompts: SequenceOf[Prompt],
        answers: SequenceOf[Any] | None = None,
        *,
        judge: Judge | None = None,
        params: SamplingParams | SequenceOf[SamplingParams] | None = None,
        settings: SequenceOf[Mapping[str, Any]] | None = None,
        budget_s: float = 300.0,
        keep: float = 0.99,
        batch: int | None = None,
        out: str | os.PathLike[str] | None = None,
        restart: bool = False,
        tell: Callable[[Progress], None] | None = None,
    ) -> TuneReport:
        """Find the fastest decoding options of this model on this machine that keep enough of its quality.

        Settings answer the prompts side by side, and successive halving leaves out the worse ones. What was found is
        written beside the model: the options in generation_config.json under "llada_rt", where the next engine takes
        them up as its defaults, and in the folder tuning a table, a figure, a report and the trials. The same call goes
        on where an interrupted one has stopped. This engine's defaults stay as they are. The engine should have no
        other work meanwhile.

        Without answers, an answer is kept if it has the tokens of the exact decoder (preset quality, no cache, one
        token a step), or if the model finds it at least as likely a token.

        Args:
            prompts: The prompts, each in a form that `generate` takes.
            answers: What is right for each prompt: a text, or a list of texts. None: nobody knows.
            judge: Called with an answer and the text that the model wrote, says whether the text is right: True,
                False, or a number from 0 to 1. None: the text equals an answer, white space around it aside.
            params: What all settings have in common, for all prompts or for each: `gen_length`, `stop`, `regex` and
                others that are no matter of tuning.
            settings: Mappings from option to value, to be compared. None: decoders, caches and block lengths in every
                combination.
            budget_s: Seconds that the run may take.
            keep: Share of the exact decoder's quality that must be kept, above 0 and at most 1.
            batch: Prompts that run together. None: `max_num_seqs`.
            out: Folder for all that is written. None: the model folder.
            restart: Forget the trials of an earlier run.
            tell: Called after each trial with where the run is.

        Returns:
            What was found: the chosen setting, and a row for each.

        Raises:
            InvalidRequestError: There is no prompt, some prompts have an answer and others none, an argument or a
                prompt cannot be used, the exact decoder is never right, or the budget is too small for two settings.
            ConfigError: The results would go to the demo model or to another one, or the trials are of another run.
            OutputError: The folder cannot be written.
            LladaRtError: As `generate` and `score` raise.
        """
        info = self.info()
        facts = ("device", "compute_type", "threads", "table", "num_parameters")
        return run_tuning(
            self,
            self._intake.generate_jobs,
            prompts,
            answers,
            model=self.config.model_dir,
            defaults=self.default_params,
            machine={"version": __version__, **{name: info[name] for name in facts}},
            most_batch=self.config.max_num_seqs,
            judge=judge,
            params=params,
            settings=settings,
            budget_s=budget_s,
            keep=keep,
            batch=batch,
            out=out,
            restart=restart,
            tell=tell,
        )

    def close(self) -> None:
        """Free the model, and wait for the step under way. Closing twice does nothing.

        Requests under way end with EngineClosedError, and so does each later call.
        """
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


class Parts(NamedTuple):
    """What takes requests and runs them."""

    intake: Intake
    dispatcher: Dispatcher


def parts_of(engine: Engine) -> Parts:
    """The parts of an engine, for another face of the same engine: AsyncEngine."""
    return Parts(engine._intake, engine._dispatcher)


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
