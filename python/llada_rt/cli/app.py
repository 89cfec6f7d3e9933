"""The command line. Data goes to stdout, everything else to stderr.

request_commands.py has generate, chat, infill and score; model_commands.py convert, inspect and verify;
tune_command.py tune; serve_command.py serve; bench_command.py bench. The command info is here.

Exit codes: 0 done, 1 unexpected failure, 2 usage, configuration or request, 3 model, 4 device, 5 memory,
6 output cannot be written, 7 a check failed, 8 lines of a file of requests were refused, 130 interrupted. A reader that
goes away early is not an error.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from .. import __version__
from ..errors import (
    ConfigError,
    DeviceError,
    InvalidRequestError,
    LladaRtError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    TokenizerError,
)
from ..params import SamplingParams
from . import bench_command, model_commands, request_commands, serve_command, tune_command
from .console import ReaderGone, emit, emit_json, prepare_streams, say, size_text
from .model_commands import show_memory
from .options import ENGINE_FLAGS, foreign_hint, with_flags
from .request_commands import Json, Model, complain, open_engine

app = typer.Typer(
    name="llada-rt",
    help="Masked diffusion language models, compiled. Without --model the small demo model that comes along answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(request_commands.commands)
app.add_typer(model_commands.commands)
app.add_typer(tune_command.commands)
app.add_typer(serve_command.commands)
app.add_typer(bench_command.commands)


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
    from ..runtime.device import cuda_build, devices, recorded_runs
    from ..runtime.runner import build_info

    if memory:
        show_memory(model, engine_options, length, block_length, as_json=as_json)
        return
    with open_engine(model, engine_options) as engine:
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
    from ..runtime.device import missing_cuda

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
        complain(error)
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
