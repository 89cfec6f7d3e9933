"""llada-rt serve: an engine behind HTTP. What it serves and how is said in server/."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from ..log import as_json
from ..server.settings import choose
from .console import emit, say
from .options import ENGINE_FLAGS, SERVER_FLAGS, with_flags
from .request_commands import Model

commands = typer.Typer()

SERVER_PACKAGES = {"fastapi", "starlette", "pydantic", "uvicorn", "httptools", "prometheus_client"}


@commands.command()
@with_flags(server_options=SERVER_FLAGS, engine_options=ENGINE_FLAGS)
def serve(
    model: Model = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="TOML file of settings, each named as its flag: max_body_bytes = 1000.",
            show_default="what LLADA_RT_CONFIG names",
        ),
    ] = None,
    *,
    server_options: dict[str, Any],
    engine_options: dict[str, Any],
) -> None:
    """Serve the model over HTTP, as OpenAI's clients ask, with a page at / that shows a canvas being filled.

    Every flag may be a variable of the environment, LLADA_RT_PORT=8000, or a line of the TOML file. Exit code 1 if
    requests were aborted because they did not end within --shutdown-timeout.
    """
    flags = {"model": model} if model is not None else {}
    chosen = choose(flags | server_options | engine_options, os.environ, config)
    if chosen.server.log_format == "json":
        as_json()
    try:
        from ..server import process
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in SERVER_PACKAGES:
            raise
        raise ConfigError(
            f"serve: needs the package {error.name}, which is not installed", hint="pip install 'llada-rt[server]'"
        ) from error
    num_aborted = process.serve(chosen.model, chosen.engine, chosen.server, emit)
    if num_aborted:
        say(f"{num_aborted} requests were aborted")
        raise typer.Exit(1)
