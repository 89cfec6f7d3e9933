"""A recipe and what it makes: data, tokenizer, model, trainer, and in the end the exported folder.

A recipe is a TOML file with the tables [model], [data] (or [verse], the demo's poems), [train] and [export]. Each
of its fields can be given on the command line too: `RECIPE.toml --out DIR --train.lr 1e-3 --data.batches.batch-rows 8`.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from tokenizers import Tokenizer

from training.config import TrainConfig, make, nearest, read_toml, to_toml
from training.data import Batches, VerseBatches, VerseConfig
from training.distributed import World
from training.export import ExportConfig, export_model, recipes_in_card
from training.model import LLaDA, ModelConfig
from training.objectives import Objective
from training.progress import draw_curves
from training.sources import DataConfig
from training.sources import prepare as prepare_data
from training.tasks import verse
from training.tasks.verse import VerseBook
from training.tokenizer import EOS_TOKEN, MASK_TOKEN, build_tokenizer, load_tokenizer
from training.trainer import Trainer

DECIDED = ("vocab_size", "mask_token_id", "eos_token_id", "pad_token_id")  # by the tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """The network; the tokenizer decides the rest (vocabulary, special ids)."""

    d_model: int  # width of the residual stream
    n_layers: int  # blocks
    n_heads: int  # of the queries
    n_kv_heads: int  # of keys and values; divides n_heads
    mlp_hidden_size: int  # width of the feed-forward
    max_sequence_length: int = 512  # tokens
    rope_theta: float = 10000.0  # base of the rotary angles
    rms_norm_eps: float = 1e-5
    weight_tying: bool = False  # the head is the embedding
    causal: bool = False  # an autoregressive model (ARM) instead of a masked diffusion model
    attention_block_length: int | None = (
        None  # tokens of a block that sees itself and what is before it; none: all see all
    )

    @classmethod
    def of(cls, config: ModelConfig) -> "ModelSizes":
        return cls(**{name.name: getattr(config, name.name) for name in dataclasses.fields(cls)})

    def config(self, tokenizer: Tokenizer) -> ModelConfig:
        eos_id = tokenizer.token_to_id(EOS_TOKEN)
        rows = -(-tokenizer.get_vocab_size() // 16) * 16  # whole tiles of the head
        ids = {"mask_token_id": tokenizer.token_to_id(MASK_TOKEN), "eos_token_id": eos_id, "pad_token_id": eos_id}
        return ModelConfig(**dataclasses.asdict(self), **ids, vocab_size=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run. What is not given on the command line comes from the recipe, or is the default."""

    out: Path  # folder of the run; goes on where it stopped if it holds a checkpoint
    init: Path | None = None  # model folder, published or exported, whose weights the run starts from
    device: str = "auto"  # cpu, cuda, or auto: a GPU if there is one
    threads: int | None = None  # of torch on the CPU; none: torch's own choice
    tensorboard: bool = False  # write OUT/tensorboard beside metrics.jsonl
    allow_changed_data: bool = False  # resume although the data is not what the run began with
    model: ModelSizes | None = None  # none: the sizes of --init
    data: DataConfig | None = None  # rows of files or of a task
    verse: VerseConfig | None = None  # or the demo's poems
    train: TrainConfig
    export: ExportConfig

    def __post_init__(self) -> None:
        if (self.data is None) == (self.verse is None):
            raise ValueError("expected one of the tables [data] and [verse]")
        if self.model is None and self.init is None:
            raise ValueError("expected the table [model], or --init with a model folder")


TABLES = {"model": ModelSizes, "data": DataConfig, "verse": VerseConfig, "train": TrainConfig, "export": ExportConfig}


