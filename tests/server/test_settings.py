"""Settings: a flag, a variable, a line of a file; what goes before what; what is refused."""

import dataclasses
import json
import logging
from typing import Any, get_args, get_type_hints

import pytest
import typer.main

from llada_rt.cli import app as cli
from llada_rt.config import ENGINE_FIELDS
from llada_rt.errors import ConfigError
from llada_rt.server.settings import PREFIX, SETTINGS_FIELDS, ServerSettings, choose

HINTS = get_type_hints(ServerSettings)


def other_than_default(name: str) -> Any:
    """A value of the setting that is not its default."""
    hint, default = HINTS[name], SETTINGS_FIELDS[name].default
    special = {
        "unknown_fields": "ignore",
        "log_format": "json",
        "root_path": "/llada",
        "api_key": ("key-of-the-house", "another-key"),
        "cors_origins": ("https://a.example", "https://b.example"),
        "served_model_name": ("a", "b"),
    }
    if name in special:
        return special[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, (int, float)):
        return default + 1
    assert str in (hint, *get_args(hint))
    return "a-text"


def as_toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def as_variable(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("name", SETTINGS_FIELDS)
def test_every_setting_may_be_said_in_three_places(name, tmp_path):
    value = other_than_default(name)
    more = {"ssl_certfile": "ssl_keyfile", "ssl_keyfile": "ssl_certfile"}
    beside = {more[name]: "a-text"} if name in more else {}
    path = tmp_path / "serve.toml"
    path.write_text("".join(f"{key} = {as_toml(each)}\n" for key, each in ({name: value} | beside).items()))
    environment = {PREFIX + key.upper(): as_variable(each) for key, each in ({name: value} | beside).items()}
    for chosen in (
        choose({name: value} | beside, {}),
        choose({}, environment),
        choose({}, {}, str(path)),
        choose({}, {"LLADA_RT_CONFIG": str(path)}),
    ):
        assert getattr(chosen.server, name) == value
        assert dataclasses.replace(chosen.server, **{name: SETTINGS_FIELDS[name].default}, **dict.fromkeys(beside)) == (
            ServerSettings()
        )


def test_every_setting_is_a_flag_of_the_command():
    command = typer.main.get_command(cli.app).commands["serve"]
    words = {word.lstrip("-") for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
    expected = {name.replace("_", "-") for name in {*SETTINGS_FIELDS, *ENGINE_FIELDS} - {"stream"}}
    assert expected <= words


def test_a_flag_goes_before_a_variable_and_a_variable_before_the_file(tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text("port = 1\nmax_n = 2\nmax_prompts = 3\nmax_num_seqs = 4\nmemory_limit = '1GB'\nmodel = 'a'\n")
    environment = {"LLADA_RT_MAX_N": "5", "LLADA_RT_MAX_PROMPTS": "6", "LLADA_RT_MAX_NUM_SEQS": "7"}
    chosen = choose({"max_prompts": 8}, environment, str(path))
    assert (chosen.server.port, chosen.server.max_n, chosen.server.max_prompts) == (1, 5, 8)
    assert chosen.engine == {"max_num_seqs": 7, "memory_limit": "1GB"}
    assert chosen.model == "a"


def test_options_of_the_engine_come_from_the_environment_by_their_types():
    environment = {"LLADA_RT_EOS_TOKEN_ID": "1,2", "LLADA_RT_THREADS": "2", "LLADA_RT_MEMORY_LIMIT": "8GB"}
    assert choose({}, environment).engine == {"eos_token_id": (1, 2), "threads": 2, "memory_limit": "8GB"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"port": 65536}, "port: expected an integer from 0 to 65535"),
        ({"port": "8000"}, "port: expected an integer"),
        ({"port": True}, "port: expected an integer"),
        ({"request_timeout": float("nan")}, "request_timeout: expected a number"),
        ({"request_timeout": 0}, "request_timeout: expected a number from 0.01"),
        ({"metrics_open": 1}, "metrics_open: expected true or false"),
        ({"host": ""}, "host: expected a text, got an empty one"),
        ({"unknown_fields": "drop"}, "expected one of refuse, ignore"),
        ({"cors_origins": "https://a"}, "expected a list of texts"),
        ({"root_path": "llada"}, "root_path: expected a path"),
        ({"root_path": "/llada/"}, "root_path: expected a path"),
        ({"ssl_certfile": "a"}, "expected both or none"),
        ({"api_key": ("short",)}, "api_key: expected keys of 8 to 1024"),
        ({"api_key": ("with space inside",)}, "api_key: expected keys"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(settings, message):
    with pytest.raises(ConfigError, match=message):
        ServerSettings(**settings)


def test_a_key_is_never_shown():
    with pytest.raises(ConfigError) as error:
        ServerSettings(api_key=("geheim!",))
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("portt = 1", "unknown setting 'portt' .did you mean port"),
        ("port = ", "is no TOML"),
        ("port = 'x'", "port: expected an integer"),
        ("[port]\na = 1", "port: expected an integer"),
        ("host = ['a']", "host: expected a text"),
        ("x = " + "[" * 10000, "is no TOML"),
        ("#" * 1_000_001, "too large"),
    ],
)
def test_a_file_that_makes_no_sense(text, message, tmp_path):
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        choose({}, {}, str(path))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        choose({}, {}, str(tmp_path / "none.toml"))


@pytest.mark.parametrize(("name", "text"), [("PORT", "eight"), ("PAGE", "perhaps"), ("REQUEST_TIMEOUT", "")])
def test_a_variable_that_makes_no_sense(name, text):
    with pytest.raises(ConfigError, match=f"LLADA_RT_{name}: expected"):
        choose({}, {PREFIX + name: text})


def test_a_variable_that_nobody_knows_is_told(caplog):
    with caplog.at_level(logging.WARNING, logger="llada_rt"):
        choose({}, {"LLADA_RT_PROT": "1", "OTHER": "2"})
    assert [record.getMessage() for record in caplog.records] == [
        "LLADA_RT_PROT in the environment is no setting of the server"
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, True), ({"host": "::1"}, True), ({"host": "0.0.0.0"}, False), ({"host": "0.0.0.0", "uds": "a"}, True)],
)
def test_whether_others_can_reach_it(settings, expected):
    assert ServerSettings(**settings).is_loopback is expected
