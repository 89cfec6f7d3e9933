"""A recipe and what it makes: data, tokenizer, model, trainer, and in the end the exported folder.

A recipe is a TOML file with the tables [model], [data], [train], [export] and, if only adapters are to learn, [lora].
A kind of run may have tables of its own (preference_run.py, tasks/verse_run.py). Each field can be given on the command
line too: `RECIPE.toml --out DIR --train.lr 1e-3 --data.batches.batch-rows 8`.
"""

import contextlib
import dataclasses
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import tyro
from tokenizers import Tokenizer

from training.checkpoint import Checkpoints, load_parameters
from training.config import TrainConfig, make, nearest, read_toml, to_toml
from training.data import Batches
from training.distributed import World
from training.lora import LoraConfig, add_adapters, merge_adapters
from training.model import LLaDA, ModelConfig
from training.model_folder import ExportConfig, export_model, read_json, recipes_in_card
from training.objectives import Objective
from training.samples import sample_texts
from training.sources import DataConfig, is_chat
from training.sources import prepare as prepare_data
from training.store import TokenStore
from training.tokenization import EOS_TOKEN, MASK_TOKEN, read_tokenizer, token_id
from training.trainer import NotFinite, Trainer
from training.vocabulary import Vocabulary, open_vocabulary

DECIDED = ("vocab_size", "mask_token_id", "eos_token_id", "pad_token_id")  # of a ModelConfig, by the tokenizer


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
    rms_norm_eps: float = 1e-5  # added to the mean square
    weight_tying: bool = False  # the head is the embedding
    causal: bool = False  # an autoregressive model (ARM) instead of a masked diffusion model
    attention_block_length: int | None = None  # tokens of a block that sees itself and the ones before; none: sees all

    @classmethod
    def of(cls, config: ModelConfig) -> "ModelSizes":
        return cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(cls)})

    def config(self, tokenizer: Tokenizer) -> ModelConfig:
        eos_id = token_id(tokenizer, EOS_TOKEN)
        rows = -(-tokenizer.get_vocab_size() // 16) * 16  # whole tiles of the head
        ids = {"mask_token_id": token_id(tokenizer, MASK_TOKEN), "eos_token_id": eos_id, "pad_token_id": eos_id}
        sizes: dict[str, Any] = dataclasses.asdict(self) | ids
        return ModelConfig(**sizes, vocab_size=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run. What is not given on the command line comes from the recipe, or is the default."""

    takes_pairs: typing.ClassVar[bool] = False  # rows with a better and a worse answer, and no others
    data_tables: typing.ClassVar[tuple[str, ...]] = ("data",)  # a run has exactly one of them
    out: Path  # folder of the run; goes on where it stopped if it holds a checkpoint
    init: Path | None = None  # model folder, published or exported, whose weights the run starts from
    held_out: tuple[str, ...] = ()  # files like those of the data, never trained on; their loss is recorded
    device: str = "auto"  # cpu, cuda, or auto: a GPU if there is one
    threads: int | None = None  # of torch on the CPU; none: torch's own choice
    tensorboard: bool = False  # write OUT/tensorboard beside metrics.jsonl
    allow_changed_data: bool = False  # resume although the data is not what the run began with
    model: ModelSizes | None = None  # none: the sizes of --init
    data: DataConfig | None = None  # rows of files or of a task
    train: TrainConfig
    lora: LoraConfig | None = None  # none: all weights learn
    export: ExportConfig

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in self.data_tables) != 1:
            tables = " and ".join(f"[{name}]" for name in self.data_tables)
            raise ValueError(f"expected {'one of the tables' if len(self.data_tables) > 1 else 'the table'} {tables}")
        if self.held_out and self.data is None:
            raise ValueError("held_out: expected [data] beside it, got a run without")

    def own_data(self) -> "Data | None":
        """The data of a kind of run that brings its own; None: rows as [data] says."""
        return None


Run = TypeVar("Run", bound=RunConfig)


def read_command(arguments: Sequence[str], doc: str, kind: type[Run]) -> Run:
    """RECIPE.toml and overrides -> the resolved configuration. Help and errors end the process, as of a command."""
    spec = sys.modules["__main__"].__spec__
    program = f"python -m {spec.name} RECIPE.toml" if spec else "RECIPE.toml"
    options: Any = {"prog": program, "description": doc, "config": (tyro.conf.AvoidSubcommands,)}
    if not arguments or arguments[0].startswith("-"):
        if not {"-h", "--help"} & set(arguments):
            raise SystemExit(f"error: expected RECIPE.toml first, got {' '.join(arguments) or 'nothing'}")
        more = "RECIPE.toml --help shows the recipe's own values, and the tables without defaults ([model], [lora])."
        return tyro.cli(kind, args=["--help"], **{**options, "description": f"{doc}\n\n{more}"})
    try:
        recipe = read_recipe(Path(arguments[0]), tyro.MISSING, kind)
        return tyro.cli(kind, args=arguments[1:], default=recipe, **options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


@contextlib.contextmanager
def run_command() -> Iterator[None]:
    """What a person did wrong ends the process with one sentence; everything else keeps its traceback."""
    try:
        yield
    except (ValueError, FileExistsError, FileNotFoundError, ModuleNotFoundError, NotFinite) as error:
        raise SystemExit(f"error: {error}") from error


def read_recipe(path: Path, out: Path, kind: type[Run]) -> Run:
    """A recipe file as the configuration of a run into `out`. Its tables are the dataclasses among the fields."""
    content = read_toml(path)
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(content) - set(hints)):
        raise ValueError(f"{path}: unknown table [{unknown[0]}], {nearest(unknown[0], list(hints))}")
    content["out"] = str(out)
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if not has_default and field.name not in content:
            raise ValueError(f"{path}: expected the table [{field.name}], which is missing")
    return replace(make(kind, content, str(path)), out=out)


@dataclass(frozen=True, slots=True)
class Data:
    """What a run trains on."""

    batches: Batches
    vocabulary: Vocabulary
    facts: Mapping[str, Any]  # for the model card
    store: TokenStore | None = None  # of [data]

    @property
    def tokenizer(self) -> Tokenizer:
        return self.vocabulary.tokenizer


def open_data(config: RunConfig, world: World) -> Data:
    """Rows, tokenizer and batches. On many ranks the first one tokenises and the others wait for it."""
    if (own := config.own_data()) is not None:
        return own
    assert config.data is not None
    vocabulary = open_vocabulary(config.init, needs_chat=is_chat(config.data)) if config.init else None
    return open_rows(config, config.data, config.out, vocabulary, world)


def open_rows(config: RunConfig, data: DataConfig, folder: Path, vocabulary: Vocabulary | None, world: World) -> Data:
    context = sizes_of(config).max_sequence_length
    if not world.is_first:
        world.barrier()
    prepared = prepare_data(
        data, folder, seed=config.train.seed, context=context, vocabulary=vocabulary, pairs=config.takes_pairs
    )
    if world.is_first:
        world.barrier()
    return Data(prepared.batches, prepared.vocabulary, prepared.facts, prepared.store)


def open_held_out(config: RunConfig, vocabulary: Vocabulary, world: World) -> Batches | None:
    if not config.held_out:
        return None
    assert config.data is not None
    table = replace(config.data, files=config.held_out, task=None, sha256=None)
    return open_rows(config, table, config.out / "held_out", vocabulary, world).batches


def sizes_of(config: RunConfig) -> ModelSizes:
    """The recipe's, or those of `init`, which may be given on the command line only."""
    if config.model is not None:
        return config.model
    if config.init is None:
        raise ValueError("expected the table [model], or --init with a model folder")
    return ModelSizes.of(ModelConfig.from_json(config.init / "config.json"))


def open_model(config: RunConfig, vocabulary: Vocabulary) -> LLaDA:
    """New weights of the recipe's sizes, or those of `init`, which must have these sizes and this vocabulary."""
    if config.init is None:
        model = LLaDA(sizes_of(config).config(vocabulary.tokenizer))
        model.initialize(torch.Generator().manual_seed(config.train.seed))
        return model
    received = ModelConfig.from_json(config.init / "config.json")
    if config.model is not None and (sizes := ModelSizes.of(received)) != config.model:
        wrong = {
            name: (expected, getattr(sizes, name))
            for name, expected in dataclasses.asdict(config.model).items()
            if expected != getattr(sizes, name)
        }
        text = ", ".join(f"{name}: expected {expected}, got {found}" for name, (expected, found) in wrong.items())
        raise ValueError(f"{config.init}: checkpoint of another shape: {text}; leave out [model] to take it as it is")
    entries, rows = vocabulary.tokenizer.get_vocab_size(), received.vocab_size
    mask_id, eos_id = vocabulary.mask_id, vocabulary.eos_id
    if entries > rows or (mask_id, eos_id) != (received.mask_token_id, received.eos_token_id):
        raise ValueError(
            f"{config.init}: checkpoint of another vocabulary: expected a tokenizer of at most {rows} entries, mask "
            f"{received.mask_token_id}, end {received.eos_token_id}, got {entries}, mask {mask_id}, end {eos_id}"
        )
    return LLaDA.from_folder(config.init)


def prepare(
    config: RunConfig, objective: Callable[[ModelConfig], Objective], world: World, data: Data | None = None
) -> tuple[Trainer, Data]:
    """Everything of a run before its first step. data: a stage's own, or what the recipe says."""
    data = data or open_data(config, world)
    model = open_model(config, data.vocabulary)
    if config.lora is not None:
        add_adapters(model, config.lora, seed=config.train.seed)
    trainer = Trainer(
        model,
        data.batches,
        objective(model.config),
        config.train,
        config.out,
        facts=data.facts,
        world=world,
        held_out=open_held_out(config, data.vocabulary, world),
        samples=sample_texts(data.batches, data.tokenizer, model.config),
        tensorboard=config.tensorboard,
    )
    return trainer, data


def train_and_export(
    config: RunConfig,
    objective: Callable[[ModelConfig], Objective],
    world: World,
    data: Data | None = None,
    *,
    ready: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Train, or go on where it stopped; then write curves.png and the model folder (not after a signal).

    ready: called with the trainer before its first step, for a stage that looks at the model in its own way.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    trainer, data = prepare(config, objective, world, data)
    if ready is not None:
        ready(trainer)
    folder = config.out / "model"
    resumed = trainer.resume(allow_changed_data=config.allow_changed_data)
    if (folder / "config.json").exists() and not resumed:
        raise FileExistsError(f"{folder} holds a model, and {config.out} no run to go on with; take another folder")
    if world.is_first:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "config.toml").write_text(to_toml(config), encoding="utf-8")
        (config.out / "tokenizer.json").write_text(data.tokenizer.to_str(), encoding="utf-8")
    trainer.progress.say(
        f"{trainer.num_parameters:,} parameters; {', '.join(f'{k} {v}' for k, v in data.facts.items())}; "
        f"step {trainer.step} of {config.train.steps}{' (resumed)' if resumed else ''}; "
        f"loss in {trainer.progress.unit}"
    )
    trainer.run()
    if trainer.interrupted:
        return trainer
    weights = trainer.final_weights()
    if world.is_first:
        trainer.progress.draw()
        model = LLaDA(trainer.model.config)
        if config.lora is not None:
            add_adapters(model, config.lora, seed=config.train.seed)
        model.load_state_dict(weights)
        record = {
            "step": trainer.step,
            "tokens": trainer.num_tokens,
            "cpu_s": trainer.cpu_s,
            "facts": data.facts,
        }
        export_run(config, model, data.vocabulary, record, folder, overwrite=True)
        trainer.progress.say(f"model: {folder}")
    world.barrier()
    return trainer


def export_run(
    config: RunConfig,
    model: LLaDA,
    vocabulary: Vocabulary,
    record: Mapping[str, Any],
    folder: Path,
    *,
    overwrite: bool = False,
) -> None:
    """The model folder of a run. model: its weights, with adapters if it has them; record: of its checkpoint."""
    if config.lora is not None:
        merge_adapters(model)
    stage = f"seed {config.train.seed}, {record['step']} steps, {record['tokens']:,} tokens"
    facts = {**record["facts"], "last stage": stage, "CPU hours": round(record["cpu_s"] / 3600, 2)}
    recipes, start = [to_toml(replace(config, out=Path("OUT")))], None
    if config.init is not None:
        recipes = [*recipes_in_card(config.init), *recipes]
        start = read_json(config.init / "tokenizer_config.json")
    export_model(
        model,
        vocabulary.tokenizer,
        folder,
        config.export,
        overwrite=overwrite,
        facts=facts,
        recipes=recipes,
        tokenizer_config=start,
        keep=vocabulary.folder if vocabulary.form is not None else None,
        is_chat=config.data is None or "chat form" in facts or "chat_template" in (start or {}),
    )


def open_run(folder: Path, *kinds: type[RunConfig]) -> tuple[RunConfig, LLaDA, Vocabulary, dict[str, Any]]:
    """A run as its newest checkpoint has it, or as the checkpoint `folder` does: what `export_run` takes.

    kinds: configurations of stages; the first that knows all tables of the run's is its own.
    """
    run = folder if (folder / "config.toml").is_file() else folder.parent.parent
    checkpoint = Checkpoints(run / "checkpoints", World(), keep_last=1).newest() if run == folder else folder
    if checkpoint is None:
        raise FileNotFoundError(f"{run}: no complete checkpoint")
    tables = set(read_toml(run / "config.toml"))
    kind = next((kind for kind in kinds if tables <= set(typing.get_type_hints(kind))), kinds[0])
    config = read_recipe(run / "config.toml", run, kind)
    tokenizer = read_tokenizer(run)
    vocabulary = open_vocabulary(config.init, tokenizer=tokenizer) if config.init else Vocabulary.of(tokenizer)
    model = open_model(config, vocabulary)
    if config.lora is not None:
        add_adapters(model, config.lora, seed=config.train.seed)
    return config, model, vocabulary, load_parameters(checkpoint, model)
