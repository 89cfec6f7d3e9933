"""The small JSON files of a model folder: special ids, the model's own decoding defaults, the manifest of a conversion.

Everything here is data from a stranger: sizes are bounded before reading and every field is checked.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import DEMO_DIR, EngineConfig
from ..errors import (
    ConfigError,
    InvalidRequestError,
    LladaRtError,
    ModelFormatError,
    ModelNotFoundError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from ..excerpt import excerpt, excerpt_of
from ..params import SamplingParams

MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_NAMES, MAX_NAME_CHARS = 8, 60  # in a message
MAX_JSON_VALUES = 1 << 20  # each takes some 100 bytes
MAX_POINTER_BYTES = 1024  # by the specification of git-lfs
_PATH_CHARACTERS = 300  # of a path in a message

# Sizes and checksums of the files of a folder that `llada-rt convert` wrote.
MANIFEST = "llada_rt.json"
MANIFEST_VERSION = 1

# What makes a folder one of a LoRA adapter, see adapter.py.
ADAPTER_CONFIG = "adapter_config.json"

# Names under which published tokenizers keep the tokens that the configuration may leave out.
MASK_TOKENS = ("<|mdm_mask|>", "<|mask|>", "<[MASK]>", "[MASK]")
EOS_TOKENS = ("<|endoftext|>",)
EOT_TOKENS = ("<|eot_id|>", "<|role_end|>")


def check_folder(folder: Path) -> Path:
    """The model folder at a path: with a config.json and, if it was converted, all of its files in full length; or
    ModelError.
    """
    found = check_exists(folder)
    check_sizes(found)
    return found


def check_exists(folder: Path) -> Path:
    """The model folder at a path: itself, or its snapshot if it is a model's folder in the cache of the Hugging Face
    hub. ModelNotFoundError says what is missing, UnsupportedModelError that it is a LoRA adapter.
    """
    hint = "the shipped demo model is not in this installation" if folder == DEMO_DIR else None
    path = excerpt(str(folder), _PATH_CHARACTERS)
    try:
        return _found(folder, path, hint)
    except OSError as error:
        if isinstance(error, LladaRtError):
            raise
        raise of_os_error(path, error) from error


def _found(folder: Path, path: str, hint: str | None) -> Path:
    if not folder.exists():
        raise ModelNotFoundError(
            f"model folder not found: {path}",
            param="model_dir",
            hint=hint or "models are local folders; hf download ORG/NAME --local-dir FOLDER fetches one",
        )
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"expected a model folder, got a file: {path}", param="model_dir", hint="give the folder that holds it"
        )
    found = _snapshot_of(folder) if (folder / "snapshots").is_dir() else folder
    path = excerpt(str(found), _PATH_CHARACTERS)
    has_config = (found / "config.json").is_file()
    if (found / ADAPTER_CONFIG).is_file() and not (has_config and any(found.glob("model*.safetensors"))):
        raise UnsupportedModelError(
            f"expected a model, got a LoRA adapter without its model: {path}",
            hint=f"llada-rt convert {path} OUT --base MODEL --compute-type bfloat16 merges it into the model",
        )
    if not has_config:
        raise ModelNotFoundError(f"no config.json in {path}", param="model_dir", hint=hint or _elsewhere(found))
    return found


def _snapshot_of(folder: Path) -> Path:
    """The snapshot in `models--org--name` of the hub's cache: that of refs/main, or the only one."""
    if (folder / "config.json").is_file():
        return folder
    snapshots = _subfolders(folder / "snapshots")
    named = resolve_file(folder / "refs", "main") if (folder / "refs").is_dir() else None
    if named is not None:
        revision = named.read_bytes()[:MAX_NAME_CHARS].decode("utf-8", "replace").strip()
        if revision in snapshots:
            return folder / "snapshots" / revision
    if len(snapshots) != 1:
        place = excerpt(str(folder / "snapshots"), _PATH_CHARACTERS)
        raise ModelNotFoundError(
            f"expected one snapshot in {place}, or one that refs/main names, got {_listing(snapshots)}",
            param="model_dir",
            hint="give the snapshot's folder",
        )
    return folder / "snapshots" / snapshots[0]


def _elsewhere(folder: Path) -> str | None:
    """Where below the folder there are models, for a message."""
    places = [
        name
        for name in _subfolders(folder)
        if (folder / name / "config.json").is_file() or (folder / name / "snapshots").is_dir()
    ]
    if not places:
        return None
    return (
        f"it lies in {excerpt(str(folder / places[0]), _PATH_CHARACTERS)}"
        if len(places) == 1
        else f"there are models in {_listing(places)}"
    )


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise of_os_error(str(folder), error) from error


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(excerpt(name, MAX_NAME_CHARS) for name in names[:MAX_NAMES])
    return (shown or "none") + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def of_os_error(name: str, error: OSError) -> LladaRtError:
    """What the system says of a file or folder of a model, as an error of this package's kinds."""
    words = f"{excerpt(name, _PATH_CHARACTERS)}: cannot be read: {error.strerror or type(error).__name__}"
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return OutOfMemoryError(words, hint="this process or this machine has too many files open, or no memory")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return ModelNotFoundError(words, param="model_dir")
    return ModelFormatError(words)


