"""Parameters are differences from the model's defaults: what was not given gives way, what was given is honoured or
refused by its name.
"""

import copy
import itertools
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llada_rt.errors import InvalidRequestError
from llada_rt.options.precedence import OF_A_RULE, RULES
from llada_rt.params import ALIASES, PRESETS, SamplingParams

LENGTHS = st.one_of(st.integers(1, 40), st.sampled_from([64, 97, 128, 2**31 - 1]))
VALUES = {
    "gen_length": LENGTHS,
    "steps": st.none() | LENGTHS,
    "block_length": st.none() | LENGTHS,
    "adablock": st.sampled_from([None, 0.3]),
    "adablock_token": st.sampled_from([None, 198]),
    "block_order": st.sampled_from(["left_to_right", "confidence", "sliding", "sliding_greedy"]),
    "suffix_window": st.sampled_from([None, 16]),
    "temperature": st.sampled_from([0.0, 1.0]),
    "remasking": st.sampled_from(["low_confidence", "random", "margin", "entropy"]),
    "threshold": st.sampled_from([None, 0.5]),
    "factor": st.sampled_from([None, 1.0]),
    "threshold_alpha": st.sampled_from([0.0, 0.3]),
    "frechet": st.sampled_from([None, 0.25]),
    "local_leap": st.sampled_from([None, 0.5, 0.9]),
    "local_leap_threshold": st.sampled_from([0.75, 0.6]),
    "local_leap_radius": st.sampled_from([4, 2]),
    "entropy_bound": st.sampled_from([None, 0.1]),
    "cache": st.sampled_from(["none", "prefix", "dual", "dual_compact", "vicinity", "interval", "dsb"]),
    "audit": st.integers(0, 2),
    "error_budget": st.sampled_from([None, 0.0, 0.1]),
    "cfg_scale": st.sampled_from([0.0, 1.5]),
    "seed": st.sampled_from([None, 7]),
    "n": st.integers(1, 3),
    "stop": st.sampled_from([(), ("a",)]),
    "stop_token_ids": st.sampled_from([(), (3,)]),
    "include_stop_str_in_output": st.booleans(),
    "max_nfe": st.sampled_from([None, 4]),
    "timeout_s": st.sampled_from([None, 9.0]),
    "logits_eos_inf": st.booleans(),
    "confidence_eos_eot_inf": st.booleans(),
    "eos_early_stop": st.sampled_from([None, True, False]),
    "return_tokens": st.booleans(),
    "logprobs": st.sampled_from([None, 0, 5]),
    "regex": st.sampled_from([None, "a+"]),
    "choice": st.sampled_from([(), ("a", "b")]),
    "split_special_tokens": st.sampled_from([None, True, False]),
    "preset": st.sampled_from(sorted(PRESETS)),
}
SUBSETS = st.sets(st.sampled_from(sorted(VALUES)), max_size=8).flatmap(
    lambda names: st.fixed_dictionaries({name: VALUES[name] for name in sorted(names)})
)
# Those that touch each other, so that most draws are about them.
TOUCHING = (
    "gen_length",
    "steps",
    "block_length",
    "remasking",
    "threshold",
    "factor",
    "threshold_alpha",
    "adablock",
    "adablock_token",
    "frechet",
    "local_leap",
    "local_leap_threshold",
    "local_leap_radius",
    "entropy_bound",
    "preset",
    "suffix_window",
    "block_order",
    "cache",
    "audit",
    "error_budget",
)
DRAWS = SUBSETS | st.sets(st.sampled_from(TOUCHING)).flatmap(
    lambda names: st.fixed_dictionaries({name: VALUES[name] for name in sorted(names)})
)


def model_says(options) -> SamplingParams:
    """As engine.default_params is made."""
    return SamplingParams().over(SamplingParams(**options))


def check_rule(options, make) -> bool:
    """Whether they were honoured; if not, the error names one that was given."""
    try:
        params = make(options)
    except InvalidRequestError as error:
        if error.param not in options:
            raise AssertionError(f"{error.param} was not given, {options} were: {error}") from error
        return False
    for name, value in options.items():
        expected = PRESETS[params.preset]["eos_early_stop"] if name == "eos_early_stop" and value is None else value
        assert getattr(params, name) == expected, (name, value, params)
    SamplingParams.from_dict(params.to_dict())  # the whole is one that could have been given
    assert dict(params.given) == options
    return True


