"""LoRA adapters: merged as peft merges them, and refused by name where they are more than plain LoRA."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llada_rt import ConfigError, Engine, ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from llada_rt.tools.convert import convert_model
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder
from training.lora import TARGETS
from training.model import LLaDA

peft = pytest.importorskip("peft", reason="peft is an extra: llada-rt[lora]")


class Published(nn.Module):
    """The published class: the network is its member `model`."""

    def __init__(self, model: LLaDA) -> None:
        super().__init__()
        self.model = model


def base_model(dtype: torch.dtype, *, published: bool) -> nn.Module:
    model = LLaDA.from_folder(CHECKPOINT).to(dtype)
    return Published(model) if published else model


def write_adapter(
    folder: Path, *, dtype: torch.dtype = torch.float32, published: bool = True, **options: object
) -> nn.Module:
    """An adapter with random halves, saved by peft. Returns peft's model."""
    pattern = rf".*blocks\.\d+\.({'|'.join(TARGETS)})"
    settings = {"r": 4, "lora_alpha": 10, "target_modules": pattern, **options}
    model = peft.get_peft_model(base_model(dtype, published=published), peft.LoraConfig(**settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    return model


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def merged_by_peft(model: nn.Module, *, published: bool) -> dict[str, torch.Tensor]:
    prefix = "" if published else "model."
    return {prefix + name: tensor for name, tensor in model.merge_and_unload().state_dict().items()}


@pytest.mark.parametrize("published", [True, False], ids=["published names", "names of training"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_merged_as_peft_merges(tmp_path, published, use_rslora):
    model = write_adapter(tmp_path / "adapter", published=published, use_rslora=use_rslora)
    convert_model(tmp_path / "adapter", tmp_path / "out", base=CHECKPOINT, compute_type="float32")
    ours, theirs = tensors_of(tmp_path / "out"), merged_by_peft(model, published=published)
    before = {name: tensor.float() for name, tensor in tensors_of(CHECKPOINT).items()}
    assert ours.keys() == theirs.keys() == before.keys()
    for name, tensor in ours.items():
        assert (tensor - theirs[name]).abs().max() <= 2e-6 * theirs[name].abs().max(), name
        is_target = any(f".{target}.weight" in name for target in TARGETS) and "blocks" in name
        assert torch.equal(tensor, before[name]) != is_target, name


def test_bfloat16_is_rounded_once(tmp_path):
    """peft adds a rounded difference to rounded weights: two roundings apart at most, of sizes that it says."""
    write_adapter(tmp_path / "adapter")
    exact = merged_by_peft(write_adapter(tmp_path / "again"), published=True)
    convert_model(tmp_path / "adapter", tmp_path / "out", base=CHECKPOINT, compute_type="bfloat16")
    model = write_adapter(tmp_path / "half", dtype=torch.bfloat16)
    theirs = merged_by_peft(model, published=True)
    for name, tensor in tensors_of(tmp_path / "out").items():
        assert torch.equal(tensor, exact[name].bfloat16()) or (
            (tensor.float() - exact[name]).abs().max() <= 2**-8 * exact[name].abs().max()
        )
        assert (tensor.float() - theirs[name].float()).abs().max() <= 2**-6 * exact[name].abs().max(), name


@pytest.mark.parametrize("compute_type", ["int8", "int4"])
def test_quantised_after_it_is_merged(tmp_path, compute_type):
    write_adapter(tmp_path / "adapter")
    base = write_folder(tmp_path / "base")
    convert_model(tmp_path / "adapter", tmp_path / "whole", base=base, compute_type="float32")
    convert_model(tmp_path / "whole", tmp_path / "then", compute_type=compute_type)
    convert_model(tmp_path / "adapter", tmp_path / "at once", base=base, compute_type=compute_type)
    ours, theirs = tensors_of(tmp_path / "at once"), tensors_of(tmp_path / "then")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    with Engine(tmp_path / "at once", threads=1) as engine:
        assert engine.has_chat_template


def test_logits_are_those_of_the_adapted_model(tmp_path):
    model = write_adapter(tmp_path / "adapter", published=False)
    convert_model(tmp_path / "adapter", tmp_path / "out", base=CHECKPOINT, compute_type="float32")
    tokens = [3, 1, 4, 1, 5, 9]
    with torch.no_grad():
        theirs = model(torch.tensor([tokens]))[0].numpy()
    with Engine(tmp_path / "out", threads=1, compute_type="float32") as engine:
        assert np.abs(engine.forward(tokens) - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_the_adapters_own_tokenizer_goes_along(tmp_path):
    write_adapter(tmp_path / "adapter")
    base = write_folder(tmp_path / "base")
    convert_model(tmp_path / "adapter", tmp_path / "out", base=base, compute_type="bfloat16")
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    (tmp_path / "adapter" / "tokenizer.json").write_bytes((base / "tokenizer.json").read_bytes())
    (tmp_path / "adapter" / "chat_template.jinja").write_text("{{ messages }}")
    convert_model(tmp_path / "adapter", tmp_path / "own", base=base, compute_type="bfloat16")
    assert (tmp_path / "own" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not (tmp_path / "own" / "tokenizer_config.json").exists()
    # The card is the base's, as is everything that is not of the tokenizer.
    assert not (tmp_path / "own" / "README.md").exists()


REFUSED = [
    ({"peft_type": "LOHA"}, UnsupportedModelError, "peft_type"),
    ({"peft_type": None}, UnsupportedModelError, "peft_type"),
    ({"use_dora": True}, UnsupportedModelError, "use_dora"),
    ({"bias": "all"}, UnsupportedModelError, "bias"),
    ({"lora_bias": True}, UnsupportedModelError, "lora_bias"),
    ({"fan_in_fan_out": True}, UnsupportedModelError, "fan_in_fan_out"),
    ({"modules_to_save": ["ff_out"]}, UnsupportedModelError, "modules_to_save"),
    ({"rank_pattern": {"q_proj": 8}}, UnsupportedModelError, "rank_pattern"),
    ({"alpha_pattern": {"q_proj": 8}}, UnsupportedModelError, "alpha_pattern"),
    ({"layer_replication": [[0, 1]]}, UnsupportedModelError, "layer_replication"),
    ({"trainable_token_indices": [1]}, UnsupportedModelError, "trainable_token_indices"),
    ({"target_parameters": ["x"]}, UnsupportedModelError, "target_parameters"),
    ({"use_qalora": True}, UnsupportedModelError, "use_qalora"),
    ({"init_lora_weights": "pissa_niter_4"}, UnsupportedModelError, "init_lora_weights"),
    ({"init_lora_weights": "olora"}, UnsupportedModelError, "init_lora_weights"),
    ({"some_new_thing": 1}, UnsupportedModelError, "some_new_thing"),
    ({"r": 0}, ModelFormatError, "r: expected"),
    ({"r": True}, ModelFormatError, "r: expected"),
    ({"r": 8}, ModelFormatError, "expected shape"),
    ({"lora_alpha": "16"}, ModelFormatError, "lora_alpha"),
    ({"lora_alpha": None}, ModelFormatError, "lora_alpha"),
    ({"use_rslora": "no"}, ModelFormatError, "use_rslora"),
]


@pytest.mark.parametrize(("changes", "kind", "fragment"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_plain_lora_is_refused_by_name(tmp_path, changes, kind, fragment):
    write_adapter(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(kind, match=fragment):
        convert_model(tmp_path / "adapter", tmp_path / "out", base=CHECKPOINT, compute_type="float32")
    assert not (tmp_path / "out").exists()


def test_dora_and_trained_modules_of_peft_itself(tmp_path):
    for name, options in {"dora": {"use_dora": True}, "saved": {"modules_to_save": ["ln_f"]}}.items():
        write_adapter(tmp_path / name, **options)
        with pytest.raises(UnsupportedModelError):
            convert_model(tmp_path / name, tmp_path / "out", base=CHECKPOINT, compute_type="float32")


def spoil(folder: Path, name: str, *, to: str | None) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensor = tensors.pop(next(key for key in tensors if name in key))
    save_file(tensors | ({} if to is None else {to: tensor}), path)


@pytest.mark.parametrize(
    ("name", "to", "kind"),
    [
        ("blocks.0.q_proj.lora_A", None, ModelFormatError),
        (
            "blocks.0.q_proj.lora_A",
            "base_model.model.model.transformer.blocks.9.q_proj.lora_A.weight",
            ModelFormatError,
        ),
        ("blocks.0.q_proj.lora_A", "q_proj.lora_A.weight", UnsupportedModelError),
        ("blocks.0.q_proj.lora_A", "base_model.model.model.wte.lora_embedding_A", UnsupportedModelError),
        ("blocks.0.ff_proj.lora_B", "base_model.model.model.transformer.ln_f.lora_B.weight", ModelFormatError),
        (
            "blocks.0.q_proj.lora_A",
            "base_model.model.model.transformer.blocks.0.q_proj.lora_magnitude_vector.weight",
            UnsupportedModelError,
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, name, to, kind):
    write_adapter(tmp_path / "adapter")
    spoil(tmp_path / "adapter", name, to=to)
    with pytest.raises(kind, match="adapter_model"):
        convert_model(tmp_path / "adapter", tmp_path / "out", base=CHECKPOINT, compute_type="float32")


@pytest.mark.parametrize("other", ["lora_B.default.weight", "under another prefix"])
def test_a_matrix_named_twice_is_refused(tmp_path, other):
    write_adapter(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    some = next(name for name in tensors if name.endswith("lora_B.weight"))
    again = some.replace("lora_B.weight", other)
    if other.startswith("under"):
        again = some.replace("base_model.model.model.", "base_model.model.", 1)
    assert again not in tensors
    save_file({**tensors, again: tensors[some].clone()}, path)
    with pytest.raises(ModelFormatError, match="expected one lora_B"):
        convert_model(tmp_path / "adapter", tmp_path / "out", compute_type="float32", base=CHECKPOINT)


@pytest.mark.parametrize("target", ["x" * 300, "a\0b"], ids=["long", "nul"])
def test_a_target_that_no_file_system_takes(tmp_path, target):
    with pytest.raises(ConfigError, match="expected a folder that can be written"):
        convert_model(CHECKPOINT, tmp_path / target, compute_type="float32")


def test_an_adapter_alone_says_what_to_do(tmp_path):
    write_adapter(tmp_path / "adapter")
    for act in (
        lambda: Engine(tmp_path / "adapter"),
        lambda: convert_model(tmp_path / "adapter", tmp_path / "out", compute_type="float32"),
    ):
        with pytest.raises(UnsupportedModelError, match=r"llada-rt convert .*adapter OUT --base MODEL"):
            act()
    # As some trainers leave it: with the model's configuration, but without its weights.
    (tmp_path / "adapter" / "config.json").write_text((CHECKPOINT / "config.json").read_text())
    with pytest.raises(UnsupportedModelError, match="LoRA adapter"):
        Engine(tmp_path / "adapter")
    with pytest.raises(ModelNotFoundError, match="adapter_config"):
        convert_model(CHECKPOINT, tmp_path / "out", base=CHECKPOINT, compute_type="float32")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"expected the file adapter_model\.safetensors"):
        convert_model(tmp_path / "adapter", tmp_path / "out", base=CHECKPOINT, compute_type="float32")
