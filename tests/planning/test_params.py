"""SamplingParams: what is accepted, what is refused, how presets expand."""

import copy
import dataclasses
import inspect
import json
import math
import pickle

import numpy as np
import pytest

from llada_rt.errors import InvalidRequestError
from llada_rt.options import foreign
from llada_rt.params import ALIASES, PRESETS, SamplingParams


def test_defaults_are_those_of_the_published_loop():
    params = SamplingParams()
    assert params.to_dict() == {
        "gen_length": 128,
        "steps": None,
        "block_length": None,
        "adablock": None,
        "adablock_token": None,
        "block_order": "left_to_right",
        "suffix_window": None,
        "temperature": 0.0,
        "remasking": "low_confidence",
        "threshold": None,
        "factor": None,
        "threshold_alpha": 0.0,
        "frechet": None,
        "local_leap": None,
        "local_leap_threshold": 0.75,
        "local_leap_radius": 4,
        "entropy_bound": None,
        "cache": "none",
        "audit": 0,
        "error_budget": None,
        "cfg_scale": 0.0,
        "seed": None,
        "n": 1,
        "stop": [],
        "stop_token_ids": [],
        "include_stop_str_in_output": False,
        "max_nfe": None,
        "timeout_s": None,
        "logits_eos_inf": False,
        "confidence_eos_eot_inf": False,
        "eos_early_stop": False,
        "return_tokens": False,
        "logprobs": None,
        "regex": None,
        "choice": [],
        "split_special_tokens": None,
        "preset": "reference",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"preset": "quality"}, {"block_length": 32, "threshold": None, "cache": "none", "eos_early_stop": True}),
        ({"preset": "balanced"}, {"block_length": 32, "threshold": 0.9, "cache": "prefix", "eos_early_stop": True}),
        ({"preset": "fast"}, {"block_length": 32, "threshold": 0.9, "cache": "dual", "eos_early_stop": True}),
        ({"preset": "fast", "cache": "none"}, {"cache": "none", "threshold": 0.9}),
        ({"preset": "fast", "threshold": None}, {"cache": "dual", "threshold": None}),
        ({"preset": "fast", "factor": 1.0}, {"factor": 1.0, "threshold": None}),
        ({"preset": "fast", "frechet": 0.0}, {"frechet": 0.0, "threshold": None, "cache": "dual"}),
        ({"preset": "fast", "threshold_alpha": 0.3}, {"threshold": 0.9, "threshold_alpha": 0.3}),
        ({"local_leap": 0.6}, {"local_leap": 0.6, "local_leap_threshold": 0.6, "local_leap_radius": 4}),
        ({"entropy_bound": 0.1}, {"entropy_bound": 0.1, "remasking": "entropy"}),
        ({"entropy_bound": 0.1, "remasking": "margin"}, {"entropy_bound": 0.1, "remasking": "margin"}),
        ({"preset": "fast", "entropy_bound": 0.1}, {"threshold": None, "remasking": "entropy", "cache": "dual"}),
        ({"preset": "fast", "remasking": "entropy"}, {"cache": "dual", "threshold": None, "remasking": "entropy"}),
        ({"preset": "fast", "gen_length": 20}, {"block_length": 20}),
        ({"preset": "fast", "block_length": None}, {"block_length": None}),
        ({"preset": "fast", "eos_early_stop": False}, {"eos_early_stop": False}),
        ({"preset": "reference", "eos_early_stop": True}, {"eos_early_stop": True}),
        ({"preset": "quality", "eos_early_stop": None}, {"eos_early_stop": True}),
    ],
)
def test_preset_expands_first_and_explicit_options_win(options, expected):
    params = SamplingParams(**options)
    assert {name: getattr(params, name) for name in expected} == expected


@pytest.mark.parametrize(("alias", "name"), sorted(ALIASES.items()))
def test_alias_means_its_name_and_excludes_it(alias, name):
    value = {"remasking": "random", "cache": "none", "threshold": 0.5, "temperature": 0.5}.get(name, 8)
    options = {"gen_length": 64, "preset": "quality"}
    options.pop(name, None)
    assert getattr(SamplingParams(**options, **{alias: value}), name) == value
    with pytest.raises(InvalidRequestError, match="two names for one option") as caught:
        SamplingParams(**{alias: value, name: value})
    assert caught.value.param == name
    assert alias in str(caught.value)


