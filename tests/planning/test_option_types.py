"""What type checkers, editors and `help` know of the options is what the options are."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import llada_rt
from llada_rt import AsyncEngine, Engine, EngineConfig, SamplingParams, errors
from llada_rt.config import EngineOptions
from llada_rt.options import renamed
from llada_rt.options.types import SamplingOptions
from llada_rt.outputs import CompletionOutput, FinishReason
from llada_rt.params import ALIASES

PACKAGE = Path(llada_rt.__file__).parent


def test_the_typed_names_are_the_options_and_their_aliases():
    options = [spec.name for spec in dataclasses.fields(SamplingParams)]
    hints = typing.get_type_hints(SamplingOptions)
    assert set(hints) == {*options, *ALIASES}
    assert {alias: hints[alias] for alias in ALIASES} == {alias: hints[name] for alias, name in ALIASES.items()}
    fields = typing.get_type_hints(SamplingParams)
    for name in options:
        if typing.get_origin(fields[name]) is typing.Literal:
            assert hints[name] == fields[name]
        takes_none = type(None) in typing.get_args(hints[name])
        assert takes_none == SamplingParams.__dataclass_fields__[name].metadata["optional"], name


def test_the_typed_names_of_an_engine_are_its_options():
    names = [spec.name for spec in dataclasses.fields(EngineConfig)]
    assert [*names[:1], *typing.get_type_hints(EngineOptions)] == [*names, *renamed.ENGINE]
    for kind in (Engine, AsyncEngine):
        assert list(inspect.signature(kind).parameters) == names


@pytest.mark.parametrize(
    ("kind", "source"), [(SamplingParams,) * 2, (Engine, EngineConfig), (AsyncEngine, EngineConfig)]
)
def test_help_tells_every_option(kind, source):
    text = re.sub(r"\s+", " ", inspect.getdoc(kind))
    for spec in dataclasses.fields(source):
        if spec.name == "model_dir":
            continue
        begin = text.index(f" {spec.name} (")
        told = text[begin : begin + 900]
        assert f" Default: {spec.default!r}." in told
        assert re.sub(r"\s+", " ", spec.metadata["help"]) in told
        assert all(alias in told for alias in spec.metadata.get("aliases", ()))


def test_every_finish_reason_and_error_code_is_told():
    text = inspect.getdoc(CompletionOutput)
    for reason in typing.get_args(FinishReason):
        assert re.search(rf"^{reason} ", text, re.MULTILINE), reason
    codes = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.LladaRtError) and kind is not errors.LladaRtError
    }
    assert len(codes) > 15
    text = inspect.getdoc(errors.LladaRtError)
    assert [code for code in sorted(codes) if not re.search(rf"\b{code}\b", text)] == []


GOOD = """
import numpy as np
from typing import Unpack
from llada_rt import AsyncEngine, Engine, EngineOptions, FinishReason, SamplingOptions, SamplingParams

params = SamplingParams(gen_length=64, preset="fast", stop="x", stop_token_ids=[np.int64(3)], audit=True, seed=None)
params = SamplingParams(max_tokens=64, temp=np.float32(0.5), choice=["a", "b"]).replace(steps=None, n=2)
length: int = params.gen_length
engine = Engine("x", memory_limit="8GB", eos_token_id=[1, 2])
reason: FinishReason = engine.generate("a", params)[0].outputs[0].finish_reason

def wrapped(options: EngineOptions, **given: Unpack[SamplingOptions]) -> str:
    with Engine("x", **options) as engine:
        return engine.generate("a", SamplingParams(**given))[0].text

async def answer() -> str:
    async with await AsyncEngine.open(compute_type="int8", threads=2) as engine:
        return (await engine.generate("a"))[0].text
"""
BAD = {
    "SamplingParams(gen_lenght=3)": "gen_lenght",
    "SamplingParams(gen_length='3')": "SupportsIndex",
    "SamplingParams(gen_length=3.0)": "SupportsIndex",
    "SamplingParams(preset='turbo')": "reference",
    "SamplingParams(temperature='hot')": "SupportsFloat",
    "SamplingParams(stop=[3])": "str",
    "SamplingParams(top_p=0.9)": "top_p",
    "SamplingParams().replace(gen_lenght=3)": "gen_lenght",
    "SamplingParams().gen_lenght": "gen_lenght",
    "Engine(thread=2)": "thread",
    "Engine(threads='2')": "int",
    "Engine(compute_type='int3')": "int8_bfloat16",
    "Engine(3)": "PathLike",
    "AsyncEngine(device=0)": "str",
    "opened = AsyncEngine.open(thread=2)": "thread",
}


def test_mypy_finds_what_is_wrong_in_a_users_file(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "good.py").write_text(GOOD)
    lines = ["from llada_rt import AsyncEngine, Engine, SamplingParams", *BAD]
    (tmp_path / "bad.py").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--no-pretty", "good.py", "bad.py"],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(PACKAGE.parent), "MYPY_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=400,
    )
    found = dict(re.findall(r"^bad\.py:(\d+): error: (.*)", done.stdout, re.MULTILINE))
    assert "good.py" not in done.stdout, done.stdout
    for number, (line, words) in enumerate(BAD.items(), 2):
        assert words in found.pop(str(number), ""), (line, done.stdout, done.stderr)
    assert not found
