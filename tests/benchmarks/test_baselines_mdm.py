"""The published loops as compared systems: the tokens of the float64 twins, and what they say of their cost."""

from functools import cache as remember

import pytest
import torch

from benchmarks.baselines.contract import Question
from benchmarks.baselines.mdm_torch import TorchMdm
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.reference.denoise import Params, Run, generate
from tests.reference.forward import Model

PROMPTS = ((7, 99, 23, 4, 81, 12, 140), (3, 17, 120, 5, 66), (9, 9, 31, 42, 8, 77, 52))
BLOCK_LENGTH, GEN_LENGTH = 8, 20  # the last block is shorter
RULES = ({"tokens_per_step": 1}, {"tokens_per_step": 3}, {"threshold": 0.5}, {"factor": 1.95})


def open_loop(**options) -> TorchMdm:
    return TorchMdm(CHECKPOINT, block_length=BLOCK_LENGTH, dtype=torch.float32, **options)


@remember
def network() -> Model:
    return Model(CHECKPOINT)


@remember
def published(prompt: tuple[int, ...], gen_length: int, cache: str, rule: tuple) -> Run:
    rule = dict(rule)
    if "tokens_per_step" in rule:
        steps, options = gen_length // BLOCK_LENGTH * -(-BLOCK_LENGTH // rule["tokens_per_step"]), {}
    else:
        steps, options = gen_length, rule
    params = Params(steps=steps, gen_length=gen_length, block_length=BLOCK_LENGTH, cache=cache, **options)
    return generate(network(), prompt, params, IDS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, *rule.items())))
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_tokens_and_forwards_are_the_published_ones(cache, rule):
    gen_length = 2 * BLOCK_LENGTH
    expected = published(PROMPTS[0], gen_length, cache, tuple(rule.items()))
    for lean in (False, True) if cache != "none" else (False,):
        (answer,) = open_loop(cache=cache, lean=lean, **rule).answer([Question(PROMPTS[0], gen_length)])
        assert list(answer.tokens) == expected.canvas[len(PROMPTS[0]) :].tolist()
        assert answer.num_forwards == expected.num_forward
        assert answer.num_computed == sum(expected.query_lengths)
        assert answer.num_written == gen_length
        assert 0 < answer.first_token_s <= answer.total_s


def test_rules_commit_several_at_once():
    """Otherwise the cases above would not tell threshold and factor from one token a step."""
    for rule in RULES[2:]:
        num_forwards = published(PROMPTS[0], 2 * BLOCK_LENGTH, "none", tuple(rule.items())).num_forward
        assert 2 < num_forwards < 2 * BLOCK_LENGTH


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, *rule.items())))
def test_answers_in_a_ragged_batch_are_those_alone(rule):
    system = open_loop(cache="dual", **rule)
    questions = [Question(prompt, GEN_LENGTH) for prompt in PROMPTS]
    alone = [system.answer([question])[0].tokens for question in questions]
    assert [answer.tokens for answer in system.answer(questions)] == alone
    assert all(len(tokens) == GEN_LENGTH for tokens in alone)


def test_an_answer_is_cut_before_its_end_token():
    question = Question(PROMPTS[0], GEN_LENGTH)
    (whole,) = open_loop(tokens_per_step=1).answer([question])
    (short,) = open_loop(tokens_per_step=1, stop_ids=whole.tokens[5:6]).answer([question])
    assert short.tokens == whole.tokens[: whole.tokens.index(whole.tokens[5])]
    assert short.num_written == GEN_LENGTH


def test_a_loop_that_proposes_nothing_but_masks_is_stopped():
    system = open_loop(cache="dual", threshold=0.5)
    head = system.model.transformer["wte" if system.model.config.weight_tying else "ff_out"].weight
    with torch.no_grad():
        head.zero_()  # all tokens alike likely: the first wins
    object.__setattr__(system.model.config, "mask_token_id", 0)
    with pytest.raises(RuntimeError, match="would not end"):
        system.answer([Question(PROMPTS[0], BLOCK_LENGTH)])


@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": 0.9, "factor": 1.0}, {"threshold": 0.9, "cache": "sparse"}, {"threshold": 0.9, "lean": True}],
    ids=["no rule", "two rules", "unknown cache", "lean without cache"],
)
def test_unclear_options_are_refused(options):
    with pytest.raises(ValueError, match="expected one of"):
        open_loop(**options)
