"""Model folders for engine and command-line tests: the committed tiny checkpoint, with a tokenizer or without one."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from tests.data.make_goldens import CHECKPOINT, IDS

VOCAB_SIZE, CONTEXT = 160, 128
BOS = 159
# One character per id: the printable ASCII ones, a newline, some Chinese.
CHARACTERS = [
    *map(chr, range(32, 127)),
    "\n",
    *"床前明月光疑是地上霜举头望低思故乡春眠不觉晓处闻啼鸟夜来风雨声花落知多少白日依山尽黄河入海流欲穷千里目更一层楼",
]
CHARACTERS = CHARACTERS[: IDS.mask]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def write_folder(
    folder: Path,
    *,
    tokenizer: bool = True,
    template: str | None = CHAT_TEMPLATE,
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
) -> Path:
    """The committed checkpoint with the files that make it speak text; `config` changes keys of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CHECKPOINT / "model.safetensors", folder / "model.safetensors")
    settings = json.loads((CHECKPOINT / "config.json").read_text()) | dict(config or {})
    (folder / "config.json").write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    if tokenizer:
        write_tokenizer(folder, template)
    return folder


def write_tokenizer(folder: Path, template: str | None) -> None:
    words = {character: index for index, character in enumerate(CHARACTERS)}
    words |= {f"<unused{index}>": index for index in range(len(words), IDS.mask)}
    backend = Tokenizer(models.WordLevel(words, unk_token=" "))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    names = {IDS.mask: "<|mdm_mask|>", IDS.eos: "<|endoftext|>", IDS.eot: "<|eot_id|>", BOS: "<|startoftext|>"}
    backend.add_special_tokens([AddedToken(names[index], special=True) for index in sorted(names)])
    assert all(backend.token_to_id(name) == index for index, name in names.items())
    backend.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"bos_token": "<|startoftext|>", "eos_token": {"content": "<|endoftext|>"}}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
