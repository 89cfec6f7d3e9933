"""Opening and closing: what a folder may lack, which ids count, what goes wrong and how it is said."""

import inspect
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import llada_rt
from llada_rt import (
    ChatTemplateError,
    ConfigError,
    DeviceError,
    Engine,
    EngineClosedError,
    Hole,
    InvalidRequestError,
    LladaRtError,
    ModelFormatError,
    ModelNotFoundError,
    SamplingParams,
    TokenizerError,
    _core,
)
from llada_rt.options import foreign
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import held
from tests.engine.models import write_folder

SHORT = SamplingParams(gen_length=4)


def test_close_twice_and_use_after():
    engine = Engine(CHECKPOINT, threads=1)
    events = engine.stream([1], SamplingParams(gen_length=16))
    with held(engine) as go_on:
        go_on()
        next(events)
        closing = threading.Thread(target=engine.close)
        closing.start()
        go_on()
        closing.join()
    engine.close()
    for use in (
        lambda: engine.generate([1], SHORT),
        lambda: engine.stream([1], SHORT),
        lambda: engine.forward([1]),
        lambda: engine.score([1], [2]),
        lambda: engine.__enter__(),
        lambda: list(events),
    ):
        with pytest.raises(EngineClosedError):
            use()
    assert engine.num_open_slots == 0


def test_a_context_manager_closes_on_an_error():
    with pytest.raises(KeyError), Engine(CHECKPOINT, threads=1) as engine:
        raise KeyError
    with pytest.raises(EngineClosedError):
        engine.generate([1], SHORT)


@pytest.mark.parametrize(
    "body",
    [
        "engine.generate([1], SamplingParams(gen_length=4))",
        "events = engine.stream([1], SamplingParams(gen_length=16)); next(events)",
        "import threading\nthreading.Thread(target=engine.generate, daemon=True, "
        "args=([[1]] * 8, SamplingParams(gen_length=100, block_length=1))).start()",
        "raise SystemExit(0)",
        "import asyncio; from llada_rt import AsyncEngine; service = AsyncEngine(engine.config.model_dir, threads=1)\n"
        "asyncio.run(asyncio.wait_for(service.generate([1], SamplingParams(gen_length=4)), 30))",
        "import asyncio; from llada_rt import AsyncEngine; service = AsyncEngine(engine.config.model_dir, threads=1)\n"
        "async def main():\n"
        "    asyncio.create_task(service.generate([1], SamplingParams(gen_length=100, block_length=1)))\n"
        "    await asyncio.sleep(0.01)\n"
        "asyncio.run(main())",
    ],
)
def test_leaving_python_without_close(body):
    script = f"from llada_rt import Engine, SamplingParams\nengine = Engine({str(CHECKPOINT)!r}, threads=2)\n{body}\n"
    package = Path(llada_rt.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    # A thread that is still at work is told; nothing else is said.
    assert run.stderr == "" or ("threading" in body and run.stderr.startswith("Exception in thread")), run.stderr


def test_importing_the_package_loads_nothing_heavy():
    script = (
        "import sys, llada_rt; print(sorted({'numpy', 'tokenizers', 'jinja2', 'typer', 'torch'} & set(sys.modules)))"
    )
    package = Path(llada_rt.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(package)}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[]", run.stderr


def test_every_public_name_is_there():
    for name in llada_rt.__all__:
        assert getattr(llada_rt, name) is not None
    with pytest.raises(AttributeError):
        llada_rt.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"device": "tpu"}, ConfigError, "auto, cpu, cuda, .* got 'tpu'"),
        ({"device": "cuda:first"}, ConfigError, "got 'cuda:first'"),
        ({"device": "cuda:999"}, DeviceError, "cuda|device index"),
        (
            {"device": "cuda", "cpu_isa": "generic"},
            DeviceError,
            "'cpu' beside 'generic', got device 'cuda'",
        ),
        ({"stream": "main"}, DeviceError, "__cuda_stream__"),
        ({"compute_type": "float64"}, ConfigError, "float32, bfloat16"),
        ({"threads": 0}, ConfigError, "threads"),
        ({"threads": 1.5}, ConfigError, "threads"),
        ({"max_num_seqs": 0}, ConfigError, "max_num_seqs"),
        ({"max_num_batched_tokens": -1}, ConfigError, "max_num_batched_tokens"),
        ({"cpu_isa": "neon"}, DeviceError, "cpu_isa: expected .*generic.*, got 'neon'"),
        ({"cpu_isa": 3}, ConfigError, "cpu_isa"),
        ({"mask_token_id": 160}, ConfigError, "0 to 159, got 160"),
        ({"eot_token_id": -1}, ConfigError, "eot_token_id"),
        ({"eos_token_id": IDS.mask}, ConfigError, "156"),
        ({"thread": 2}, ConfigError, "did you mean 'threads'"),
        ({"trust_remote_code": True}, ConfigError, "unknown engine option"),
    ],
)
def test_bad_options(options, kind, words):
    with pytest.raises(kind, match=words):
        Engine(CHECKPOINT, **options)


