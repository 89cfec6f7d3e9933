"""A run of preference training: its tables, what it needs, and the reference that it learns against."""

from dataclasses import dataclass, field
from typing import ClassVar

from training.distributed import World, shard
from training.model import LLaDA, ModelConfig
from training.preference_pairs import PreferenceConfig
from training.recipe import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceRun(RunConfig):
    """A run of this stage: what every run has, and the table [preference]."""

    takes_pairs: ClassVar[bool] = True
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)


def check(config: PreferenceRun) -> None:
    if config.data is None or config.data.layout != "rows":
        raise ValueError("preference training: expected the table [data] with layout 'rows'")
    if config.init is None:
        raise ValueError("preference training: expected --init with the fine-tuned model it begins with")
    if config.held_out:
        raise ValueError(
            "held_out: expected no files here, got some: python -m training.experiments.ranking tells "
            "how answers are ranked"
        )
    if ModelConfig.from_json(config.init / "config.json").model_type != "llada":
        raise ValueError(f"{config.init}: preference training: expected a masked model with full attention")


def open_reference(config: PreferenceRun, world: World) -> LLaDA | None:
    """The model of --init, frozen; None with adapters: they can be switched off."""
    if config.lora is not None:
        return None
    assert config.init is not None
    model = LLaDA.from_folder(config.init).requires_grad_(False)
    if world.size == 1:
        return model.to(world.device)
    shard(model, model.blocks, world, bf16=config.train.bf16)
    return model