def test_every_option_is_drawn():
    assert set(VALUES) == set(SamplingParams().to_dict())


@settings(max_examples=1500, deadline=None)
@given(model=DRAWS, options=DRAWS)
def test_given_options_are_honoured_or_named(model, options):
    try:
        defaults = model_says(model)
    except InvalidRequestError:
        return
    check_rule(options, lambda options: defaults.replace(**options))
    check_rule(options, lambda options: SamplingParams(**options).over(defaults))


@settings(max_examples=500, deadline=None)
@given(model=DRAWS, options=DRAWS)
def test_one_by_one_is_the_same_as_together(model, options):
    options = {name: value for name, value in options.items() if name not in ("preset", *RULES, *OF_A_RULE)}
    try:
        whole, params = model_says(model).replace(**options), model_says(model)
        for name, value in options.items():
            params = params.replace(**{name: value})
    except InvalidRequestError:
        return
    assert params == whole


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_every_preset_and_length(preset):
    """Each length alone is honoured, over each preset and over a model that speaks of another length."""
    own = {} if preset is None else {"preset": preset}
    shapes = [{}, {"gen_length": 16, "steps": 16, "block_length": 16}, {"gen_length": 64, "steps": 16}]
    shapes += [{"gen_length": 64, "steps": 32, "block_length": 8}, {"gen_length": 32, "block_length": 32}]
    tried = 0
    for shape, (name, value) in itertools.product(shapes, itertools.product(("gen_length", "steps"), range(1, 130))):
        for model, said in ((shape | own, {}), (shape, own)):
            assert check_rule(said | {name: value}, lambda options, m=model: model_says(m).replace(**options))
            tried += 1
    assert tried == 5 * 2 * 129 * 2