def resolve_file(folder: Path, name: str) -> Path | None:
    """The real path of a file of the folder, or None if there is none. As in csrc/model/files.cc a link may not leave
    the folder, other than from a snapshot of the Hugging Face cache to its blobs.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ModelFormatError(f'expected the name of a file in the model folder, got "{excerpt(name)}"')
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        root, real = folder.resolve(strict=True), path.resolve(strict=True)
        is_hub_blob = root.parent.name == "snapshots" and real.is_relative_to(root.parent.parent / "blobs")
        if not real.is_relative_to(root) and not is_hub_blob:
            raise ModelFormatError(f"{excerpt(name)}: expected a file in the model folder, got a link that leaves it")
        if not real.is_file():
            raise ModelFormatError(f"{excerpt(name)}: expected a regular file, got a folder, pipe or device")
        return real
    except RuntimeError as error:  # resolving a loop of links
        raise ModelFormatError(f"{excerpt(name)}: cannot be read: {excerpt(str(error))}") from error
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> LladaRtError:
    """A file that was there a moment ago."""
    found = of_os_error(name, error)
    return ModelFormatError(found.message) if isinstance(found, ModelNotFoundError) else found


def check_is_no_pointer(name: str, path: Path) -> None:
    """ModelFormatError if git-lfs left a pointer in the place of a file that was not fetched."""
    if path.stat().st_size > MAX_POINTER_BYTES:
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(name, error) from error
    if content.startswith(b"version ") and b"git-lfs" in content and b"oid sha256:" in content:
        raise ModelFormatError(
            f'{excerpt(name)}: expected the file itself, got a git-lfs pointer to it: fetch it with "git lfs pull"'
        )


def read_file(folder: Path, name: str, max_bytes: int) -> bytes | None:
    """The bytes of a file of the folder, or None if there is none."""
    real = resolve_file(folder, name)
    if real is None:
        return None
    try:
        if real.stat().st_size > max_bytes:
            raise ModelFormatError(f"{name}: expected at most {max_bytes} bytes, got {real.stat().st_size}")
        check_is_no_pointer(name, real)
        with real.open("rb") as file:
            data = file.read(max_bytes + 1)  # it may have grown
    except OSError as error:
        raise _unreadable(name, error) from error
    if len(data) > max_bytes:
        raise ModelFormatError(f"{name}: expected at most {max_bytes} bytes, got more")
    return data


def parse_json(data: bytes, name: str, *, max_values: int = MAX_JSON_VALUES, unique: bool = False) -> Any:
    """The value in a JSON text of bounded size. `unique`: a key that is there twice is an error.

    Raises ModelFormatError. The number of values is bounded before they are made.
    """
    num_values = 1 + sum(map(data.count, (b",", b"[", b"{")))  # at most
    if num_values > max_values:
        raise ModelFormatError(f"{name}: expected at most {max_values} values of JSON, got about {num_values}")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ModelFormatError(f'{name}: expected each key once, got "{excerpt(twice)}" twice')
        return members

    try:
        return json.loads(data, object_pairs_hook=once if unique else None)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{name}: not valid JSON: {excerpt(str(error))}") from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of the folder; an empty one if there is no such file."""
    data = read_file(folder, name, MAX_JSON_BYTES)
    if data is None:
        return {}
    value = parse_json(data, name)
    if not isinstance(value, dict):
        raise ModelFormatError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a converted folder's manifest says of one of its files."""

    num_bytes: int
    sha256: str


def read_manifest(folder: Path) -> dict[str, FileRecord] | None:
    """The files that `llada-rt convert` wrote, by name; None for a folder that it did not write."""
    if not os.path.lexists(folder / MANIFEST):
        return None
    manifest = read_json(folder, MANIFEST)
    version, files = manifest.get("format_version"), manifest.get("files")
    if version != MANIFEST_VERSION:
        raise UnsupportedModelError(
            f"{MANIFEST}: expected format_version {MANIFEST_VERSION}, got {excerpt_of(version)}",
            hint="a newer llada-rt wrote this folder: upgrade, or convert the source again",
        )
    if not isinstance(files, dict):
        raise ModelFormatError(f"{MANIFEST}: expected files to be an object, got {type(files).__name__}")
    records = {}
    for name, record in files.items():
        size, digest = (record.get("bytes"), record.get("sha256")) if isinstance(record, dict) else (None, None)
        if type(size) is not int or not isinstance(digest, str):
            raise ModelFormatError(f"{MANIFEST}: {excerpt(name)}: expected bytes and sha256, got {excerpt_of(record)}")
        records[name] = FileRecord(size, digest)
    return records


def check_sizes(folder: Path) -> None:
    """A converted folder holds each file of its manifest in full length, or ModelFormatError names what it lacks."""
    for name, record in (read_manifest(folder) or {}).items():
        fault = size_fault(folder, name, record)
        if fault is not None:
            raise ModelFormatError(fault, hint="the folder was cut short: copy it again, or convert the source again")


