"""Old names: for one version each does what the new name does, and says the new name to whoever uses it."""

import asyncio
import inspect
import warnings

import pytest

from llada_rt import AsyncEngine, ConfigError, Engine, EngineConfig, SamplingParams, _core
from llada_rt.cli import app as cli
from llada_rt.outputs import StepEvent
from tests.data.make_goldens import CHECKPOINT

GENERIC = "generic"  # each machine can run it, and on most it is not the default
SHORT = SamplingParams(gen_length=4)


async def open_beside_the_loop(**options) -> Engine:
    return (await AsyncEngine.open(CHECKPOINT, threads=1, **options)).engine


OPENERS = {
    "Engine": lambda **options: Engine(CHECKPOINT, threads=1, **options),
    "AsyncEngine": lambda **options: AsyncEngine(CHECKPOINT, threads=1, **options).engine,
    "AsyncEngine.open": lambda **options: asyncio.run(open_beside_the_loop(**options)),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_an_engine_takes_both_words(opener):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        with OPENERS[opener](cpu_isa=GENERIC) as engine:
            assert (engine.config.cpu_isa, engine.info()["table"]) == (GENERIC, GENERIC)
    with pytest.warns(DeprecationWarning, match="table is now called cpu_isa") as seen:
        engine = OPENERS[opener](table=GENERIC)
    with engine:
        assert (engine.config.cpu_isa, engine.info()["table"]) == (GENERIC, GENERIC)
    assert [warning.filename for warning in seen] == [__file__]  # once, at the caller's line
    with pytest.raises(ConfigError, match=r"'table' is the old name of 'cpu_isa': .* got both") as caught:
        OPENERS[opener](table=GENERIC, cpu_isa=GENERIC)
    assert caught.value.param == "cpu_isa"


def test_a_config_takes_both_words():
    with pytest.warns(DeprecationWarning, match="cpu_isa") as seen:
        old = EngineConfig("x", "cpu", table="avx2")
    assert [warning.filename for warning in seen] == [__file__]
    assert old == EngineConfig("x", "cpu", cpu_isa="avx2") == EngineConfig("x", "cpu", "auto", None, "avx2")
    assert list(inspect.signature(EngineConfig).parameters)[:5] == [
        *("model_dir", "device", "compute_type", "threads", "cpu_isa")
    ]
    with pytest.warns(DeprecationWarning, match="table is now called cpu_isa"):
        assert old.table == "avx2"
    with pytest.raises(ConfigError, match="got both"):
        EngineConfig("x", table="avx2", cpu_isa="avx2")
    with pytest.raises(ConfigError, match="cpu_isa: expected a name or None, got 3"):
        EngineConfig("x", cpu_isa=3)


def test_an_event_tells_both_words(speaker: Engine):
    for event in speaker.stream("abc", SHORT):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            assert len(event.committed) == 1
            told = event.to_dict()
        assert told["committed"] == told["unmasked"] == [list(commit) for commit in event.committed]
        with pytest.warns(DeprecationWarning, match="unmasked is now called committed") as seen:
            assert event.unmasked is event.committed
        assert seen[0].filename == __file__
    assert "unmasked" not in inspect.signature(StepEvent).parameters


@pytest.mark.parametrize("table", _core.tables()[-1:])
def test_the_command_line_takes_both_words(capsys, table):
    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(["info", "-m", str(CHECKPOINT), *words])
        return left.value.code, *capsys.readouterr()

    code, new, err = run("--cpu-isa", table)
    assert (code, err) == (0, "")
    assert f"table {table}" in new
    code, old, err = run("--table", table)
    assert (code, old) == (0, new)
    assert "--table is now called --cpu-isa" in err
    code, _, err = run("--table", table, "--cpu-isa", table)
    assert code == 2
    assert "got both" in err
    help_text = run("--help")[1]
    assert "--cpu-isa" in help_text
    assert "--table" not in help_text
