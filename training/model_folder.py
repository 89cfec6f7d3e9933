"""A model folder in the published layout, ready to be served.

config.json, model.safetensors or shards with an index, tokenizer.json, tokenizer_config.json (chat template, special
tokens), generation_config.json (ids, and under "llada_rt" the defaults a caller gets who gives no parameters) and
README.md.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from training.chat_form import find_template
from training.model import LLaDA
from training.tokenization import BOS_TOKEN, CHAT_TEMPLATE, EOT_TOKEN, HEADER_END, HEADER_START
from training.weights import save_weights

RESULTS = "## Exact match"  # heading of the card's results
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# What a model consists of: replaced together. Anything else in a folder that is replaced stays.
MODEL_FILES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
    r"|chat_template\.jinja|README\.md"
    r"|model[-\w]*\.safetensors(\.index\.json)?"
)


# What a tokenizer and its chat form consist of.
KEPT_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "chat_template.jinja",
)

SPECIAL_IDS = ("mask_token_id", "eos_token_id", "pad_token_id", "bos_token_id", "eot_token_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What is written beside the weights, and how they are rounded and cut."""

    name: str
    description: str = ""  # first paragraph of the model card
    dtype: str = "bfloat16"
    max_shard_bytes: int | None = None  # weights in files of at most so many bytes; none: one file
    gen_length: int = 16  # defaults of generation: generation_config.json, "llada_rt"
    steps: int = 16
    block_length: int = 16
    decoding: Mapping[str, bool | int | float | str] = field(
        default_factory=dict
    )  # more: threshold, cache, temperature ...

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"export dtype: expected one of {sorted(DTYPES)}, got {self.dtype!r}")
        if self.gen_length % self.block_length or self.steps % (self.gen_length // self.block_length):
            sizes = f"gen_length {self.gen_length}, block_length {self.block_length}, steps {self.steps}"
            raise ValueError(f"export {sizes} do not divide")


def export_model(
    model: LLaDA,
    tokenizer: Tokenizer,
    folder: Path,
    config: ExportConfig,
    *,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
    recipes: Sequence[str] = (),
    tokenizer_config: Mapping[str, Any] | None = None,
    keep: Path | None = None,
    is_chat: bool = True,
) -> None:
    """Write the folder, whole or not at all; a model that is there stays unless `overwrite`.

    Weights must be finite and the tokenizer must fit. facts, recipes: what the model card says of the data and of the
    stages of the run; `write_results` adds the results. tokenizer_config: of the checkpoint that the run began with;
    what it says beside special tokens and chat template is kept. keep: a checkpoint in whose own chat form the model
    was trained; tokenizer, template and special tokens are its own, file by file. is_chat: whether the model was
    trained on conversations; a chat template makes every caller ask in that form. An ARM or a block-causal model is
    marked in config.json, so that the runtime refuses what it does not serve.
    """
    check_target(folder, overwrite=overwrite)
    check_model(model, tokenizer)
    texts = {
        "config.json": model.config.to_json(config.dtype),
        "tokenizer.json": tokenizer.to_str(pretty=False),
        "tokenizer_config.json": as_json(
            {**(tokenizer_config or {}), **make_tokenizer_config(model, tokenizer, is_chat=is_chat)}
        ),
        "generation_config.json": as_json(generation_config(model, tokenizer, config)),
        "README.md": model_card(model, config, facts or {}, recipes),
    }
    kept = {} if keep is None else {name: (keep / name).read_bytes() for name in KEPT_FILES if (keep / name).is_file()}
    if keep is not None:
        texts = {name: text for name, text in texts.items() if name not in KEPT_FILES}
        texts |= kept_ids(keep, texts)
    with whole_folder(folder) as partial:
        for name, text in texts.items():
            (partial / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
        for name, data in kept.items():
            (partial / name).write_bytes(data)
        save_weights(model.state_dict(), partial, DTYPES[config.dtype], max_shard_bytes=config.max_shard_bytes)


def kept_ids(source: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """config.json and generation_config.json with the special ids of a checkpoint, as it gives them."""
    config, generation = (json.loads(texts[name]) for name in ("config.json", "generation_config.json"))
    stored = read_json(source / "config.json")
    config |= {name: value for name, value in stored.items() if name in SPECIAL_IDS and value is not None}
    defaults = {"llada_rt": generation["llada_rt"]} if "llada_rt" in generation else {}
    return {
        "config.json": as_json(config),
        "generation_config.json": as_json(read_json(source / "generation_config.json") | defaults),
    }


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Nothing there, an empty folder, or a model that may be replaced."""
    if (folder / "config.json").exists():
        if not overwrite:
            raise FileExistsError(f"{folder} holds a model already; overwrite=True (--overwrite) replaces it")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected a new folder, an empty one or a model, got something else")


def check_model(model: LLaDA, tokenizer: Tokenizer) -> None:
    """Finite weights; a row for every token, a token for every id that means something."""
    entries, rows = tokenizer.get_vocab_size(), model.config.vocab_size
    if entries > rows:
        raise ValueError(f"tokenizer has {entries} entries, the model {rows} rows")
    for name in ("mask_token_id", "eos_token_id", "pad_token_id"):
        if tokenizer.id_to_token(token := getattr(model.config, name)) is None:
            raise ValueError(f"{name} {token}: expected a token of the tokenizer, which has none of that id")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")


def as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def make_tokenizer_config(model: LLaDA, tokenizer: Tokenizer, *, is_chat: bool) -> dict[str, Any]:
    """Special tokens by the ids of the configuration; others, and the chat template, where the tokenizer has them."""
    config = model.config
    optional = {"bos_token": BOS_TOKEN, "eot_token": EOT_TOKEN}
    of_chat = (BOS_TOKEN, HEADER_START, HEADER_END, EOT_TOKEN)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "eos_token": tokenizer.id_to_token(config.eos_token_id),
        "pad_token": tokenizer.id_to_token(config.pad_token_id),
        "mask_token": tokenizer.id_to_token(config.mask_token_id),
        **{name: token for name, token in optional.items() if tokenizer.token_to_id(token) is not None},
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_sequence_length,
        **({"chat_template": CHAT_TEMPLATE} if is_chat and None not in map(tokenizer.token_to_id, of_chat) else {}),
    }


def generation_config(model: LLaDA, tokenizer: Tokenizer, config: ExportConfig) -> dict[str, Any]:
    ids = {
        "bos_token_id": tokenizer.token_to_id(BOS_TOKEN),
        "mask_token_id": model.config.mask_token_id,
        "eos_token_id": model.config.eos_token_id,
        "pad_token_id": model.config.pad_token_id,
        "eot_token_id": tokenizer.token_to_id(EOT_TOKEN),
    }
    defaults = {"gen_length": config.gen_length, "steps": config.steps, "block_length": config.block_length}
    written = {name: token for name, token in ids.items() if token is not None}
    return written if model.config.causal else {**written, "llada_rt": {**defaults, **config.decoding}}


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that becomes `folder` when all is written, and vanishes if something fails.

    Of an older model there, its own files are replaced and others stay. Only between two renames is neither there; the
    old one then lies beside it as `.NAME.replaced`.
    """
    folder = folder.resolve()
    partial, replaced = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.replaced")
    for leftover in (partial, replaced):  # of a run that was cut
        if leftover.exists() and (folder.exists() or leftover == partial):
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            os.rename(replaced, folder)
        raise
    if replaced.exists():
        for path in replaced.iterdir():
            if not MODEL_FILES.fullmatch(path.name):
                os.rename(path, folder / path.name)
        shutil.rmtree(replaced)


def model_card(model: LLaDA, config: ExportConfig, facts: Mapping[str, Any], recipes: Sequence[str]) -> str:
    sizes = model.config
    kind = "LLaDA architecture"
    if sizes.causal:
        kind += " with causal attention (an autoregressive model, which llada-rt does not serve)"
    elif sizes.attention_block_length is not None:
        kind += f" with block-causal attention, blocks of {sizes.attention_block_length}"
    network = (
        f"{kind}, {model.num_parameters:,} parameters ({config.dtype}): {sizes.n_layers} layers, "
        f"d_model {sizes.d_model}, {sizes.n_heads} heads, feed-forward {sizes.mlp_hidden_size}, "
        f"vocabulary {sizes.vocab_size}, {'tied' if sizes.weight_tying else 'separate'} head."
    )
    parts = [f"# {config.name}", config.description.strip(), network]
    if facts:
        parts.append("## Training\n\n" + "\n".join(f"- {key}: {value}" for key, value in facts.items()))
    if recipes:
        parts.append("## Recipe\n\n" + "\n\n".join(f"```toml\n{recipe.strip()}\n```" for recipe in recipes))
    return "\n\n".join(part for part in parts if part)


def recipes_in_card(folder: Path) -> list[str]:
    """The recipes of a model's stages, out of its card; none where it has no card, or another's."""
    path = folder / "README.md"
    card = path.read_text(encoding="utf-8") if path.is_file() else ""
    return re.findall(r"^```toml\n(.*?)\n```$", card, re.DOTALL | re.MULTILINE)


def write_results(folder: Path, note: str, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Put a table {column: {row: cell}} into the model card as its first section, in place of an older one."""
    rows = list(dict.fromkeys(row for cells in columns.values() for row in cells))
    table = [["", *columns], ["---"] * (len(columns) + 1)]
    table += [[row, *(cells.get(row, "") for cells in columns.values())] for row in rows]
    section = f"{RESULTS}\n\n{note}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in table) + "\n"
    card = (folder / "README.md").read_text(encoding="utf-8")
    before, older, rest = card.partition(RESULTS)
    # In place of the older table, or before the first section.
    before, heading, after = (before, *rest.partition("\n## ")[1:]) if older else card.partition("\n## ")
    text = before.rstrip() + "\n\n" + section + (heading + after if heading else "")
    (folder / "README.md").write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """An object; an empty one where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def convert(source: Path, folder: Path, changes: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write a model folder again, in another type or in shards. `changes`: fields of ExportConfig."""
    stored = read_json(source / "config.json").get("torch_dtype")
    decoding = read_json(source / "generation_config.json").get("llada_rt", {})
    lengths = {name: decoding.pop(name) for name in ("gen_length", "steps", "block_length") if name in decoding}
    own = {"name": source.resolve().name, "dtype": stored if stored in DTYPES else "bfloat16", "decoding": decoding}
    export_model(
        LLaDA.from_folder(source),
        Tokenizer.from_file(str(source / "tokenizer.json")),
        folder,
        ExportConfig(**{**own, **lengths, **changes}),
        overwrite=overwrite,
        facts={"converted from": source.resolve().name},
        recipes=recipes_in_card(source),
        tokenizer_config=read_json(source / "tokenizer_config.json"),
        keep=None if find_template(source) in (None, CHAT_TEMPLATE) else source,
        is_chat=find_template(source) is not None,
    )
