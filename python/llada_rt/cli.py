"""The command line: llada-rt generate | chat | infill | info; convert | inspect | verify (model_commands.py); bench.
Data goes to stdout, everything else to stderr.

Exit codes: 0 done, 1 unexpected failure, 2 usage, configuration or request, 3 model, 4 device, 5 memory,
6 output cannot be written, 7 a check failed, 130 interrupted; a reader that goes away early is not an error.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import __version__, bench_command
from .console import ReaderGone, emit, emit_json, prepare_streams, read_prompt, say, size_text
from .errors import (
    ConfigError,
    DeviceError,
    InvalidRequestError,
    LladaRtError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    TokenizerError,
)
from .model_commands import commands, show_memory
from .options import ENGINE_FLAGS, PARAMS_FLAGS, foreign_hint, params_over, parse_ids, parse_template, with_flags
from .params import SamplingParams

if TYPE_CHECKING:
    from .engine import Engine
    from .outputs import RequestOutput

DEMO_QUESTION = "床前明月光的下一句是什么？ 直接输出句子即可。"
DEMO_TEMPLATE = "春眠___，处处__鸟。___雨声，花落___。"
FRAME_SECONDS = 0.08


app = typer.Typer(
    name="llada-rt",
    help="Masked diffusion language models, compiled. Without --model the small demo model that comes along answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(commands)
app.add_typer(bench_command.commands)

Model = Annotated[str | None, typer.Option("--model", "-m", help="Model folder.", show_default="the shipped demo")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on stdout.")]
Animate = Annotated[
    bool | None,
    typer.Option("--animate/--no-animate", help="Show the canvas while it is being filled.", show_default=False),
]
Delay = Annotated[float, typer.Option("--delay", min=0.0, max=10.0, help="Seconds a step stays on the screen.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"llada-rt {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
@with_flags(engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="One answer per prompt; - reads one from stdin.", show_default=False),
    ] = None,
    model: Model = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the bare text: no chat template around the prompt.")
    ] = False,
    ids: Annotated[bool, typer.Option("--ids", help="Prompts are token ids: 3,14,15.")] = False,
    animate: Animate = None,
    delay: Delay = FRAME_SECONDS,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Answer prompts. With no prompt the demo model is asked for a line of a poem, and you see it being written."""
    if not prompts and model is not None:
        raise typer.BadParameter("expected at least one prompt", param_hint="PROMPT")
    asked = [read_prompt() if prompt == "-" else prompt for prompt in prompts or [DEMO_QUESTION]]
    with _open(model, engine_options) as engine:
        if not prompts:
            say(f"asking the demo model: {DEMO_QUESTION}")
        requests: list[Any] = list(asked)
        if ids:
            requests = [parse_ids(prompt) for prompt in asked]
        elif engine.has_chat_template and not raw:
            requests = [{"messages": [{"role": "user", "content": prompt}]} for prompt in asked]
        shown = animate if animate is not None else not prompts
        _answer(engine, requests, params_options, animate=shown, delay=delay, as_json=as_json)
        if not prompts:
            say("next: llada-rt infill · llada-rt chat · llada-rt generate --help")


