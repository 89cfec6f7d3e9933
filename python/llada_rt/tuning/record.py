"""What was chosen, beside the model: generation_config.json under "llada_rt", where every engine reads its defaults.

"llada_rt_tuning" beside it tells how the options were found and what they replace. Other keys stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import DEMO_DIR
from ..errors import ConfigError, OutputError
from ..excerpt import excerpt
from ..folder.model_files import MANIFEST, read_json
from ..json_values import plain
from ..params import SamplingParams
from .space import Setting

FILE = "generation_config.json"
OPTIONS, FACTS = "llada_rt", "llada_rt_tuning"


def target_of(model: Path, out: str | os.PathLike[str] | None) -> Path:
    """The folder that the record goes to, made if need be, and writable: or a typed error before any work."""
    target = model if out is None else Path(out)
    if _is_same(target, DEMO_DIR):
        raise ConfigError(
            "out: expected a folder for the results, got the demo model of the package, which stays as it is",
            param="out",
            hint="give out, --out on the command line",
        )
    if not _is_same(target, model) and (target / "config.json").exists():
        raise ConfigError(
            f"out: expected a folder for the results, got another model: {excerpt(str(target), 300)}",
            param="out",
            hint="open the engine on that folder, or give an empty one",
        )
    probe = target / f".{secrets.token_hex(8)}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(target, error) from error
    return target


def record_of(setting: Setting, defaults: SamplingParams, longest: int | None) -> dict[str, Any]:
    """The options by which a new engine decodes as this setting, over what the model says of other things.

    `longest`: positions of the longest answer that was asked for; None: only templates were filled. No block reached
    over that length, so a longer block is written as it was asked. The model's own length grows to it where the block
    would not fit.
    """
    options = dict(setting.options)
    block = options.get("block_length")
    if block is not None and longest is not None:
        block = options["block_length"] = min(block, longest)
    if block is not None and block > defaults.gen_length:
        options["gen_length"] = longest or block
    record: dict[str, Any] = plain(SamplingParams(**options).over(defaults).chosen)
    return record


def write_record(target: Path, model: Path, options: Mapping[str, Any], facts: Mapping[str, Any]) -> Path:
    """Write the record into the file of `target`; what else is there, or in the model's own file, stays."""
    source = target if (target / FILE).exists() else model
    old = read_json(source, FILE)
    value = {**old, OPTIONS: dict(options), FACTS: {**facts, "before": old.get(OPTIONS, {})}}
    data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
    manifest = read_json(target, MANIFEST)
    files = manifest.get("files", {})
    is_listed = FILE in files
    if is_listed:  # a folder is whole at every moment: what is not listed is not compared
        rest = {name: known for name, known in files.items() if name != FILE}
        write_file(target / MANIFEST, _as_json({**manifest, "files": rest}))
    write_file(target / FILE, data)
    if is_listed:
        own = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_file(target / MANIFEST, _as_json({**manifest, "files": {**files, FILE: own}}))
    return target / FILE


def write_file(path: Path, data: bytes) -> None:
    """All of it or nothing. A link is replaced, so that a file which others share stays as it was."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            part.write_bytes(data)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"out: {excerpt(str(path), 300)}: cannot be written: {error.strerror or type(error).__name__}",
        param="out",
        hint="give a folder that can be written as out, --out on the command line",
    )


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and os.path.samefile(one, other)
