"""Commands that ask a model: llada-rt generate | infill | chat | score."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InvalidRequestError, LladaRtError
from ..params import SamplingParams
from .batch_files import Files, ObjectFiles, is_batch_of, run_files
from .console import emit, emit_json, read_prompt, say
from .options import ENGINE_FLAGS, PARAMS_FLAGS, params_over, parse_ids, parse_template, parse_variables, with_flags

if TYPE_CHECKING:
    from ..engine import Engine
    from ..outputs import RequestOutput
    from .batch_input import Reader

DEMO_QUESTION = "床前明月光的下一句是什么？ 直接输出句子即可。"
DEMO_TEMPLATE = "春眠___，处处__鸟。___雨声，花落___。"
FRAME_SECONDS = 0.08

commands = typer.Typer()

Model = Annotated[str | None, typer.Option("--model", "-m", help="Model folder.", show_default="the shipped demo")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
Ids = Annotated[bool, typer.Option("--ids", help="Token ids in place of text: 3,14,15.")]
Variables = Annotated[
    str | None,
    typer.Option(
        "--chat-template-kwargs",
        metavar="JSON",
        help='Values that the chat template may ask for: {"enable_thinking": false}.',
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Show:
    """How answers are told."""

    as_json: Json = False
    animate: Annotated[
        bool | None,
        typer.Option("--animate/--no-animate", help="Show the canvas while it is being filled.", show_default=False),
    ] = None
    delay: Annotated[float, typer.Option("--delay", min=0.0, max=10.0, help="Seconds a step stays on the screen.")] = (
        FRAME_SECONDS
    )


@commands.command()
@with_flags(files=Files, show=Show, engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="One answer per prompt; - reads one from stdin.", show_default=False),
    ] = None,
    model: Model = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the bare text: no chat template around the prompt.")
    ] = False,
    ids: Ids = False,
    variables: Variables = None,
    *,
    files: Files,
    show: Show,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Answer prompts. With no prompt the demo model is asked for a line of a poem, and you see it being written.

    Exit code 8 if lines of a file were refused; the others are done.
    """
    from .batch_input import generation_reader, prompt_of

    is_batch = is_batch_of(prompts, files, "PROMPT", show.animate)
    if not prompts and model is not None and not is_batch:
        raise typer.BadParameter("expected at least one prompt", param_hint="PROMPT")
    known = parse_variables(variables)
    if known and (raw or ids):
        raise typer.BadParameter(
            "is for a chat template: expected no --raw or --ids", param_hint="--chat-template-kwargs"
        )
    given = [read_prompt() if prompt == "-" else prompt for prompt in prompts or ([] if is_batch else [DEMO_QUESTION])]
    if is_batch:
        params = SamplingParams(**params_options)

        def reader(engine: Engine) -> Reader:
            is_chat = not raw and (engine.has_chat_template or bool(known))
            return generation_reader(params, is_chat=is_chat, is_ids=ids, variables=known)

        run_files(model, engine_options, reader, given, files, show.as_json)
        return
    with open_engine(model, engine_options) as engine:
        if not prompts:
            say(f"asking the demo model: {DEMO_QUESTION}")
        requests: list[Any] = [parse_ids(prompt) if ids else prompt for prompt in given]
        if not ids and not raw and (engine.has_chat_template or known):
            requests = [prompt_of({"prompt": prompt}, is_chat=True, variables=known) for prompt in given]
        shown = show.animate if show.animate is not None else not prompts
        _answer(engine, requests, params_options, show, animate=shown)
        if not prompts:
            say("next: llada-rt infill · llada-rt chat · llada-rt generate --help")


@commands.command()
@with_flags(files=Files, show=Show, engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
def infill(
    templates: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEMPLATE",
            help="Text with holes: each _ is one token to fill, [MASK:12] is twelve; \\_ is an underscore. "
            "- reads one from stdin.",
            show_default=False,
        ),
    ] = None,
    model: Model = None,
    *,
    files: Files,
    show: Show,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Fill the holes of a text; what is given stays as it is.

    Exit code 8 if lines of a file were refused; the others are done.
    """
    from .batch_input import infill_reader

    is_batch = is_batch_of(templates, files, "TEMPLATE", show.animate)
    if not templates and model is not None and not is_batch:
        raise typer.BadParameter("expected at least one template", param_hint="TEMPLATE")
    given = [read_prompt() if text == "-" else text for text in templates or ([] if is_batch else [DEMO_TEMPLATE])]
    if is_batch:
        read = infill_reader(SamplingParams(**params_options))
        run_files(model, engine_options, lambda engine: read, given, files, show.as_json)
        return
    with open_engine(model, engine_options) as engine:
        if not templates:
            say(f"filling: {DEMO_TEMPLATE}")
        requests = [{"segments": parse_template(text)} for text in given]
        shown = show.animate if show.animate is not None else not templates
        _answer(engine, requests, params_options, show, animate=shown)


@commands.command()
@with_flags(show=Show, engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
def chat(
    message: Annotated[
        str | None, typer.Option("--message", "-M", help="Answer this one message and leave.", show_default=False)
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.", show_default=False)] = None,
    model: Model = None,
    remember: Annotated[
        bool | None,
        typer.Option(
            "--remember/--forget",
            help="Whether a message may refer to those before it; the demo model knows only single questions.",
            show_default="--remember, for the demo --forget",
        ),
    ] = None,
    variables: Variables = None,
    *,
    show: Show,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Talk with the model: a line is a message, /reset forgets, /exit or Ctrl-D leaves.

    Control tokens typed in a message, <|eot_id|>, are only characters, unless --no-split-special-tokens is given.
    """
    known = parse_variables(variables)
    with open_engine(model, engine_options) as engine:
        opening = [{"role": "system", "content": system}] if system is not None else []
        is_talk = message is None and sys.stdin.isatty()
        shown = show.animate if show.animate is not None else is_talk
        remembers = remember if remember is not None else model is not None
        if is_talk:
            say(f"the demo model recites Chinese verse; ask for instance: {DEMO_QUESTION}" if model is None else "")
            say("/reset forgets, /exit leaves")
        history = list(opening)
        for line in [message] if message is not None else _lines(is_talk):
            if line.strip() == "/reset":
                history = list(opening)
                continue
            asked = [*history, {"role": "user", "content": line}]
            request = {"messages": asked, "chat_template_kwargs": known}
            try:
                (output,) = _answer(engine, [request], params_options, show, animate=shown)
            except InvalidRequestError as error:
                if not is_talk:
                    raise
                complain(error)
                continue
            if remembers:
                history = [*asked, {"role": "assistant", "content": output.text}]