@app.command()
@with_flags(engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
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
    animate: Animate = None,
    delay: Delay = FRAME_SECONDS,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Fill the holes of a text; what is given stays as it is."""
    if not templates and model is not None:
        raise typer.BadParameter("expected at least one template", param_hint="TEMPLATE")
    given = [read_prompt() if text == "-" else text for text in templates or [DEMO_TEMPLATE]]
    with _open(model, engine_options) as engine:
        if not templates:
            say(f"filling: {DEMO_TEMPLATE}")
        requests = [{"segments": parse_template(text)} for text in given]
        shown = animate if animate is not None else not templates
        _answer(engine, requests, params_options, animate=shown, delay=delay, as_json=as_json)


@app.command()
@with_flags(engine_options=ENGINE_FLAGS, params_options=PARAMS_FLAGS)
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
    animate: Animate = None,
    delay: Delay = FRAME_SECONDS,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
    params_options: dict[str, Any],
) -> None:
    """Talk with the model: a line is a message, /reset forgets, /exit or Ctrl-D leaves."""
    with _open(model, engine_options) as engine:
        opening = [{"role": "system", "content": system}] if system is not None else []
        is_talk = message is None and sys.stdin.isatty()
        shown = animate if animate is not None else is_talk
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
            try:
                (output,) = _answer(
                    engine, [{"messages": asked}], params_options, animate=shown, delay=delay, as_json=as_json
                )
            except InvalidRequestError as error:
                if not is_talk:
                    raise
                _complain(error)
                continue
            if remembers:
                history = [*asked, {"role": "assistant", "content": output.text}]


@app.command()
@with_flags(engine_options=ENGINE_FLAGS)
def info(
    model: Model = None,
    as_json: Json = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="What it needs in memory, term by term; loads nothing.")
    ] = False,
    length: Annotated[
        int | None,
        typer.Option("--length", min=1, help="Positions of a canvas, for --memory.", show_default="the context"),
    ] = None,
    block_length: Annotated[
        int | None, typer.Option("--block-length", min=1, help="Of it, decoded together.", show_default="all")
    ] = None,
    *,
    engine_options: dict[str, Any],
) -> None:
    """What is in a model folder, how it would run on this machine, and what of this build has run on a GPU."""
    from .device import cuda_build, devices, recorded_runs
    from .runner import build_info

    if memory:
        show_memory(model, engine_options, length, block_length, as_json=as_json)
        return
    with _open(model, engine_options) as engine:
        facts = engine.info()
        facts["build"] = build_info() | {"cuda": cuda_build()}
        facts["gpus"] = devices()
        facts["gpu_runs"] = recorded_runs()
    if as_json:
        emit_json(facts, default=str)
        return
    config = facts["model"]
    heads = f"{config['num_heads']} heads over {config['num_kv_heads']} key/value heads of {config['head_dim']}"
    unknown = "none"
    rows = {
        "model": facts["model_dir"] + (" (the shipped demo)" if facts["is_demo"] else ""),
        "parameters": f"{facts['num_parameters']:,} ({facts['weight_bytes'] / 2**20:,.1f} MiB in memory)",
        "shape": f"{config['num_layers']} layers, width {config['d_model']}, {heads}",
        "vocabulary": f"{config['vocab_size']:,}, context {config['max_sequence_length']:,} tokens",
        "cache": f"{facts['kv_bytes_per_token']:,} bytes per token",
        "arithmetic": f"{facts['compute_type']}, {facts['threads']} thread{'s' * (facts['threads'] > 1)}, "
        f"table {facts['table']} "
        f"(this machine has {', '.join(facts['tables'])})",
        "mask, eos, eot": ", ".join(
            unknown if facts[name] is None else str(facts[name])
            for name in ("mask_token_id", "eos_token_id", "eot_token_id")
        ),
        "end a text": ", ".join(map(str, facts["end_token_ids"])) or unknown,
        "tokenizer": f"{facts['tokenizer_size']:,} entries" if facts["tokenizer_size"] else "none: prompts are ids",
        "chat template": "yes" if facts["has_chat_template"] else unknown,
        "defaults": ", ".join(
            f"{name}={value}"
            for name, value in facts["default_params"].items()
            if value != getattr(SamplingParams(), name) or name in ("gen_length", "preset")
        ),
        **_gpu_rows(facts),
        "version": __version__,
    }
    for name, value in rows.items():
        emit(f"{name:15} " + value.replace("\n", "\n" + 16 * " "))


def _gpu_rows(facts: dict[str, Any]) -> dict[str, str]:
    """Rows of the table of info: what was built for GPUs, which there are, what has run on one."""
    from .device import missing_cuda

    build, missing = facts["build"]["cuda"], missing_cuda()
    if build is None:
        backend = f"none: {missing}"
    else:
        cutlass = "with CUTLASS" if build["has_cutlass"] else "without CUTLASS"
        backend = f"for {', '.join(build['architectures'])}, {cutlass}" + (
            f"; not usable: {missing}" if missing else ""
        )
    gpus = {f"GPU {gpu['index']}": _gpu_text(gpu) for gpu in facts["gpus"]} or {"GPU": "none found"}
    runs = [
        f"{run['date']} {run['device']}, {run['commit']}: {run['what']}: {run['result']}" for run in facts["gpu_runs"]
    ]
    return {"CUDA backend": backend, **gpus, "ran on GPUs": "\n".join(runs) or "no run on a GPU is recorded"}


def _gpu_text(gpu: dict[str, Any]) -> str:
    parts = [str(gpu["name"]), f"compute capability {gpu['compute_capability']}"]
    if "memory_bytes" in gpu:
        parts.append(size_text(gpu["memory_bytes"]))
    if "driver" in gpu:  # 13000
        parts.append(f"driver for CUDA {gpu['driver'] // 1000}.{gpu['driver'] % 1000 // 10}")
    return ", ".join(parts)


# ---------------------------------------------------------------- shared by the commands


def _open(model: str | None, options: dict[str, Any]) -> Engine:
    from .engine import Engine

    return Engine(model, **options)


def _answer(
    engine: Engine,
    requests: Sequence[Any],
    params_options: dict[str, Any],
    *,
    animate: bool,
    delay: float,
    as_json: bool,
) -> list[RequestOutput]:
    """Run the requests and print their texts."""
    params = params_over(engine.default_params, params_options)
    is_one = len(requests) == 1 and params.n == 1
    live = animate and not as_json and is_one and sys.stdout.isatty() and sys.stderr.isatty()
    began = time.perf_counter()
    if live:
        outputs = [_play(engine, requests[0], params, delay)]
    else:
        outputs = engine.generate(requests, params)
        for output in outputs:
            _print(engine, output, as_json)
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


def _print(engine: Engine, output: RequestOutput, as_json: bool) -> None:
    if as_json:
        emit_json(output.to_dict())
        return
    for completion in output.outputs:
        text = completion.text if engine.tokenizer else ", ".join(map(str, completion.token_ids))
        if sys.stdout.isatty():
            from .animate import printable

            text = printable(text)
        emit(text)


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


def _complain(error: LladaRtError) -> None:
    typer.echo(f"error: {error.message}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)


def _exit_code(error: LladaRtError) -> int:
    kinds: tuple[tuple[tuple[type[LladaRtError], ...], int], ...] = (
        ((ConfigError, InvalidRequestError), 2),
        ((ModelError, TokenizerError), 3),
        ((DeviceError,), 4),
        ((OutOfMemoryError,), 5),
        ((OutputError,), 6),
    )
    return next((code for types, code in kinds if isinstance(error, types)), 1)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code."""
    prepare_streams()
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="llada-rt", standalone_mode=False)
        sys.stdout.flush()
    except LladaRtError as error:
        _complain(error)
        code = _exit_code(error)
    except KeyboardInterrupt:
        code = 130
    except MemoryError:
        typer.echo("error: out of memory", err=True)
        code = 5
    except ReaderGone:
        code = 0
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # usage errors of typer's parser
            error.show()
            say(foreign_hint(getattr(error, "option_name", None)))
            code = error.exit_code
        elif type(error).__name__ == "Abort":
            code = 130
        else:
            traceback.print_exc()
            typer.echo(f"error: unexpected {type(error).__name__}: {error}", err=True)
            code = 1
    sys.exit(code if isinstance(code, int) else 0)
