"""Commands about model folders: llada-rt convert | inspect | verify, and the memory part of info."""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from ..config import DEMO_DIR, EngineConfig, StoredType, parse_size
from ..errors import ConfigError
from ..folder.model_files import check_exists, check_folder
from ..runtime.device import place
from ..runtime.footprint import Load, footprint_of
from ..runtime.memory import resident_bytes
from .console import emit, emit_json, say, size_text
from .options import ENGINE_FLAGS, with_flags

CHECK_FAILED = 7  # exit code

commands = typer.Typer()

Folder = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
TargetType = enum.Enum("TargetType", {name: name for name in get_args(StoredType)})  # type: ignore[misc]


@commands.command()
def convert(
    model: Folder,
    out: Annotated[str, typer.Argument(metavar="OUT", help="New folder.", show_default=False)],
    compute_type: Annotated[
        TargetType,
        typer.Option(
            "--compute-type",
            help="Elements of the matrices; an int8 folder also runs as int8_bfloat16.",
            show_default=False,
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            help="Model that MODEL, a LoRA adapter (PEFT), is merged into.",
            show_default=False,
        ),
    ] = None,
    max_shard_size: Annotated[
        str, typer.Option("--max-shard-size", help="Of a weight file: bytes, or 500MB, 2GiB.")
    ] = "5GB",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model folder that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a model in another element type: smaller, and loaded faster. Needs no calibration data."""
    from ..runtime.runner import describe_model
    from ..tools.convert import convert_model

    wide = sys.stderr.isatty()

    def report(name: str, done: int, total: int) -> None:
        if wide:
            typer.echo(f"\r\x1b[K{100 * done // max(1, total):3} % {name}", err=True, nl=not name)

    done = convert_model(
        model,
        out,
        compute_type=compute_type.value,
        base=base,
        max_shard_bytes=parse_size("--max-shard-size", max_shard_size),
        overwrite=overwrite,
        report=report,
    )
    load = _load(describe_model(done.target).model, EngineConfig(done.target), None, None)
    plan = footprint_of(done.target, load, compute_type=done.compute_type, process_bytes=resident_bytes())
    if as_json:
        facts = {
            "target": str(done.target),
            "compute_type": done.compute_type,
            "source_bytes": done.source_bytes,
            "target_bytes": done.target_bytes,
            "files": {name: record.num_bytes for name, record in sorted(done.files.items())},
            "memory": plan.to_dict(),
        }
        emit_json(facts)
        return
    share = done.target_bytes / max(1, done.source_bytes)
    emit(f"{'folder':15} {done.target}")
    emit(f"{'weights':15} {size_text(done.source_bytes)} -> {size_text(done.target_bytes)} ({share:.0%})")
    emit(
        f"{'in memory':15} {size_text(plan.num_bytes)} at most with {load.num_seqs} requests of {load.length} positions"
    )
    say(f"next: llada-rt verify {done.target}" + ("" if base else f" --against {model}"))


@commands.command()
def inspect(
    model: Folder,
    length: Annotated[
        int | None, typer.Option("--length", min=1, help="Positions of a canvas.", show_default="the context")
    ] = None,
    num_seqs: Annotated[int, typer.Option("--max-num-seqs", min=1, help="Requests that run together.")] = 1,
    as_json: Json = False,
) -> None:
    """What is in a model folder: shape, tensors, memory at each compute type, problems. Reads headers only."""
    from ..runtime.runner import describe_model
    from ..tools.inspection import inspect_model

    folder = check_exists(Path(model))
    load = _load(describe_model(folder).model, EngineConfig(folder, max_num_seqs=num_seqs), length, None)
    facts = inspect_model(folder, load)
    if as_json:
        emit_json(facts)
        return
    shape = facts["model"]
    emit(f"{'model':15} {facts['model_dir']}")
    emit(f"{'architecture':15} {facts['architecture']}, {facts['num_parameters']:,} parameters")
    emit(
        f"{'shape':15} {shape['num_layers']} layers, width {shape['d_model']}, {shape['num_heads']} heads over "
        f"{shape['num_kv_heads']} key/value heads of {shape['head_dim']}, MLP {shape['mlp_hidden_size']}"
    )
    emit(f"{'vocabulary':15} {shape['vocab_size']:,}, context {shape['max_sequence_length']:,} tokens")
    quantization = facts["quantization"]
    emit(f"{'quantised':15} {json.dumps(quantization) if quantization else 'no'}")
    emit(f"{'tensors':15} {size_text(facts['tensor_bytes'])}")
    for kind, each in facts["tensors"].items():
        size = " x ".join(map(str, each["shape"]))
        emit(f"  {kind:32} {each['count']:4} of {size:14} {'/'.join(each['dtypes']):5} {size_text(each['bytes']):>12}")
    emit(f"{'memory':15} with {load.num_seqs} request{'s' * (load.num_seqs > 1)} of {load.length} positions")
    for compute_type, plan in facts["memory"].items():
        terms = ", ".join(f"{name} {size_text(t['bytes'])}" for name, t in plan["terms"].items() if t["bytes"])
        per_token = f"{plan['kv_bytes_per_token']:,} bytes of K/V per token"
        emit(f"  {compute_type:14} {size_text(plan['bytes']):>10}: {terms}; {per_token}")
    emit(f"{'problems':15} {len(facts['problems']) or 'none'}")
    for problem in facts["problems"]:
        emit(f"  {problem}")


@commands.command()
@with_flags(engine_options=ENGINE_FLAGS)
def verify(
    model: Folder,
    against: Annotated[
        str | None, typer.Option("--against", help="Folder of the model that it was made from.", show_default=False)
    ] = None,
    against_type: Annotated[
        str, typer.Option("--against-type", help="Arithmetic of that model: its compute type here.")
    ] = "auto",
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="File with a prompt per line.", show_default="a few that come along"),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option("--min-agreement", min=0.0, max=1.0, help="Share of equal largest logits that is enough.")
    ] = 0.95,
    as_json: Json = False,
    *,
    engine_options: dict[str, Any],
) -> None:
    """Whether a model folder is whole and sound and, with --against, answers as its source. Exit code 7 if not."""
    from ..engine import Engine
    from ..tools.verification import Check, compare, verify_folder

    if prompts is not None and against is None:
        raise typer.BadParameter("expected --against beside it", param_hint="--prompts")
    checks = verify_folder(check_exists(Path(model)))
    agreement = None
    if against is not None and all(check.is_good is not False for check in checks):
        texts = None if prompts is None else read_prompts(prompts)
        options = engine_options | {"compute_type": against_type}
        with Engine(model, **engine_options) as engine, Engine(against, **options) as source:
            agreement = compare(engine, source, texts)
            kinds = [each.info()["compute_type"] for each in (engine, source)]
        detail = (
            f"{agreement.top1:.2%} of {agreement.num_positions} positions ({kinds[0]} against {kinds[1]}), largest "
            f"difference {agreement.max_difference:.3g}, KL {agreement.mean_kl:.3g} nats, "
            f"{agreement.equal_tokens:.1%} of answer tokens equal"
        )
        checks.append(Check("agreement", agreement.num_positions > 0 and agreement.top1 >= min_agreement, detail))
    is_good = all(check.is_good is not False for check in checks)
    if as_json:
        facts = {"ok": is_good, "checks": [check.to_dict() for check in checks]}
        emit_json(facts | {"agreement": agreement.to_dict() if agreement else None})
    else:
        for check in checks:
            state = {True: "ok", False: "FAILED", None: "skipped"}[check.is_good]
            emit(f"{check.name:10} {state:8} {check.detail}")
    if not is_good:
        raise typer.Exit(CHECK_FAILED)


def show_memory(
    model: str | None, engine_options: dict[str, Any], length: int | None, block_length: int | None, *, as_json: bool
) -> None:
    """What a model needs in memory, without loading it."""
    from ..runtime.runner import describe_model

    config = EngineConfig(Path(model) if model is not None else DEMO_DIR, **engine_options)
    folder = check_folder(config.model_dir)
    load = _load(describe_model(folder).model, config, length, block_length)
    table = place(config.device, config.cpu_isa).table
    plan = footprint_of(folder, load, compute_type=config.compute_type, table=table, process_bytes=resident_bytes())
    if as_json:
        emit_json({"compute_type": plan.compute_type, **plan.to_dict()})
        return
    for term in plan.terms:
        emit(f"{term.name:15} {term.num_bytes:>15,} {size_text(term.num_bytes):>11}  {term.formula}")
    emit(f"{'together':15} {plan.num_bytes:>15,} {size_text(plan.num_bytes):>11}  at most while requests run")


# ---------------------------------------------------------------- shared by the commands


def _load(shape: dict[str, Any], config: EngineConfig, length: int | None, block_length: int | None) -> Load:
    from ..runtime.runner import default_num_threads

    length = min(length or shape["max_sequence_length"], shape["max_sequence_length"])
    return Load(
        num_seqs=config.max_num_seqs,
        length=length,
        block_length=min(block_length or length, length),
        max_num_batched_tokens=config.max_num_batched_tokens,
        num_threads=config.threads or default_num_threads(),
    )


def read_prompts(path: Path) -> list[str]:
    """A prompt per line; empty lines don't count."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts: {path}: cannot be read: {str(error)[:200]}") from error
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ConfigError(f"--prompts: {path}: expected a prompt per line, got none")
    return prompts
