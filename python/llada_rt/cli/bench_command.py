"""llada-rt bench hands its words to `benchmarks/`, which is in a checkout of the repository and not in the package.

Help needs nothing but the package.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import typer

from ..errors import ConfigError
from .console import emit

COMMANDS = "benchmarks.cli"  # a typer app of this name's `app`
OWN = {"llada_rt", "benchmarks", "training"}  # what is missing of these no package brings
ELSEWHERE = """\
Usage: llada-rt bench latency | throughput | serve-trace | compare [OPTIONS]

Measures this machine: the Engine alone, among requests that come as they come, and beside autoregressive models.
Works in a checkout of the llada-rt repository, with pip install '.[training]'; the options are shown there."""

commands = typer.Typer()


@commands.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def bench(context: typer.Context) -> None:
    """Measure: latency, throughput, serve-trace, compare with autoregressive models. Works in a checkout."""
    if find_checkout() is None and {"-h", "--help"} & set(context.args):
        emit(ELSEWHERE)
        return
    try:
        code = load_commands()(args=context.args, prog_name="llada-rt bench", standalone_mode=False)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OWN:
            raise
        raise ConfigError(
            f"bench: needs the package {error.name}, which is not installed", hint="pip install '.[training]'"
        ) from error
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def load_commands() -> Any:
    """The command line of `benchmarks/`. ConfigError where there is none, ModuleNotFoundError for what it needs."""
    root = find_checkout()
    if root is None:
        raise ConfigError(
            "bench: expected a checkout of the llada-rt repository, the current folder or the one this package is "
            "installed from in editable mode; its benchmarks/ is no part of the package",
            hint="clone the repository, pip install '.[training]' there, and run llada-rt bench in it",
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return importlib.import_module(COMMANDS).app


def find_checkout() -> Path | None:
    """Root of the repository. Other projects have a folder `benchmarks` too, so that alone is not enough."""
    for root in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (root / "benchmarks" / "cli.py").is_file() and (root / "python" / "llada_rt").is_dir():
            return root
    return None