def test_bad_folders(tmp_path):
    with pytest.raises(ModelNotFoundError, match="not found"):
        Engine(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        Engine(tmp_path / "nowhere")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        Engine(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ModelNotFoundError, match="got a file"):
        Engine(file)
    for nonsense in ("", 3, b"x"):
        with pytest.raises(ConfigError, match="model_dir"):
            Engine(nonsense)


def test_ids_from_config_generation_config_tokenizer_and_options(tmp_path):
    named = {"mask_token_id": ..., "eos_token_id": ..., "pad_token_id": ...}
    with Engine(CHECKPOINT) as engine:
        assert (engine.mask_token_id, engine.eos_token_id, engine.eot_token_id) == (IDS.mask, IDS.eos, None)
    from_tokenizer = write_folder(tmp_path / "a", config=named)
    with Engine(from_tokenizer) as engine:
        assert (engine.mask_token_id, engine.eos_token_id, engine.eot_token_id) == (IDS.mask, IDS.eos, IDS.eot)
    generation = {"eos_token_id": [10, 11], "eot_token_id": 12, "mask_token_id": 13}
    from_generation = write_folder(tmp_path / "b", config=named, generation=generation)
    with Engine(from_generation) as engine:
        assert (engine.mask_token_id, engine.eos_token_id, engine.eot_token_id) == (13, 10, 12)
    with Engine(from_generation, mask_token_id=20, eos_token_id=21, eot_token_id=22) as engine:
        assert (engine.mask_token_id, engine.eos_token_id, engine.eot_token_id) == (20, 21, 22)
    nothing = write_folder(tmp_path / "c", tokenizer=False, config=named)
    with pytest.raises(ConfigError, match="names no mask token"):
        Engine(nothing)
    with Engine(nothing, mask_token_id=IDS.mask) as engine:
        assert engine.eos_token_id is None
        assert engine.generate([1], SHORT.replace(preset="quality"))


def test_params_are_differences_from_the_model_defaults(tmp_path):
    shape = {"gen_length": 12, "steps": 12, "block_length": 12}
    with Engine(write_folder(tmp_path / "a", generation={"llada_rt": shape | {"temperature": 0.5}})) as engine:
        for length in (4, 10, 12, 20):
            by_name = engine.generate([1], engine.default_params.replace(max_tokens=length, seed=3))[0]
            (over,) = engine.generate([1], SamplingParams(gen_length=length, seed=3))
            assert by_name.params == over.params
            assert (over.params.gen_length, over.params.temperature) == (length, 0.5)
            assert by_name.outputs[0].token_ids == over.outputs[0].token_ids
        assert engine.generate([1], SamplingParams(seed=3))[0].params.gen_length == 12
        both = engine.generate([[1], [2]], [SamplingParams(seed=3), engine.default_params])
        assert [output.params.gen_length for output in both] == [12, 12]
        last = list(engine.stream([1], SamplingParams(seed=3)))[-1]
        assert len(last.canvas) == 13
        alone = SamplingParams(gen_length=4).over(SamplingParams())
        assert engine.generate([1], alone)[0].params.temperature == 0
    for rule in ({"stop": ["x"]}, {"stop_token_ids": [5]}, {"regex": "a+"}, {"choice": ["a", "b"]}):
        with Engine(write_folder(tmp_path / "b", generation={"llada_rt": rule})) as engine:
            assert engine.infill(["a", 2, "b"]).text
            assert engine.fill_middle("a", "b", SamplingParams(gen_length=3)).text
            assert engine.generate({"prompt": "a", "pinned": {0: 5}}, SamplingParams(gen_length=4))
            with pytest.raises(InvalidRequestError) as caught:
                engine.infill(["a", 2, "b"], SamplingParams(**rule))
            assert caught.value.param in rule
    with Engine(write_folder(tmp_path / "c", generation={"llada_rt": {"block_order": "confidence"}})) as engine:
        assert engine.infill(["a", Hole(2, regex="a+"), "b"]).text
        assert engine.infill(["a", {"hole": 2, "regex": "a+"}, "b"]).text
        assert engine.generate("a", SamplingParams(gen_length=4, regex="a+"))


def test_lengths_of_the_model_are_not_those_of_a_template(tmp_path):
    """What a model says of an answer of its own length (all at once, a token a step) is said of any template."""
    own = {"gen_length": 3, "steps": 3, "block_length": 3}
    segments, outputs = ["a", 5, "b", 4], []
    for name, generation in {"none": None, "own": {"llada_rt": own}}.items():
        with Engine(write_folder(tmp_path / name, generation=generation)) as engine:
            outputs.append(engine.infill(segments, SamplingParams(seed=3)).outputs[0])
            given = engine.infill(segments, SamplingParams(seed=3, **own)).outputs[0]
            assert given.diffusion.nfe < 9
    assert outputs[0].token_ids == outputs[1].token_ids
    assert [output.diffusion.nfe for output in outputs] == [9, 9]


def test_default_params_come_from_the_model(tmp_path):
    with Engine(CHECKPOINT) as engine:
        assert engine.default_params == SamplingParams()
    folder = write_folder(tmp_path / "a", generation={"llada_rt": {"gen_length": 12, "preset": "fast"}})
    with Engine(folder) as engine:
        assert engine.default_params == SamplingParams(gen_length=12, preset="fast")
        (output,) = engine.generate([1])
        assert output.params.gen_length == 12
    for bad in ({"gen_lenght": 3}, {"gen_length": 0}, [1], "fast"):
        with pytest.raises(ConfigError, match=r"generation_config\.json, llada_rt"):
            Engine(write_folder(tmp_path / "b", generation={"llada_rt": bad}))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("generation_config.json", b"{", ModelFormatError),
        ("generation_config.json", b"[]", ModelFormatError),
        ("generation_config.json", b"\xff\xfe", ModelFormatError),
        ("generation_config.json", b"[" * 100_000, ModelFormatError),
        ("generation_config.json", b" " * (17 * 2**20), ModelFormatError),
        ("generation_config.json", b'{"eos_token_id": 9999}', None),  # config.json speaks first
        ("generation_config.json", b'{"eot_token_id": 9999}', ConfigError),
        ("generation_config.json", b'{"eot_token_id": "x"}', ConfigError),
        ("generation_config.json", b'{"eot_token_id": true}', ConfigError),
        ("tokenizer_config.json", b"3", ModelFormatError),
        ("tokenizer_config.json", b'{"chat_template": 3}', ChatTemplateError),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default", "template": "x"}]}', None),
        ("tokenizer.json", b"", TokenizerError),
        ("tokenizer.json", b"{}", TokenizerError),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', TokenizerError),
        ("tokenizer.json", b"\x80\x04\x95", TokenizerError),
        ("chat_template.jinja", b"\xff", ChatTemplateError),
        ("chat_template.jinja", b"x" * 300_000, ChatTemplateError),
        ("chat_template.jinja", b"x" * (2 * 2**20), ModelFormatError),
    ],
)
def test_bad_side_files(tmp_path, name, content, kind):
    folder = write_folder(tmp_path / "m")
    (folder / name).write_bytes(content)
    if kind is None:
        Engine(folder).close()
        return
    with pytest.raises(kind) as caught, Engine(folder) as engine:
        engine.chat([{"role": "user", "content": "hi"}], SHORT)
    assert isinstance(caught.value, LladaRtError)
    assert len(str(caught.value)) < 500


