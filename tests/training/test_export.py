"""Weights in, folder out: what is written reads back, and what is wrong is refused."""

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from llada_rt import Engine, SamplingParams, UnsupportedModelError
from tests.training.conftest import small_model
from training import model_folder
from training.model import LLaDA
from training.model_folder import ExportConfig, export_model, recipes_in_card, write_results
from training.tokenization import CHAT_TEMPLATE, EOS_TOKEN, MASK_TOKEN

CONFIG = ExportConfig(name="a model", dtype="float32", gen_length=8, steps=4, block_length=8)


@pytest.fixture
def model(tokenizer):
    return small_model(vocab_size=tokenizer.get_vocab_size() + 3, weight_tying=True)


def test_an_exported_folder_reads_back(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path / "m", CONFIG, facts={"seed": 3}, recipes=["[x]", "[y]\nz = 1"])
    loaded = LLaDA.from_folder(tmp_path / "m")
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(loaded(tokens), model(tokens), rtol=0, atol=0)
    again = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    assert again.get_vocab() == tokenizer.get_vocab()
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == CHAT_TEMPLATE
    generation = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert generation["llada_rt"] == {"gen_length": 8, "steps": 4, "block_length": 8}
    assert (generation["mask_token_id"], generation["eos_token_id"], generation["eot_token_id"]) == (2, 1, 5)
    card = (tmp_path / "m" / "README.md").read_text()
    assert "seed: 3" in card
    assert recipes_in_card(tmp_path / "m") == ["[x]", "[y]\nz = 1"]


def test_results_in_the_card_replace_older_ones(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path, CONFIG, facts={"seed": 3}, recipes=["[x]", "[y]\nz = 1"])
    write_results(tmp_path, "old note", {"torch loop": {"holes": "50.0 %"}})
    write_results(tmp_path, "new note", {"a": {"holes": "60.0 %"}, "b": {"holes": "70.0 %", "recite": "1.0 %"}})
    card = (tmp_path / "README.md").read_text()
    assert "|  | a | b |\n| --- | --- | --- |\n| holes | 60.0 % | 70.0 % |\n| recite |  | 1.0 % |\n" in card
    assert "old note" not in card
    assert card.count("## ") == 3
    assert "seed: 3" in card
    assert "[x]" in card


def test_bf16_export_rounds_once(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path, ExportConfig(name="a model"))
    loaded = LLaDA.from_folder(tmp_path)
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16).float(), b)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "bfloat16"


def engine_tokens(folder: Path, prompts=([0, 7, 9, 11], [8] * 6)) -> list[list[int]]:
    """What the runtime makes of a folder, with the folder's own defaults."""
    with Engine(str(folder), threads=1) as engine:
        outputs = engine.generate([{"prompt_token_ids": list(prompt)} for prompt in prompts])
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_engine_reads_shards_as_it_reads_one_file(tmp_path, model, tokenizer, dtype):
    single = ExportConfig(name="a model", dtype=dtype, gen_length=8, steps=8, block_length=8)
    shards = ExportConfig(name="a model", dtype=dtype, gen_length=8, steps=8, block_length=8, max_shard_bytes=20_000)
    export_model(model, tokenizer, tmp_path / "single", single)
    export_model(model, tokenizer, tmp_path / "shards", shards)
    files = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    index = json.loads((tmp_path / "shards" / "model.safetensors.index.json").read_text())
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == model.num_parameters * (2 if dtype == "bfloat16" else 4)
    tokens = engine_tokens(tmp_path / "single")
    assert [len(row) for row in tokens] == [8, 8]  # the exported defaults, too
    assert engine_tokens(tmp_path / "shards") == tokens
    one, many = LLaDA.from_folder(tmp_path / "single"), LLaDA.from_folder(tmp_path / "shards")
    for a, b, trained in zip(one.parameters(), many.parameters(), model.parameters(), strict=True):
        assert a.dtype == torch.float32  # masters for a further stage
        assert torch.equal(a, b)
        assert torch.equal(a, trained.to(model_folder.DTYPES[dtype]).float())


def test_decoding_options_are_the_runtimes_defaults(tmp_path, model, tokenizer):
    config = ExportConfig(
        name="a model", gen_length=8, steps=8, block_length=4, decoding={"threshold": 0.9, "cache": "prefix"}
    )
    export_model(model, tokenizer, tmp_path, config)
    with Engine(str(tmp_path), threads=1) as engine:
        defaults = engine.default_params
    assert defaults == SamplingParams(gen_length=8, steps=8, block_length=4, threshold=0.9, cache="prefix")


@pytest.mark.parametrize("options", [{"causal": True}, {"attention_block_length": 4}])
def test_the_engine_refuses_what_it_does_not_serve(tmp_path, tokenizer, options):
    model = small_model(vocab_size=tokenizer.get_vocab_size(), **options)
    export_model(model, tokenizer, tmp_path, CONFIG)
    assert LLaDA.from_folder(tmp_path).config == model.config
    with pytest.raises(UnsupportedModelError, match=f'expected one of "llada".*, got "{model.config.model_type}"'):
        Engine(str(tmp_path))


def test_of_a_tokenizer_config_that_came_along_the_rest_is_kept(tmp_path, model, tokenizer):
    own = {"chat_template": "a stray header", "eos_token": "</s>", "padding_side": "left"}
    export_model(model, tokenizer, tmp_path, CONFIG, tokenizer_config=own)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["padding_side"] == "left"
    assert settings["eos_token"] == "<|endoftext|>"  # what the model was trained with
    assert settings["chat_template"] == CHAT_TEMPLATE


