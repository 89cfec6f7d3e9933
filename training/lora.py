"""Low-rank adapters (LoRA, arXiv 2106.09685) on the matrices of the blocks, by peft: pip install llada-rt[lora]

A matrix W becomes W + (alpha / rank) B A; only A and B learn. At export they are merged into W, so what is served has
the published layout and costs nothing more.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from training.model import LLaDA

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

TARGETS = ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")  # matrices of a block


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """[lora] of a recipe."""

    rank: int = 8  # columns of B, rows of A
    alpha: float = 16.0  # B A is scaled by alpha / rank
    targets: tuple[str, ...] = TARGETS  # which matrices of each block get an adapter

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora rank: expected at least 1, got {self.rank}")
        if not self.targets or (unknown := set(self.targets) - set(TARGETS)):
            received = sorted(unknown) if self.targets else "none"
            raise ValueError(f"lora targets: expected some of {list(TARGETS)}, got {received}")


def add_adapters(model: LLaDA, config: LoraConfig, *, seed: int) -> None:
    """Put adapters into the blocks, in place, and freeze everything else. B begins at zero: the outputs stay.

    Raises ModuleNotFoundError that says what to install, and ValueError if there are adapters already.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("LoRA: expected the package peft, got none: pip install 'llada-rt[lora]'") from error
    if has_adapters(model):
        raise ValueError("the model has adapters already: merge them first")
    # The head shares its leaf name with the down projections, so whole names are matched.
    pattern = rf"transformer\.blocks\.\d+\.({'|'.join(map(re.escape, config.targets))})"
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=pattern)
    with torch.random.fork_rng(devices=[]):  # peft draws A from the global generator
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def adapter_layers(model: nn.Module) -> "list[tuple[str, LoraLayer]]":
    """(name, layer) of every matrix that has an adapter."""
    # Without looking at peft's types: a model without adapters must not need the package.
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]


def has_adapters(model: nn.Module) -> bool:
    return bool(adapter_layers(model))


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the one that the adapters were put into: the reference of a preference loss, for free."""
    layers = [layer for _, layer in adapter_layers(model)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_adapters(model: LLaDA) -> None:
    """Add the adapters to their matrices, in place; the model has its published tensor names again."""
    for name, layer in adapter_layers(model):
        layer.merge(safe_merge=True)  # refuses values that are not finite
        model.set_submodule(name, layer.get_base_layer())
    model.requires_grad_(True)