def test_links(tmp_path):
    folder = write_folder(tmp_path / "m")
    outside = tmp_path / "outside"
    (folder / "tokenizer.json").rename(outside)
    (folder / "tokenizer.json").symlink_to(outside)
    with pytest.raises(ModelFormatError, match="link that leaves it"):
        Engine(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("tokenizer.json")
    with pytest.raises(ModelFormatError, match="cannot be read"):
        Engine(folder)
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(ModelFormatError, match="pipe"):
        Engine(folder)


def test_the_hub_cache_keeps_its_files_elsewhere(tmp_path):
    snapshot = write_folder(tmp_path / "models--a--b" / "snapshots" / "main")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(Path("..", "..", "blobs", path.name))
    with Engine(snapshot, threads=1) as engine:
        assert engine.chat([{"role": "user", "content": "hi"}], SHORT)


def test_the_version_is_the_packages():
    pyproject = Path(__file__).resolve().parents[2] / "pyproject.toml"
    assert f'version = "{llada_rt.__version__}"' in pyproject.read_text()
    assert llada_rt.build_info()["version"] == llada_rt.__version__


@pytest.mark.parametrize("source", ["{% if", "{{ ''.__class__ }}", "{% for i in range(10**9) %}{% endfor %}"])
def test_a_bad_template_spoils_chat_and_nothing_else(tmp_path, source):
    folder = write_folder(tmp_path / "m", template=None)
    (folder / "chat_template.jinja").write_text(source)
    with Engine(folder, threads=1) as engine:
        with pytest.raises(ChatTemplateError):
            engine.chat([{"role": "user", "content": "hi"}], SHORT)
        assert engine.generate("hi", SHORT)


def test_a_template_file_goes_before_the_configuration(tmp_path):
    folder = write_folder(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    with Engine(folder, threads=1) as engine:
        assert engine.apply_chat_template([{"role": "user", "content": "hi"}]) == engine.tokenizer.encode("hi!")


def test_info_is_plain_json(text_folder):
    with Engine(text_folder, threads=1) as engine:
        info = json.loads(json.dumps(engine.info()))
    assert info["threads"] == 1
    assert info["mask_token_id"] == IDS.mask
    assert info["has_chat_template"] is True
    assert info["table"] == info["tables"][0]


@pytest.mark.parametrize("name", foreign.ENGINE)
def test_engine_options_of_other_engines_are_explained(name):
    if name == "model":
        assert "model" not in inspect.signature(Engine).parameters
    with pytest.raises(ConfigError, match=f"unknown engine option '{name}'") as caught:
        Engine(CHECKPOINT, **{name: 1})
    assert caught.value.hint == f"it is {foreign.ENGINE[name]}"


@pytest.mark.parametrize(
    ("ours", "openmp", "option", "expected"),
    [
        (None, None, None, "the machine's"),
        (None, "2", None, 2),
        ("3", "2", None, 3),
        ("3", "2", 1, 1),
        (None, "2,4", None, 2),
        ("", "", None, "the machine's"),
        *((None, wrong, None, "the machine's") for wrong in ("0", "-1", "x", "1.5", "9999", "٣")),
        *((wrong, "2", None, "refused") for wrong in ("0", "-1", "x", "1.5", "9999", "٣")),
        ("x", "2", 1, 1),
    ],
)
def test_who_says_how_many_threads(monkeypatch, ours, openmp, option, expected):
    for name, value in (("LLADA_THREADS", ours), ("OMP_NUM_THREADS", openmp)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    if expected == "refused":
        with pytest.raises(ConfigError, match="LLADA_THREADS: expected an integer from 1 to 1024"):
            Engine(CHECKPOINT, threads=option)
        return
    with Engine(CHECKPOINT, threads=option) as engine:
        assert engine.info()["threads"] == (_core.default_num_threads() if isinstance(expected, str) else expected)
