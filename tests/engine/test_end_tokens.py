"""Which tokens end a text: every one that a folder declares, wherever it does."""

import json

import pytest

from llada_rt import Engine, SamplingParams
from llada_rt.config import EngineConfig
from llada_rt.errors import ConfigError
from llada_rt.folder.model_files import special_ids
from tests.model.folders import CONFIG, write_model

WORDS = {"<|endoftext|>": 150, "<|im_end|>": 151, "<|eot_id|>": 152}
MODEL = {"vocab_size": 160, "mask_token_id": 159, "eos_token_id": None}


def ends_of(folder, files: dict[str, dict], **options) -> tuple[int, ...]:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return special_ids(EngineConfig(model_dir=folder, **options), folder, MODEL, WORDS.get).ordered_ends


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"config.json": {"eos_token_id": 3}}, (3,)),
        ({"config.json": {"eos_token_id": [3, 5]}}, (3, 5)),
        ({"generation_config.json": {"eos_token_id": [3, 5]}}, (3, 5)),
        ({"config.json": {"eos_token_id": 7}, "generation_config.json": {"eos_token_id": [3, 7]}}, (7, 3)),
        ({"tokenizer_config.json": {"eos_token": "<|im_end|>"}}, (151,)),
        ({"tokenizer_config.json": {"eos_token": {"content": "<|im_end|>", "lstrip": False}}}, (151,)),
        ({"special_tokens_map.json": {"eos_token": "<|im_end|>"}}, (151,)),
        ({"config.json": {"eos_token_id": 150}, "tokenizer_config.json": {"eos_token": "<|im_end|>"}}, (150, 151)),
        # Customary names only where nobody says anything.
        ({"config.json": {}}, (150, 152)),
        # What later files name beyond the vocabulary can't occur.
        ({"config.json": {"eos_token_id": 3}, "generation_config.json": {"eos_token_id": [160, 4]}}, (3, 4)),
    ],
)
def test_every_declared_id_ends_a_text(tmp_path, files, ends):
    found = ends_of(tmp_path, files)
    assert found[: len(ends)] == ends or set(found) >= set(ends)
    assert set(ends) <= set(found) <= {*ends, 152}  # <|eot_id|> is customary for the end of a turn
    assert found[0] == ends[0]


def test_options_replace_what_the_folder_says(tmp_path):
    files = {"config.json": {"eos_token_id": [3, 5]}, "tokenizer_config.json": {"eos_token": "<|im_end|>"}}
    assert ends_of(tmp_path, files, eos_token_id=(8, 9), eot_token_id=10) == (8, 10, 9)


@pytest.mark.parametrize("value", [-1, 160, True, "3", [3, 160], [[3]]])
def test_what_is_no_id_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match="eos_token_id"):
        ends_of(tmp_path, {"config.json": {"eos_token_id": value}, "generation_config.json": {}})


@pytest.mark.parametrize("where", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("end", [3, 5])
def test_an_engine_stops_at_each_of_them(tmp_path, where, end):
    write_model(tmp_path, changes={"eos_token_id": [3, 5]} if where == "config.json" else {})
    if where != "config.json":
        (tmp_path / where).write_text(json.dumps({"eos_token_id": [3, 5]}))
    pinned = dict(enumerate([20, 21, end, 22, 23]))
    params = SamplingParams(gen_length=6, block_length=6, preset="quality", seed=0)
    with Engine(tmp_path, threads=1, mask_token_id=CONFIG["mask_token_id"]) as engine:
        assert {3, 5} <= set(engine.end_token_ids)
        (output,) = engine.generate([{"prompt_token_ids": [7], "pinned": pinned}], params)
    assert output.outputs[0].token_ids == [20, 21]
    assert output.outputs[0].finish_reason == "stop"


def test_options_take_several(tmp_path):
    write_model(tmp_path)
    with Engine(tmp_path, threads=1, eos_token_id=[11, 12]) as engine:
        assert engine.eos_token_id == 11
        assert {11, 12} <= set(engine.info()["end_token_ids"])
    with pytest.raises(ConfigError, match="eos_token_id"):
        Engine(tmp_path, eos_token_id=[11, "x"])


@pytest.mark.parametrize("preset", ["reference", "quality", "fast"])
@pytest.mark.parametrize("pinned", [{}, {0: 20, 1: 21, 2: 3, 3: 22}, {0: 20, 5: 21}, dict(enumerate(range(20, 26)))])
def test_counts_add_up(tmp_path, preset, pinned):
    """Positions that were to be decoded are those of the text and padding; what was given is neither."""
    write_model(tmp_path, changes={"eos_token_id": [3, 5]})
    params = SamplingParams(preset=preset).replace(gen_length=8, block_length=8)
    with Engine(tmp_path, threads=1) as engine:
        (output,) = engine.generate([{"prompt_token_ids": [7], "pinned": pinned}], params)
        ends = set(engine.end_token_ids)
    stats, ids = output.outputs[0].diffusion, output.outputs[0].token_ids
    assert stats.canvas_tokens == 8 - len(pinned)
    assert stats.emitted_tokens + stats.padding_tokens == stats.canvas_tokens
    assert min(stats.emitted_tokens, stats.padding_tokens) >= 0
    shown = [place for place, token in enumerate(ids) if token not in ends and place not in pinned]
    assert stats.emitted_tokens == len(shown)