def test_a_model_that_saw_no_conversation_gets_no_template(tmp_path, model, tokenizer):
    """A template makes every caller ask in that form, and such a model answers nonsense there."""
    export_model(model, tokenizer, tmp_path, CONFIG, is_chat=False)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings
    assert settings["eot_token"] == "<|eot_id|>"
    with Engine(tmp_path) as engine:
        assert not engine.has_chat_template


def test_a_tokenizer_without_chat_tokens_gets_no_template(tmp_path):
    special = [EOS_TOKEN, MASK_TOKEN]
    vocabulary = {token: index for index, token in enumerate([*special, *"abc"])}
    foreign = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    foreign.add_special_tokens(special)
    export_model(small_model(vocab_size=5, mask_token_id=1, eos_token_id=0, pad_token_id=0), foreign, tmp_path, CONFIG)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["mask_token"]) == (EOS_TOKEN, MASK_TOKEN)
    assert not {"chat_template", "bos_token", "eot_token"} & set(settings)
    generation = json.loads((tmp_path / "generation_config.json").read_text())
    assert not {"bos_token_id", "eot_token_id"} & set(generation)
    assert [len(row) for row in engine_tokens(tmp_path, [[2, 3], [4]])] == [8, 8]


def test_a_model_that_is_there_stays(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path, CONFIG)
    with pytest.raises(FileExistsError, match="overwrite"):
        export_model(model, tokenizer, tmp_path, CONFIG)


def test_overwriting_replaces_the_model_and_keeps_what_is_not_part_of_it(tmp_path, model, tokenizer):
    folder = tmp_path / "m"
    shards = ExportConfig(name="a model", dtype="float32", max_shard_bytes=20_000)
    export_model(model, tokenizer, folder, shards)
    (folder / "notes.txt").write_text("mine")
    (folder / "chat_template.jinja").write_text("of the older model")
    export_model(model, tokenizer, folder, CONFIG, overwrite=True)
    names = {path.name for path in folder.iterdir()}
    model_files = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert names == model_files | {"model.safetensors", "notes.txt"}
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_of_something_else_is_not_a_place(tmp_path, model, tokenizer):
    (tmp_path / "README.md").write_text("a project")
    with pytest.raises(FileExistsError, match="something else"):
        export_model(model, tokenizer, tmp_path, CONFIG, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize("when", ["writing", "renaming"])
def test_an_export_that_fails_leaves_the_older_model(tmp_path, model, tokenizer, monkeypatch, when):
    folder = tmp_path / "m"
    export_model(model, tokenizer, folder, CONFIG, facts={"seed": 3})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*arguments, **options):
        raise OSError("no space left on device")

    if when == "writing":
        monkeypatch.setattr(model_folder, "save_weights", full)
    else:
        rename = os.rename
        monkeypatch.setattr(os, "rename", lambda a, b: full() if str(a).endswith(".partial") else rename(a, b))
    with pytest.raises(OSError, match="no space"):
        export_model(model, tokenizer, folder, CONFIG, overwrite=True, facts={"seed": 4})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_leftovers_of_a_cut_export_do_not_matter(tmp_path, model, tokenizer):
    (tmp_path / ".m.partial").mkdir()
    (tmp_path / ".m.partial" / "model.safetensors").write_bytes(b"half")
    export_model(model, tokenizer, tmp_path / "m", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert LLaDA.from_folder(tmp_path / "m").config == model.config


def test_weights_are_as_readable_as_the_other_files(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path / "m", CONFIG)
    assert len({stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "m").iterdir()}) == 1


ROOT = "model.transformer."


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (ROOT + "ln_f.weight", 31, r"ln_f\.weight: expected shape \(32,\).*\(31,\)"),
        (ROOT + "blocks.0.q_proj.bias", 32, r"q_proj\.bias: a tensor"),
        (ROOT + "ff_out.weight", 3, r"ff_out\.weight: a tensor"),  # a head, where it is tied
        (ROOT + "ln_f.weight", None, r"expected model\.transformer\.ln_f\.weight, which"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, model, tokenizer, name, size, message):
    export_model(model, tokenizer, tmp_path, CONFIG)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(name, None)
    save_file({**tensors, **({name: torch.ones(size)} if size else {})}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        LLaDA.from_folder(tmp_path)


def test_a_missing_shard_and_missing_weights_are_named(tmp_path, model, tokenizer):
    export_model(model, tokenizer, tmp_path, ExportConfig(name="a model", max_shard_bytes=10_000))
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-\d+\.safetensors.* missing"):
        LLaDA.from_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors or"):
        LLaDA.from_folder(tmp_path)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="16 rows"):
        export_model(small_model(vocab_size=16), tokenizer, tmp_path, CONFIG)
    rows = tokenizer.get_vocab_size() + 3
    with pytest.raises(ValueError, match=f"mask_token_id {rows - 1}: expected a token"):
        export_model(small_model(vocab_size=rows, mask_token_id=rows - 1), tokenizer, tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_refused(tmp_path, model, tokenizer):
    with torch.no_grad():
        model.transformer["wte"].weight[7, 3] = torch.nan
    with pytest.raises(ValueError, match=r"wte\.weight"):
        export_model(model, tokenizer, tmp_path, CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float16"}, "'float16'"), ({"gen_length": 12, "block_length": 8}, "gen_length 12.* do not divide")],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ExportConfig(name="a model", **options)