BORDERS = {"preset": "quality", "adablock": 0.3, "adablock_token": 198}
DEMO = {"gen_length": 16, "steps": 16, "block_length": 16}


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        (DEMO, {}, DEMO),
        (DEMO, {"gen_length": 4}, {"gen_length": 4, "steps": None, "block_length": None}),
        (DEMO, {"gen_length": 100}, {"gen_length": 100, "steps": None, "block_length": None}),
        (DEMO, {"temperature": 1.0}, DEMO | {"temperature": 1.0}),
        (DEMO, {"block_length": 4}, {"block_length": 4, "steps": 16}),
        (DEMO | {"steps": 2}, {"block_length": 4}, {"block_length": 4, "steps": 4}),
        (DEMO, {"preset": "fast"}, {"gen_length": 16, "block_length": 16, "threshold": 0.9, "cache": "dual"}),
        # Two tokens a step, blocks of eight.
        ({"gen_length": 64, "steps": 32, "block_length": 8}, {"gen_length": 20}, {"steps": 12, "block_length": 5}),
        ({"gen_length": 64, "steps": 32, "block_length": 8}, {"gen_length": 4}, {"steps": 2, "block_length": 4}),
        ({"gen_length": 64, "steps": 32, "block_length": 8}, {"steps": 7}, {"steps": 7, "block_length": 64}),
        ({"gen_length": 64, "steps": 32, "block_length": 8}, {"steps": 4}, {"steps": 4, "block_length": 16}),
        ({"gen_length": 64, "block_length": 8, "preset": "quality"}, {"gen_length": 20}, {"block_length": 8}),
        ({"threshold": 0.9}, {"factor": 1.0}, {"threshold": None, "factor": 1.0}),
        ({"threshold": 0.9, "threshold_alpha": 0.3}, {"factor": 1.0}, {"threshold": None, "threshold_alpha": 0.0}),
        ({"threshold": 0.9, "threshold_alpha": 0.3}, {"threshold": 0.8}, {"threshold": 0.8, "threshold_alpha": 0.3}),
        ({"local_leap": 0.9, "local_leap_threshold": 0.8}, {"local_leap": 0.5}, {"local_leap_threshold": 0.5}),
        ({"entropy_bound": 0.1}, {"threshold": 0.9}, {"entropy_bound": None, "remasking": "low_confidence"}),
        (BORDERS, {"preset": "reference"}, {"adablock": None, "adablock_token": None}),
        (BORDERS, {"preset": "fast"}, {"adablock": 0.3, "adablock_token": 198, "threshold": 0.9}),
        (BORDERS, {"steps": 64}, {"adablock": None, "adablock_token": None, "steps": 64}),
        (BORDERS, {"regex": "a"}, {"adablock": None, "adablock_token": None, "regex": "a"}),
        (DEMO, BORDERS, {"adablock": 0.3, "adablock_token": 198, "steps": None}),
        ({"frechet": 0.2}, {"entropy_bound": 0.1}, {"frechet": None, "remasking": "entropy"}),
        ({"remasking": "margin"}, {"entropy_bound": 0.1}, {"entropy_bound": 0.1, "remasking": "margin"}),
        ({"threshold": 0.9}, {"remasking": "entropy"}, {"threshold": None, "remasking": "entropy"}),
        ({"remasking": "entropy"}, {"threshold": 0.9}, {"threshold": 0.9, "remasking": "low_confidence"}),
        ({"remasking": "entropy"}, {"preset": "fast"}, {"threshold": 0.9, "remasking": "low_confidence"}),
        ({"preset": "fast"}, {"remasking": "entropy"}, {"threshold": None, "cache": "dual"}),
        ({"factor": 1.0}, {"preset": "fast"}, {"threshold": 0.9, "factor": None}),
        ({"threshold": 0.9, "cache": "dual"}, {"preset": "reference"}, {"threshold": None, "cache": "none"}),
        ({"regex": "a"}, {"choice": ("b",)}, {"regex": None, "choice": ("b",)}),
        ({"regex": "a"}, {"block_order": "confidence"}, {"regex": None, "block_order": "confidence"}),
        ({"block_order": "confidence"}, {"regex": "a"}, {"regex": "a", "block_order": "left_to_right"}),
        ({"error_budget": 0.1}, {"audit": 0}, {"error_budget": None, "audit": 0}),
        ({"audit": 0}, {"error_budget": 0.1}, {"error_budget": 0.1, "audit": 1}),
        ({"audit": 4}, {"error_budget": 0.1}, {"error_budget": 0.1, "audit": 4}),
        ({"temperature": 0.7, "stop": ("x",)}, {"stop": ()}, {"temperature": 0.7, "stop": ()}),
    ],
)
def test_what_gives_way_to_what(model, options, expected):
    params = SamplingParams(**options).over(model_says(model))
    assert {name: getattr(params, name) for name in expected} == expected
    assert model_says(model).replace(**options) == params


@pytest.mark.parametrize("alias", [alias for alias, name in ALIASES.items() if name == "gen_length"])
@pytest.mark.parametrize("length", [1, 4, 10, 16, 17, 100])
def test_a_length_by_any_name_needs_nothing_else(alias, length):
    assert model_says(DEMO).replace(**{alias: length}).gen_length == length


def test_what_was_given_once_stays_given():
    params = SamplingParams(gen_length=64, block_length=64).over(model_says(DEMO))
    with pytest.raises(InvalidRequestError, match="block_length=64") as caught:
        params.replace(gen_length=4)
    assert caught.value.param == "block_length"
    assert params.replace(gen_length=4, block_length=None).block_length is None
    assert params.replace(seed=3).given == {"gen_length": 64, "block_length": 64, "seed": 3}


def test_params_over_defaults_keep_to_them():
    params = SamplingParams(temperature=1.0).over(model_says(DEMO))
    assert params.over(model_says({"gen_length": 99})) == params
    assert SamplingParams().over(SamplingParams()).over(model_says(DEMO)) == SamplingParams()
    for other in (pickle.loads(pickle.dumps(params)), copy.deepcopy(params)):
        assert other.replace(gen_length=4) == params.replace(gen_length=4)
    assert params.chosen == DEMO | {"temperature": 1.0}