BAD = [
    *[("gen_length", value) for value in (0, -1, 1.5, 8.0, "10", None, True, math.nan, math.inf, 2**31, [8])],
    *[("steps", value) for value in (0, -1, 1.5, "8", False)],
    *[("block_length", value) for value in (0, -8, 1.5, "8", 129)],
    *[("temperature", value) for value in (-0.1, math.nan, math.inf, -math.inf, "0.5", None, True, 10**400)],
    *[("cfg_scale", value) for value in (-1, 1.1e6, 1e300, math.nan, math.inf, None, "1")],
    *[("threshold", value) for value in (0, -0.5, 1.0000001, math.nan, math.inf, "0.9", True)],
    *[("factor", value) for value in (0, -1, math.nan, math.inf, "1")],
    *[(name, value) for name in ("threshold_alpha", "frechet") for value in (-0.1, 1.1, math.nan, math.inf, "1", True)],
    *[
        (name, value)
        for name in ("local_leap", "local_leap_threshold")
        for value in (0, -0.5, 1.0000001, math.nan, math.inf, "0.9", True)
    ],
    *[("threshold_alpha", None), ("local_leap_threshold", None)],
    *[("adablock", value) for value in (0, -0.5, 1.0000001, math.nan, math.inf, "0.3", True)],
    *[("adablock_token", value) for value in (-1, 1.5, 2**31, "4", True)],
    *[("local_leap_radius", value) for value in (0, -1, 1.5, 2**31, "4", None, True)],
    *[("entropy_bound", value) for value in (-0.1, math.nan, math.inf, "1", True)],
    *[("seed", value) for value in (-1, 2**64, 1.0, "3", True)],
    *[("remasking", value) for value in ("lowest", None, 0, "LOW_CONFIDENCE", "")],
    *[("cache", value) for value in ("double", None, True)],
    *[("preset", value) for value in ("turbo", None, 1)],
    *[
        (name, value)
        for name in ("logits_eos_inf", "confidence_eos_eot_inf", "return_tokens")
        for value in (1, None, "yes")
    ],
    ("eos_early_stop", 1),
    *[("n", value) for value in (0, -1, 10**6, 1.5, "2", None, True)],
    *[("stop", value) for value in ("", [""], ["x"] * 10_000, ["x" * 2**20], [3], None, 3, {"a": 1}, ["\ud800"], b"x")],
    *[("stop_token_ids", value) for value in ([-1], [1.5], ["a"], [True], [2**31], [1] * 65, 3, None, "12")],
    *[("max_nfe", value) for value in (0, -1, 1.5, "8", True)],
    *[("timeout_s", value) for value in (0, -1, math.nan, math.inf, "1", True)],
    *[("include_stop_str_in_output", value) for value in (-1, 10**6, None, "yes")],
    *[("logprobs", value) for value in (-1, 21, 10**6, 1.0, 2.5, "yes", "5", [])],
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=[f"{name}={value!r}"[:40] for name, value in BAD])
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**{name: value})
    assert caught.value.param == name
    assert name in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.9, "factor": 1.0}, ["threshold=0.9", "factor=1.0"]),
        ({"threshold": 0.9, "remasking": "entropy"}, ["threshold", "entropy"]),
        ({"factor": 1.0, "remasking": "entropy"}, ["factor", "entropy"]),
        ({"frechet": 0.25, "remasking": "entropy"}, ["frechet", "entropy"]),
        ({"local_leap": 0.9, "remasking": "entropy"}, ["local_leap", "entropy"]),
        ({"frechet": 0.25, "threshold": 0.9}, ["threshold=0.9", "frechet=0.25"]),
        (
            {"entropy_bound": 0.1, "factor": 1.0, "local_leap": 0.9},
            ["factor=1.0", "local_leap=0.9", "entropy_bound=0.1"],
        ),
        ({"preset": "quality", "adablock": 0.3}, ["adablock=0.3", "adablock_token"]),
        ({"adablock_token": 198}, ["adablock_token=198", "expected adablock"]),
        ({"adablock": 0.3, "adablock_token": 198}, ["reference preset", "adablock"]),
        ({"preset": "fast", "adablock": 0.3, "adablock_token": 198, "steps": 8}, ["adablock=0.3", "steps=8"]),
        ({"preset": "fast", "adablock": 0.3, "adablock_token": 198, "regex": "a"}, ["adablock=0.3", "regex='a'"]),
        (
            {"preset": "fast", "adablock": 0.3, "adablock_token": 198, "block_order": "confidence"},
            ["adablock=0.3", "block_order='confidence'"],
        ),
        ({"threshold_alpha": 0.3}, ["threshold_alpha=0.3", "expected threshold"]),
        ({"threshold_alpha": 0.3, "factor": 1.0}, ["threshold_alpha=0.3", "expected threshold"]),
        ({"local_leap_radius": 2, "threshold": 0.9}, ["local_leap_radius=2", "expected local_leap"]),
        ({"local_leap_threshold": 0.5}, ["local_leap_threshold=0.5", "expected local_leap"]),
        ({"local_leap": 0.6, "local_leap_threshold": 0.7}, ["local_leap_threshold=0.7", "at most local_leap=0.6"]),
        ({"gen_length": 16, "block_length": 32, "preset": "fast"}, ["block_length=32", "gen_length=16"]),
        ({"gen_length": 16, "block_length": 5}, ["gen_length=16", "block_length=5"]),
        ({"gen_length": 16, "block_length": 4, "steps": 6}, ["steps=6", "4 blocks"]),
    ],
)
def test_options_that_contradict_each_other(options, words):
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParams(**options)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("typo", "near"), [("gen_lenght", "gen_length"), ("tresholds", "threshold"), ("max_token", "max_tokens")]
)
def test_an_unknown_option_suggests_the_nearest(typo, near):
    with pytest.raises(InvalidRequestError, match=f"did you mean '{near}'"):
        SamplingParams(**{typo: 3})
    with pytest.raises(InvalidRequestError, match="unknown option 'zzz'"):
        SamplingParams(zzz=3)


