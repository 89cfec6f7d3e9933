"""convert, inspect, verify and info --memory as a user types them."""

import json
from pathlib import Path

import pytest

from llada_rt.cli import app as cli
from llada_rt.cli.console import size_text
from llada_rt.config import EngineConfig, parse_size
from llada_rt.errors import ConfigError
from llada_rt.tools.convert import convert_model
from tests.data.make_goldens import CHECKPOINT
from tests.engine.models import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    generation = {"llada_rt": {"gen_length": 12}}
    return str(write_folder(tmp_path_factory.mktemp("cli") / "model", generation=generation))


@pytest.fixture
def run(capsys):
    """(exit code, stdout, stderr) of a command line."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as leaving:
            cli.main(arguments)
        out, err = capsys.readouterr()
        return leaving.value.code, out, err

    return call


def test_convert_says_what_came_of_it(run, folder, tmp_path):
    out = str(tmp_path / "out")
    code, text, err = run("convert", folder, out, "--compute-type", "int8")
    assert code == 0
    assert out in text
    assert "in memory" in text
    assert "llada-rt verify" in err
    code, _, err = run("convert", folder, out, "--compute-type", "bfloat16")
    assert code == 2
    assert "--overwrite" in err
    code, text, _ = run("convert", folder, out, "--compute-type", "bfloat16", "--overwrite", "--json")
    facts = json.loads(text)
    assert (code, facts["compute_type"]) == (0, "bfloat16")
    assert facts["target_bytes"] * 2 == facts["source_bytes"]
    assert facts["memory"]["bytes"] > facts["target_bytes"]
    assert set(facts["files"]) == {path.name for path in Path(out).iterdir()} - {"llada_rt.json"}


def test_convert_in_shards(run, folder, tmp_path):
    code, _, _ = run(
        *("convert", folder, str(tmp_path / "out"), "--compute-type", "bfloat16"), *("--max-shard-size", "50KB")
    )
    assert code == 0
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert run("generate", "abc", "-m", str(tmp_path / "out"))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert", "{}", "{}-out"], 2, "compute-type"),
        (["convert", "{}", "{}-out", "--compute-type", "int3"], 2, "int3"),
        (["convert", "{}", "{}-out", "--compute-type", "int8", "--max-shard-size", "lots"], 2, "lots"),
        (["convert", "/nonexistent", "{}-out", "--compute-type", "int8"], 3, "/nonexistent"),
        (["convert", "{}", "{}-out", "--compute-type", "int8", "--base", "{}"], 3, "adapter_config.json"),
        (["inspect", "/nonexistent"], 3, "/nonexistent"),
        (["inspect"], 2, "MODEL"),
        (["verify", "/nonexistent"], 3, "/nonexistent"),
        (["verify", "{}", "--prompts", "x"], 2, "--against"),
        (["verify", "{}", "--against", "{}", "--prompts", "/nonexistent"], 2, "/nonexistent"),
        (["verify", "{}", "--against", "/nonexistent"], 3, "/nonexistent"),
        (["info", "--memory", "-m", "/nonexistent"], 3, "/nonexistent"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes(run, folder, arguments, code, words):
    got, out, err = run(*(argument.replace("{}", folder) for argument in arguments))
    assert (got, out) == (code, "")
    assert words in err
    assert "Traceback" not in err


def test_inspect(run, folder):
    code, out, err = run("inspect", folder)
    assert (code, err) == (0, "")
    for words in ("blocks.*.q_proj.weight", "F32", "int8_bfloat16", "problems        none"):
        assert words in out
    facts = json.loads(run("inspect", folder, "--json")[1])
    assert facts["num_parameters"] == sum(kind["elements"] for kind in facts["tensors"].values())
    assert facts["problems"] == []


def test_inspect_lists_what_is_wrong(run, tmp_path):
    folder = write_folder(tmp_path / "model", tokenizer=False, config={"mask_token_id": None, "n_layers": 3})
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    code, out, _ = run("inspect", str(folder))
    assert code == 0
    for words in ("blocks.2", "tokenizer.json: missing", "mask_token_id: missing", "pickle"):
        assert words in out
    (folder / "model.safetensors").write_bytes(b"short")
    assert "model.safetensors: expected a header" in run("inspect", str(folder))[1]
    (folder / "config.json").write_text((folder / "config.json").read_text()[:-1] + ', "quantization": {"bits": 2}}')
    code, out, err = run("inspect", str(folder))
    assert (code, out) == (3, "")
    assert "quantization" in err


def test_inspect_and_verify_a_folder_cut_short(run, folder, tmp_path):
    out = tmp_path / "out"
    assert run("convert", folder, str(out), "--compute-type", "int8")[0] == 0
    (out / "tokenizer.json").unlink()
    assert "tokenizer.json: expected" in run("inspect", str(out))[1]
    code, text, _ = run("verify", str(out))
    assert code == 7
    assert "FAILED" in text
    assert "the file is missing" in text
    code, text, err = run("generate", "a", "-m", str(out))
    assert (code, text) == (3, "")
    assert "cut short" in err


def test_verify_against_the_source(run, folder, tmp_path):
    out = str(tmp_path / "out")
    run("convert", folder, out, "--compute-type", "bfloat16")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("abc\n\n床前明月光\n")
    code, text, err = run("verify", out, "--against", folder, "--against-type", "float32", "--prompts", str(prompts))
    assert (code, err) == (0, "")
    assert "bfloat16 against float32" in text
    code, text, _ = run("verify", out, "--against", folder, "--json")
    facts = json.loads(text)
    assert (code, facts["ok"]) == (0, True)
    assert [check["check"] for check in facts["checks"]] == ["config", "files", "tensors", "values", "agreement"]
    assert 0 < facts["agreement"]["max_difference"] < 1
    prompts.write_text("\n")
    assert run("verify", out, "--against", folder, "--prompts", str(prompts))[0] == 2


def test_verify_fails_below_the_agreement_asked_for(run, folder, tmp_path):
    other = write_folder(tmp_path / "other", config={"rope_theta": 7.0})
    code, text, _ = run("verify", str(other), "--against", folder, "--min-agreement", "1")
    assert code == 7
    assert "agreement  FAILED" in text


def test_info_memory(run, folder):
    code, out, err = run("info", "--memory", "-m", folder, "--length", "100", "--max-num-seqs", "3")
    assert (code, err) == (0, "")
    assert "3 sequences x 128 positions" in out
    facts = json.loads(run("info", "--memory", "-m", folder, "--json", "--compute-type", "bfloat16")[1])
    assert facts["compute_type"] == "bfloat16"
    assert facts["bytes"] == sum(term["bytes"] for term in facts["terms"].values())
    assert "together" in run("info", "--memory")[1]
    assert run("info", "--memory", "-m", str(CHECKPOINT))[0] == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("500mb", 5 * 10**8),
        ("12", 12),
        ("3 K", 3000),
        ("1TB", 10**12),
        ("2GiB", 2 << 30),
        ("1.5 kb", 1500),
        ("7B", 7),
    ],
)
def test_sizes(text, size):
    assert parse_size("--size", text) == size
    assert EngineConfig("x", memory_limit=text).memory_limit == size


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "GB", "1XB", "1.5.2GB", "1e9", "0.1", "inf", "٣GB", "9" * 15 + "TB", "1 2"]
)
def test_what_is_no_size_is_named(text):
    with pytest.raises(ConfigError, match="--size: expected bytes or a size like 2GB") as caught:
        parse_size("--size", text)
    assert caught.value.param == "--size"
    with pytest.raises(ConfigError, match="memory_limit"):
        EngineConfig("x", memory_limit=text)


def test_sizes_wherever_bytes_are_asked_for(run, folder, tmp_path):
    assert run("generate", "a", "-m", folder, "--memory-limit", "1GB")[0] == 0
    code, _, err = run("generate", "a", "-m", folder, "--memory-limit", "1KB")
    assert code != 0
    assert "expected at least" in err
    assert "memory_limit" in run("generate", "a", "-m", folder, "--memory-limit", "much")[2]
    assert run("convert", folder, str(tmp_path / "a"), "--compute-type", "int8", "--max-shard-size", "1MiB")[0] == 0
    convert_model(folder, tmp_path / "b", compute_type="int8", max_shard_bytes="1MiB")
    with pytest.raises(ConfigError, match="max_shard_bytes"):
        convert_model(folder, tmp_path / "c", compute_type="int8", max_shard_bytes="much")


def test_sizes_in_words():
    assert [size_text(n) for n in (0, 1023, 1024, 1536 * 1024, 5 << 40)] == [
        *("0 bytes", "1023 bytes", "1.0 KiB", "1.5 MiB", "5.0 TiB")
    ]
