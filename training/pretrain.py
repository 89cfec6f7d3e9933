"""Train a model by a recipe:  python -m training.pretrain training/recipes/verse.toml --out runs/verse

With `--init MODEL_DIR` it goes on from the weights of an exported model, under another recipe.
The run's folder gets metrics.jsonl, checkpoint.pt (the same command resumes from it) and, at the end, the exported
model in `model/`, evaluated as it was written; its card holds the figures.
"""

import argparse
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from training.data import DataConfig, VerseBatches
from training.evaluate import evaluate_and_record
from training.export import ExportConfig, export_model, recipes_in_card
from training.model import LLaDA, ModelConfig
from training.tasks.verse import PHRASES, VerseBook, data_hash
from training.tokenizer import EOS_TOKEN, MASK_TOKEN, build_tokenizer
from training.trainer import TrainConfig, Trainer


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole run: [model], [data], [train] and [export] of a TOML file."""

    model: dict[str, Any]  # ModelConfig but for what the tokenizer decides: vocabulary size and special ids
    data: DataConfig
    train: TrainConfig
    export: ExportConfig
    data_sha256: str | None
    text: str  # the file as it was read, for the model card

    @classmethod
    def read(cls, path: Path) -> "Recipe":
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
        expected = {"model", "data", "train", "export"}
        if set(tables) != expected:
            raise ValueError(f"{path}: expected tables {sorted(expected)}, received {sorted(tables)}")
        data = dict(tables["data"])
        digest = data.pop("sha256", None)
        decided = {"vocab_size", "mask_token_id", "eos_token_id", "pad_token_id"}
        check_fields(ModelConfig, tables["model"], f"{path}: [model]", given=decided)
        return cls(
            tables["model"],
            make(DataConfig, data, f"{path}: [data]"),
            make(TrainConfig, tables["train"], f"{path}: [train]"),
            make(ExportConfig, tables["export"], f"{path}: [export]"),
            digest,
            text,
        )

    def model_config(self, tokenizer: Tokenizer) -> ModelConfig:
        eos_id = tokenizer.token_to_id(EOS_TOKEN)
        rows = -(-tokenizer.get_vocab_size() // 16) * 16  # whole tiles of the head
        ids = {"mask_token_id": tokenizer.token_to_id(MASK_TOKEN), "eos_token_id": eos_id, "pad_token_id": eos_id}
        return ModelConfig(**self.model, **ids, vocab_size=rows)


def check_fields(kind: type, table: Mapping[str, Any], where: str, given: set[str] = frozenset()) -> None:
    """Names and simple types of a TOML table against a dataclass; errors say what was expected."""
    hints = typing.get_type_hints(kind)
    known = {field.name for field in fields(kind)} - given
    if unknown := set(table) - known:
        raise ValueError(f"{where}: unknown {sorted(unknown)}, expected some of {sorted(known)}")
    for name, value in table.items():
        simple = [t for t in (typing.get_args(hints[name]) or (hints[name],)) if t in (int, float, bool, str)]
        if hints[name] in (int, float, bool, str) or (simple and type(None) in typing.get_args(hints[name])):
            allowed = {*simple, int} if float in simple else set(simple)
            if type(value) not in allowed:
                raise ValueError(f"{where}: {name} expected {hints[name]}, received {value!r}")


def make(kind: type, table: Mapping[str, Any], where: str) -> Any:
    check_fields(kind, table, where)
    try:
        return kind(**table)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


def prepare(recipe: Recipe, folder: Path, *, init: Path | None = None) -> tuple[Trainer, VerseBook, Tokenizer]:
    """Everything of a run before its first step. `init`: a model folder of the same sizes and vocabulary."""
    if recipe.data_sha256 not in (None, data_hash()):
        raise ValueError(f"verse.jsonl: sha256 expected {recipe.data_sha256}, received {data_hash()}")
    book = VerseBook.select(max_chars=recipe.data.max_chars)
    tokenizer = build_tokenizer((poem.text + poem.title + poem.author for poem in book.poems), PHRASES)
    model = LLaDA(recipe.model_config(tokenizer))
    model.initialize(torch.Generator().manual_seed(recipe.train.seed))
    if init is not None:
        start, vocabulary = LLaDA.from_folder(init), Tokenizer.from_file(str(init / "tokenizer.json"))
        if start.config != model.config or vocabulary.get_vocab() != tokenizer.get_vocab():
            raise ValueError(f"{init}: expected the recipe's sizes {model.config}, received {start.config}")
        model.load_state_dict(start.state_dict())
    batches = VerseBatches.build(book, tokenizer, recipe.data, recipe.train.seed)
    return Trainer(model, batches, recipe.train, folder), book, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumes if it holds a checkpoint")
    parser.add_argument("--init", type=Path, default=None, help="start from the weights of this model folder")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own choice)")
    parser.add_argument("--export-only", action="store_true", help="export the checkpoint as it is, without evaluation")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    recipe = Recipe.read(arguments.recipe)
    trainer, book, tokenizer = prepare(recipe, arguments.out, init=arguments.init)
    resumed = trainer.resume()
    print(
        f"{len(book.poems)} poems, {book.num_chars} characters, {trainer.model.num_parameters} parameters, "
        f"step {trainer.step} of {recipe.train.steps}" + (" (resumed)" if resumed else ""),
        flush=True,
    )
    if not arguments.export_only:
        for record in trainer.run():
            print(json.dumps({key: round(value, 4) for key, value in record.items()}), flush=True)

    model = LLaDA(trainer.model.config)
    model.load_state_dict(trainer.final_weights())
    folder = arguments.out / "model"
    facts = {
        "poems": len(book.poems),
        "characters": book.num_chars,
        "data_sha256": data_hash(),
        "last stage": f"seed {recipe.train.seed}, {trainer.step} steps",
    }
    recipes = [*(recipes_in_card(arguments.init) if arguments.init else []), recipe.text]
    export_model(model, tokenizer, folder, recipe.export, overwrite=True, facts=facts, recipes=recipes)
    if not arguments.export_only:
        print(json.dumps(evaluate_and_record(folder, book, gen_length=recipe.export.gen_length)))


if __name__ == "__main__":
    main()