@pytest.mark.parametrize("name", foreign.PARAMS)
def test_options_of_other_engines_are_explained(name):
    assert name not in SamplingParams().to_dict()
    assert name not in ALIASES
    for make in (SamplingParams, SamplingParams().replace):
        with pytest.raises(InvalidRequestError, match=f"unknown option '{name}'") as caught:
            make(**{name: 1})
        assert caught.value.param == name
        assert caught.value.hint == f"it is {foreign.PARAMS[name]}"


def test_uneven_splits_are_accepted_outside_the_reference():
    params = SamplingParams(preset="quality", gen_length=10, block_length=4, steps=7)
    assert (params.gen_length, params.block_length, params.steps) == (10, 4, 7)
    # LLaDA's loop accepts more steps than tokens.
    assert SamplingParams(gen_length=8, block_length=4, steps=72).steps == 72


@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset):
    params = SamplingParams(preset=preset, temperature=0.3, seed=2**64 - 1, gen_length=48)
    assert SamplingParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    assert pickle.loads(pickle.dumps(params)) == params
    assert copy.deepcopy(params) == params
    assert hash(params) == hash(SamplingParams.from_dict(params.to_dict()))


@pytest.mark.parametrize("bad", [None, [], "gen_length", {3: 4}])
def test_from_dict_refuses_what_is_no_object(bad):
    with pytest.raises(InvalidRequestError):
        SamplingParams.from_dict(bad)


def test_stops_are_tuples_inside_and_lists_in_json():
    params = SamplingParams(stop="END", stop_token_ids=np.array([3, 4]))
    assert (params.stop, params.stop_token_ids) == (("END",), (3, 4))
    assert params == SamplingParams(stop=["END"], stop_token_ids=[3, 4])
    assert SamplingParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    assert hash(params) != hash(SamplingParams())


def test_seeds_of_samples_differ_and_begin_with_the_seed():
    params = SamplingParams(seed=2**64 - 1)
    seeds = [params.seed_of(index) for index in range(1024)]
    assert seeds[0] == 2**64 - 1
    assert len(set(seeds)) == 1024
    assert all(0 <= seed < 2**64 for seed in seeds)
    with pytest.raises(InvalidRequestError, match="seed"):
        SamplingParams().seed_of(0)


def test_frozen_and_replaceable():
    params = SamplingParams(gen_length=64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.gen_length = 3
    assert params.replace(steps=8) == SamplingParams(gen_length=64, steps=8)
    assert dataclasses.replace(params, steps=8) == SamplingParams(gen_length=64, steps=8)
    old = SamplingParams(gen_length=64, block_length=64, cache="none")
    assert old.replace(preset="fast") == SamplingParams(gen_length=64, preset="fast")
    assert old.replace(preset="fast", cache="none").cache == "none"
    assert SamplingParams(threshold=0.5).replace(factor=1.0) == SamplingParams(factor=1.0)
    falling = SamplingParams(threshold=0.5, threshold_alpha=0.3)
    assert falling.replace(frechet=0.2) == SamplingParams(frechet=0.2)
    assert falling.replace(threshold=0.6).threshold_alpha == 0.3
    assert SamplingParams(local_leap=0.9, local_leap_radius=2).replace(preset="fast") == SamplingParams(preset="fast")
    assert SamplingParams(entropy_bound=0.1).replace(threshold=0.9) == SamplingParams(threshold=0.9)
    assert old.replace(max_tokens=128).gen_length == 128


def test_numbers_of_numpy_are_numbers():
    params = SamplingParams(gen_length=np.int64(8), temperature=np.float32(0.5), return_tokens=np.True_)
    assert (params.gen_length, params.temperature, params.return_tokens) == (8, 0.5, True)
    assert [type(v) for v in (params.gen_length, params.temperature, params.return_tokens)] == [int, float, bool]


def test_the_signature_shows_every_option():
    assert list(inspect.signature(SamplingParams).parameters) == list(SamplingParams().to_dict())