def read_command(arguments: Sequence[str], doc: str) -> RunConfig:
    """RECIPE.toml and overrides -> the resolved configuration. Help and errors end the process, as of a command."""
    program = f"python -m {sys.modules['__main__'].__spec__.name}" if sys.modules["__main__"].__spec__ else None
    options = {"prog": program, "description": doc, "config": (tyro.conf.AvoidSubcommands,)}
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"} & set(arguments):
            raise SystemExit(f"error: expected RECIPE.toml first, received {' '.join(arguments) or 'nothing'}")
        return tyro.cli(RunConfig, args=["--help"], **{**options, "prog": f"{program} RECIPE.toml"})
    path = Path(arguments[0])
    try:
        return tyro.cli(RunConfig, args=arguments[1:], default=read_recipe(path, tyro.MISSING), **options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


def read_recipe(path: Path, out: Path) -> RunConfig:
    """A recipe file as the configuration of a run into `out`."""
    tables = read_toml(path)
    known = [f.name for f in dataclasses.fields(RunConfig)]
    if unknown := sorted(set(tables) - set(known)):
        raise ValueError(f"{path}: unknown table [{unknown[0]}], {nearest(unknown[0], known)}")
    values: dict[str, Any] = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    for name, kind in TABLES.items():
        if name in tables:
            values[name] = make(kind, tables[name], f"{path}: [{name}]")
        elif name in ("train", "export"):
            raise ValueError(f"{path}: expected the table [{name}], which is missing")
    if "init" in values:
        values["init"] = Path(values["init"])
    return RunConfig(**{**values, "out": out})


@dataclass(frozen=True, slots=True)
class Data:
    """What a run trains on."""

    batches: Batches
    tokenizer: Tokenizer
    facts: Mapping[str, Any]  # for the model card
    book: VerseBook | None = None  # of the demo


def open_data(config: RunConfig, world: World) -> Data:
    """Rows, tokenizer and batches. On many ranks the first one tokenises, the others wait for it."""
    if config.verse is not None:
        return open_verse(config.verse, config.train.seed)
    assert config.data is not None
    model = config.model or ModelSizes.of(ModelConfig.from_json(config.init / "config.json"))
    tokenizer = load_tokenizer(config.init)[0] if config.init else None
    for rank in range(2 if world.size > 1 else 1):
        if rank == min(world.rank, 1):
            prepared = prepare_data(
                config.data, config.out, seed=config.train.seed, context=model.max_sequence_length, tokenizer=tokenizer
            )
        world.barrier()
    return Data(prepared.batches, prepared.tokenizer, prepared.facts)


def open_verse(table: VerseConfig, seed: int) -> Data:
    digest = verse.data_hash()
    if table.sha256 not in (None, digest):
        raise ValueError(f"verse.jsonl: sha256 expected {table.sha256}, received {digest}")
    book = VerseBook.select(max_chars=table.max_chars)
    tokenizer = build_tokenizer((poem.text + poem.title + poem.author for poem in book.poems), verse.PHRASES)
    batches = VerseBatches.build(book, tokenizer, table, seed)
    facts = {"poems": len(book.poems), "characters": book.num_chars, "data_sha256": digest}
    return Data(batches, tokenizer, facts, book)


def open_model(config: RunConfig, tokenizer: Tokenizer) -> LLaDA:
    """New weights of the recipe's sizes, or those of `init`, which must have these sizes and this vocabulary."""
    if config.init is None:
        assert config.model is not None
        model = LLaDA(config.model.config(tokenizer))
        model.initialize(torch.Generator().manual_seed(config.train.seed))
        return model
    model = LLaDA.from_folder(config.init)
    start = ModelSizes.of(model.config)
    if config.model not in (None, start):
        raise ValueError(
            f"{config.init}: checkpoint of another shape: expected the recipe's sizes {config.model}, received {start}"
        )
    mask_id, eos_id = tokenizer.token_to_id(MASK_TOKEN), tokenizer.token_to_id(EOS_TOKEN)
    received = (tokenizer.get_vocab_size(), mask_id, eos_id)
    expected = (model.config.vocab_size, model.config.mask_token_id, model.config.eos_token_id)
    if received[0] > expected[0] or received[1:] != expected[1:]:
        raise ValueError(
            f"{config.init}: another vocabulary: expected at most {expected[0]} entries, mask {expected[1]}, "
            f"end {expected[2]}; the tokenizer has {received[0]}, mask {received[1]}, end {received[2]}"
        )
    return model


def prepare(config: RunConfig, objective: Callable[[ModelConfig], Objective], world: World) -> tuple[Trainer, Data]:
    """Everything of a run before its first step."""
    data = open_data(config, world)
    model = open_model(config, data.tokenizer)
    trainer = Trainer(
        model, data.batches, objective(model.config), config.train, config.out, facts=data.facts, world=world
    )
    return trainer, data


def train_and_export(config: RunConfig, objective: Callable[[ModelConfig], Objective], world: World) -> Trainer:
    """Train, or go on where it stopped; then write curves.png and the model folder (not after a signal)."""
    trainer, data = prepare(config, objective, world)
    folder = config.out / "model"
    resumed = trainer.resume(allow_changed_data=config.allow_changed_data)
    if (folder / "config.json").exists() and not resumed:
        raise FileExistsError(
            f"{folder} holds a model already, and {config.out} no run to go on with; take another folder"
        )
    if world.is_first:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "config.toml").write_text(to_toml(config), encoding="utf-8")
    trainer.progress.say(
        f"{trainer.num_parameters:,} parameters, {', '.join(f'{k} {v}' for k, v in data.facts.items())}; "
        f"step {trainer.step} of {config.train.steps}" + (" (resumed)" if resumed else "")
    )
    trainer.run()
    if trainer.interrupted:
        return trainer
    weights = trainer.final_weights()
    if world.is_first:
        draw_curves(config.out, unit=trainer.objective.unit)
        model = LLaDA(trainer.model.config)
        model.load_state_dict(weights)
        facts = {
            **data.facts,
            "last stage": f"seed {config.train.seed}, {trainer.step} steps, {trainer.num_tokens} tokens",
        }
        recipes = [*(recipes_in_card(config.init) if config.init else []), to_toml(config)]
        export_model(model, data.tokenizer, folder, config.export, overwrite=True, facts=facts, recipes=recipes)
        trainer.progress.say(f"model: {folder}")
    return trainer
