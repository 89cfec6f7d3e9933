"""Write a model folder in the published layout, ready to be served.

config.json, model.safetensors, tokenizer.json, tokenizer_config.json (chat template, special tokens),
generation_config.json (ids, and under "llada_rt" the defaults a caller gets who gives no parameters) and README.md.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from training.model import LLaDA
from training.tokenizer import BOS_TOKEN, CHAT_TEMPLATE, EOS_TOKEN, EOT_TOKEN, MASK_TOKEN

RESULTS = "## Exact match"  # heading of the card's results
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    name: str
    description: str = ""  # first paragraph of the model card
    dtype: str = "bfloat16"
    gen_length: int = 16  # defaults of generation: generation_config.json, "llada_rt"
    steps: int = 16
    block_length: int = 16

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"export dtype expected one of {sorted(DTYPES)}, received {self.dtype!r}")


def export_model(
    model: LLaDA,
    tokenizer: Tokenizer,
    folder: Path,
    config: ExportConfig,
    *,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
    recipes: Sequence[str] = (),
) -> None:
    """Write the folder. Weights must be finite, the tokenizer must fit; a model that is there stays unless `overwrite`.

    facts, recipes: what the model card says of the data and of the stages of the run. `write_results` adds the results.
    """
    if (folder / "config.json").exists() and not overwrite:
        raise FileExistsError(f"{folder} holds a model already; overwrite=True replaces it")
    if tokenizer.get_vocab_size() > model.config.vocab_size:
        entries, rows = tokenizer.get_vocab_size(), model.config.vocab_size
        raise ValueError(f"tokenizer has {entries} entries, the model {rows} rows")
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    folder.mkdir(parents=True, exist_ok=True)
    ids = {"mask_token_id": model.config.mask_token_id, "eos_token_id": model.config.eos_token_id}
    ids |= {"pad_token_id": model.config.pad_token_id, "eot_token_id": tokenizer.token_to_id(EOT_TOKEN)}
    bos_id = tokenizer.token_to_id(BOS_TOKEN)
    defaults = {"gen_length": config.gen_length, "steps": config.steps, "block_length": config.block_length}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS_TOKEN,
        "eos_token": EOS_TOKEN,
        "pad_token": EOS_TOKEN,
        "mask_token": MASK_TOKEN,
        "eot_token": EOT_TOKEN,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.max_sequence_length,
        "chat_template": CHAT_TEMPLATE,
    }
    card = model_card(model, config, facts or {}, recipes)
    texts = {
        "config.json": model.config.to_json(config.dtype),
        "tokenizer.json": tokenizer.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(tokenizer_config, indent=1, ensure_ascii=False),
        "generation_config.json": json.dumps({"bos_token_id": bos_id, **ids, "llada_rt": defaults}, indent=1),
        "README.md": card,
    }
    model.save_weights(folder / "model.safetensors", DTYPES[config.dtype])
    for name, text in texts.items():
        (folder / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def model_card(model: LLaDA, config: ExportConfig, facts: Mapping[str, Any], recipes: Sequence[str]) -> str:
    sizes = model.config
    network = (
        f"LLaDA architecture, {model.num_parameters:,} parameters ({config.dtype}): {sizes.n_layers} layers, "
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
    """The recipes of a model's stages, out of its card."""
    return re.findall(
        r"^```toml\n(.*?)\n```$", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


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
