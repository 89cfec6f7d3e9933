"""Everything that comes back can be told as JSON, whatever was asked for."""

import dataclasses
import inspect
import json
import math

import pytest

from llada_rt import InvalidRequestError, SamplingParams, outputs
from llada_rt.json_values import JsonValue
from llada_rt.outputs import ScoreOutput, StepEvent, Usage

ALL = SamplingParams(
    gen_length=12, preset="fast", block_length=4, audit=1, logprobs=2, return_tokens=True, n=2, temperature=0.5
)


def told(value) -> dict:
    """`to_dict` of a value, as strict JSON gives it back, with every field that the value has."""
    known = value.to_dict()
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    old_names = ["unmasked"] if isinstance(value, StepEvent) else []
    assert list(known) == [*(spec.name for spec in dataclasses.fields(value)), *old_names]
    return known


def test_every_output_has_it():
    kinds = [
        kind for _, kind in inspect.getmembers(outputs, dataclasses.is_dataclass) if kind.__name__ != "SamplingParams"
    ]
    assert len(kinds) == 14
    assert all(issubclass(kind, JsonValue) for kind in kinds)


def test_outputs_and_events(speaker):
    (output,) = speaker.generate([{"messages": [{"role": "user", "content": "abc"}]}], ALL)
    known = told(output)
    assert known["outputs"][1]["tokens"][0]["id"] == output.outputs[1].token_ids[0]
    assert known["outputs"][0]["audit"]["num_steps"] > 0
    assert known["params"] == ALL.replace(seed=output.outputs[0].seed).to_dict() | {"seed": known["params"]["seed"]}
    for part in (output.outputs[0], output.outputs[0].diffusion, output.metrics, output.outputs[0].audit):
        told(part)
    told(output.outputs[0].tokens[0])
    filled = speaker.infill(["a", 2, "b"])
    assert told(filled)["outputs"][0]["holes"] == [told(filled.outputs[0].holes[0])]
    for mode in ("append", "denoise"):
        events = list(speaker.stream("abc", SamplingParams(gen_length=4), mode=mode))
        assert [told(event)["output"] is not None for event in events] == [False] * (len(events) - 1) + [True]
    assert told(speaker.stats())["num_finished"]["length"] >= 1


def test_usage_counts_what_the_texts_show(speaker):
    (output,) = speaker.generate(["abc"], ALL)
    special = {speaker.mask_token_id, *speaker.end_token_ids}
    written = sum(token not in special for each in output.outputs for token in each.token_ids)
    assert output.usage == Usage(3, written, 3 + written)
    assert told(output.usage) == {"prompt_tokens": 3, "completion_tokens": written, "total_tokens": 3 + written}


def test_what_json_cannot_hold_is_none(speaker):
    score = speaker.score("abc", "de", mc_num=1)
    assert math.isnan(score.standard_error)
    assert told(score) == {"log_likelihood": score.log_likelihood, "standard_error": None, "num_samples": 1}
    assert ScoreOutput(-math.inf, 1.0, 2).to_dict()["log_likelihood"] is None


def test_an_error_is_told_too():
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(gen_lenght=3)
    told = json.loads(json.dumps(caught.value.to_dict()))
    assert told == {
        "type": "invalid_request",
        "message": "unknown option 'gen_lenght'",
        "param": "gen_lenght",
        "hint": "did you mean 'gen_length'?",
    }