def size_fault(folder: Path, name: str, record: FileRecord) -> str | None:
    """What is wrong with the length of a file, if anything."""
    real = resolve_file(folder, name)
    expected = f"{excerpt(name)}: expected {excerpt_of(record.num_bytes)} bytes by {MANIFEST}"
    if real is None:
        return f"{expected}, the file is missing"
    num_bytes = real.stat().st_size
    if num_bytes != record.num_bytes:
        return f"{expected}, got {num_bytes}"
    return None


def unknown_keys_text(model: Mapping[str, Any]) -> str | None:
    """What to say of the keys of config.json that nobody here knows, if there are any (csrc/model/config_keys.cc)."""
    names = [repr(name[:MAX_NAME_CHARS]) for name in model["unknown_keys"]]
    if not names:
        return None
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return (
        f"config.json: unknown keys {', '.join(names[:MAX_NAMES])}{more}: this runtime does not read them; if they "
        "change the model's computation, its answers are wrong"
    )


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids with a meaning for decoding; None: the model has none."""

    mask: int
    eos: int | None
    eot: int | None
    more_ends: tuple[int, ...] = ()  # further ids that are declared to end a text

    @property
    def ends(self) -> frozenset[int]:
        """The ids that end a text."""
        return frozenset(self.ordered_ends)

    @property
    def ordered_ends(self) -> tuple[int, ...]:
        """The ids that end a text, EOS first and EoT second, if there are such."""
        return tuple(token for token in (self.eos, self.eot, *self.more_ends) if token is not None)


def special_ids(
    config: EngineConfig, folder: Path, model: Mapping[str, Any], token_id: Callable[[str], int | None]
) -> SpecialIds:
    """Mask, EOS and EoT. Each of the three is named by one of these, in the order of authority:

    1. the engine's options, which replace all that the folder says of the token;
    2. config.json, 3. generation_config.json (an id or a list), 4. tokenizer_config.json, 5. special_tokens_map.json
       (`eos_token`, `eot_token`: the token itself);
    6. if none of these names the token, tokenizer.json, by a customary name.

    Where one id is needed (`logits_eos_inf`, what fills the positions after an early end), the first id found is meant.
    Every id of 2 to 5 ends a text. The first source that names a token must name ids of the vocabulary. Ids beyond the
    vocabulary that later sources name can't occur and are passed over.
    """
    files = [read_json(folder, name) for name in ("config.json", "generation_config.json")]
    words = [read_json(folder, name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    vocab_size = int(model["vocab_size"])

    def named(name: str, source: Mapping[str, Any]) -> list[object]:
        value = source.get(name.removesuffix("_id"))
        word = value.get("content") if isinstance(value, dict) else value
        return [token_id(word)] if isinstance(word, str) else []

    def find(name: str, customary: tuple[str, ...]) -> list[int]:
        own = _listed(getattr(config, name))
        sources = [own] if own else [_listed(model.get(name)), *(_listed(each.get(name)) for each in files)]
        found: list[int] = []
        for source in sources:
            is_first = not found
            for value in source:
                if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < vocab_size:
                    found.append(value)
                elif is_first:
                    raise ConfigError(
                        f"{name}: expected a token id from 0 to {vocab_size - 1}, got {excerpt_of(value)}", param=name
                    )
        if not own:
            spoken = [token for source in words for token in named(name, source)]
            if name == "mask_token_id" and found:
                spoken = []
            if not found and not any(token is not None for token in spoken):
                spoken = [token_id(word) for word in customary]
                spoken = [token for token in spoken if token is not None][:1]
            found += [token for token in spoken if isinstance(token, int) and token < vocab_size]
        return list(dict.fromkeys(found))

    masks = find("mask_token_id", MASK_TOKENS)
    if not masks:
        raise ConfigError(
            "the model names no mask token", param="mask_token_id", hint="give Engine(..., mask_token_id=...)"
        )
    eos, eot = find("eos_token_id", EOS_TOKENS), find("eot_token_id", EOT_TOKENS)
    more = dict.fromkeys(token for token in [*eos[1:], *eot[1:]] if token not in (*eos[:1], *eot[:1]))
    ids = SpecialIds(masks[0], eos[0] if eos else None, eot[0] if eot else None, tuple(more))
    if ids.mask in ids.ends:
        raise ConfigError(f"mask_token_id {ids.mask} is also the id that ends a text", param="mask_token_id")
    return ids


def _listed(value: object) -> list[object]:
    """One, several or none -> a list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def default_params(folder: Path) -> SamplingParams:
    """What generation_config.json says under "llada_rt", with nothing given by a caller; else SamplingParams()."""
    options = read_json(folder, "generation_config.json").get("llada_rt", {})
    try:
        return SamplingParams().over(SamplingParams.from_dict(options))
    except InvalidRequestError as error:
        raise ConfigError(f"generation_config.json, llada_rt: {error.message}", param=error.param) from error