@commands.command()
@with_flags(files=ObjectFiles, engine_options=ENGINE_FLAGS)
def score(
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", show_default=False)] = None,
    answer: Annotated[
        str | None, typer.Argument(metavar="ANSWER", help="Text whose likelihood is asked for.", show_default=False)
    ] = None,
    model: Model = None,
    mc_num: Annotated[
        int, typer.Option("--mc-num", help="Random draws; more of them, a smaller standard error.")
    ] = 128,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    cfg_scale: Annotated[float, typer.Option("--cfg-scale", help="Classifier-free guidance.")] = 0.0,
    ids: Ids = False,
    as_json: Json = False,
    *,
    files: ObjectFiles,
    engine_options: dict[str, Any],
) -> None:
    """Log-likelihood of an answer after a prompt, in nats: a Monte Carlo estimate. Both are taken as bare text.

    With --input a file of JSON objects, whatever its name. Exit code 8 if lines of it were refused.
    """
    from .batch_input import score_reader

    options: dict[str, Any] = {"mc_num": mc_num, "seed": seed, "cfg_scale": cfg_scale}
    if (prompt is None or answer is None) and files.input_file is None:
        raise typer.BadParameter("expected a prompt and an answer", param_hint="PROMPT ANSWER")
    if files.input_file is not None:
        is_batch_of([prompt] if prompt is not None else None, files, "PROMPT", None)
        read = score_reader(options)
        run_files(model, engine_options, lambda engine: read, [], files, as_json)
        return
    if files.output_file is not None:
        raise typer.BadParameter("expected --input beside it", param_hint="--output")
    given: list[Any] = [read_prompt() if text == "-" else text for text in (prompt, answer)]
    if ids:
        given = [parse_ids(text) for text in given]
    with open_engine(model, engine_options) as engine:
        output = engine.score(*given, **options)
    if as_json:
        emit_json(output.to_dict())
        return
    emit(f"{output.log_likelihood:.6f}")
    say(f"standard error {output.standard_error:.6f}, {output.num_samples} draws" if sys.stderr.isatty() else "")


# ---------------------------------------------------------------- shared by the commands


def open_engine(model: str | None, options: dict[str, Any]) -> Engine:
    from ..engine import Engine

    return Engine(model, **options)


def complain(error: LladaRtError) -> None:
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)


def _answer(
    engine: Engine,
    requests: Sequence[Any],
    params_options: dict[str, Any],
    show: Show,
    *,
    animate: bool,
) -> list[RequestOutput]:
    """Run the requests and print their texts."""
    from .reports import emit_texts

    params = params_over(engine.default_params, params_options)
    is_one = len(requests) == 1 and params.n == 1
    live = animate and not show.as_json and is_one and sys.stdout.isatty() and sys.stderr.isatty()
    began = time.perf_counter()
    if live:
        outputs = [_play(engine, requests[0], params, show.delay)]
    else:
        outputs = engine.generate(requests, params)
        for output in outputs:
            if show.as_json:
                emit_json(output.to_dict())
            else:
                emit_texts(engine, output)
    if sys.stderr.isatty():
        say(_summary(outputs, None if live else time.perf_counter() - began))
    if live:
        say("confidence: green from 0.9, yellow from 0.5, red below")
    return outputs


def _play(engine: Engine, request: Any, params: SamplingParams, delay: float) -> RequestOutput:
    from rich.console import Console

    from .animate import CanvasView, play

    view = CanvasView(engine.tokenizer, engine.mask_token_id)
    with closing(engine.stream(request, params)) as events:  # type: ignore[type-var]
        output = play(events, view, Console(stderr=True), frame_seconds=delay)
    Console(highlight=False, soft_wrap=True).print(view.final(output))
    return output


def _summary(outputs: Sequence[RequestOutput], seconds: float | None) -> str:
    costs = [completion.diffusion for output in outputs for completion in output.outputs]
    tokens, forwards = sum(cost.emitted_tokens for cost in costs), sum(cost.nfe for cost in costs)
    took = f" in {seconds:.2f} s" if seconds is not None else ""
    return f"{tokens} tokens, {forwards} forwards{took}"


def _lines(is_talk: bool) -> Iterable[str]:
    """Messages from the terminal or a pipe, until /exit or the end; empty lines are passed over."""
    if is_talk:
        import readline  # noqa: F401 (editing and history for input())
    while True:
        try:
            line = input("> ") if is_talk else input()
        except EOFError:
            return
        if line.strip() == "/exit":
            return
        if line.strip():
            yield line
