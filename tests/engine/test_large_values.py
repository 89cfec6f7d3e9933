"""Integers of 5,000 digits, which Python refuses to write down, and long values: short messages, typed errors."""

import dataclasses

import pytest

from llada_rt import Engine, LladaRtError, SamplingParams
from llada_rt.config import EngineConfig
from llada_rt.text.template import Hole
from llada_rt.tools.convert import convert_model

BIG = 10**5000
FORMS = {"positive": BIG, "negative": -BIG, "in a list": [BIG], "as a key": {BIG: BIG}, "long text": "x\x1b" * 10**6}
REQUEST = [field.name for field in dataclasses.fields(SamplingParams)]
ENGINE = [field.name for field in dataclasses.fields(EngineConfig)[1:] if field.name != "stream"]
SHORT = SamplingParams(gen_length=8)


def check(call) -> None:
    with pytest.raises(LladaRtError) as caught:
        call()
    message = str(caught.value)
    assert len(message) < 600, len(message)
    assert "\x1b" not in message


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", REQUEST)
def test_options_of_a_request(name, form):
    if (name, form) == ("regex", "long text"):
        pytest.skip("an expression is a text")
    if name == "choice" and form in ("as a key", "long text"):
        pytest.skip("texts of any length may be chosen among")
    check(lambda: SamplingParams(**{name: FORMS[form]}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ENGINE)
def test_options_of_an_engine(name, form):
    if (name, form) == ("cpu_isa", "long text"):  # which instruction sets there are is seen when the engine is made
        return check(lambda: Engine(cpu_isa=FORMS[form]))
    check(lambda: EngineConfig("x", **{name: FORMS[form]}))


CALLS = {
    "a token": lambda engine: engine.generate([BIG], SHORT),
    "a token of many prompts": lambda engine: engine.generate([[1, BIG]], SHORT),
    "a prompt": lambda engine: engine.generate(BIG, SHORT),
    "a name in a prompt": lambda engine: engine.generate({BIG: 1}, SHORT),
    "a hole": lambda engine: engine.infill([BIG]),
    "bounds of a hole": lambda engine: engine.infill([{"hole": [1, BIG]}]),
    "bounds in the wrong order": lambda engine: Hole((BIG, 1)),
    "a negative hole": lambda engine: Hole(-BIG),
    "a name in a segment": lambda engine: engine.infill([{BIG: 1}]),
    "draws": lambda engine: engine.score([1], [2], mc_num=BIG),
    "a seed": lambda engine: engine.score([1], [2], seed=BIG),
    "a scale": lambda engine: engine.score([1], [2], cfg_scale=BIG),
    "a position": lambda engine: engine.generate({"prompt_token_ids": [1], "pinned": {BIG: 1}}, SHORT),
    "a pinned token": lambda engine: engine.generate({"prompt_token_ids": [1], "pinned": {0: BIG}}, SHORT),
    "noise": lambda engine: engine.score([1], [2], noise=[{"tokens": [1, BIG], "mask_ratio": 1.0}]),
    "a ratio": lambda engine: engine.score([1], [2], noise=[{"tokens": [1, 2], "mask_ratio": BIG}]),
    "a group": lambda engine: engine.score([1], [2], noise=[{"tokens": [1, 2], "mask_ratio": 1.0, "group": [BIG]}]),
    "a name": lambda engine: engine.generate([1], SHORT, request_ids=[BIG]),
    "tokens of forward": lambda engine: engine.forward([BIG]),
    "messages": lambda engine: engine.chat(BIG),
    "a content": lambda engine: engine.chat([{"role": "user", "content": BIG}]),
    "a mode": lambda engine: engine.stream([1], SHORT, mode=BIG),
    "a model": lambda engine: Engine(BIG),
    "bytes of a shard": lambda engine: convert_model("x", "y", compute_type="int8", max_shard_bytes=-BIG),
    "options": lambda engine: SamplingParams.from_dict(BIG),
    "a name of an option": lambda engine: SamplingParams.from_dict({BIG: 1}),
    "a long name of an option": lambda engine: SamplingParams.from_dict({"x\x1b" * 10**6: 1}),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_asked(speaker: Engine, call):
    check(lambda: CALLS[call](speaker))
