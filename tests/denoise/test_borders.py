"""Blocks that end at a delimiter: what the Engine makes of them beside caches, audits, streams and refusals."""

import pytest

from llada_rt import Engine, SamplingParams
from llada_rt.errors import InvalidRequestError
from llada_rt.folder.model_files import SpecialIds
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from llada_rt.planning.plan import Span
from llada_rt.planning.visibility import Visibility
from llada_rt.text.requests import Request
from llada_rt.text.sequences import make_sequence
from tests.data.make_goldens import CHECKPOINT, IDS

PROMPT = [7, 99, 23, 14, 15]
OPTIONS = {"gen_length": 64, "block_length": 8, "eos_early_stop": False, "return_tokens": True, "logits_eos_inf": True}
PARAMS = SamplingParams(preset="quality", adablock=0.01, adablock_token=100, **OPTIONS)


@pytest.fixture(scope="module")
def engine():
    with Engine(CHECKPOINT, compute_type="float32", threads=2, eot_token_id=IDS.eot) as engine:
        yield engine


def answer(engine: Engine, params: SamplingParams):
    (output,) = engine.generate({"prompt_token_ids": PROMPT}, params)
    return output.outputs[0]


def blocks_of(completion) -> list[Span]:
    """The blocks in order, which lie one after the other."""
    own = {}
    for token in completion.tokens:
        own.setdefault(token.block, []).append(token.position)
    spans = [Span(min(positions), max(positions) + 1) for positions in own.values()]
    assert [len(span) for span in spans] == [len(positions) for positions in own.values()]
    assert [span.stop for span in spans[:-1]] == [span.start for span in spans[1:]]
    return spans


def test_a_block_ends_after_a_delimiter_or_is_as_long_as_was_said(engine):
    """Within a quarter of the response, 16 positions."""
    spans = [span for token in (100, 41) for span in blocks_of(answer(engine, PARAMS.replace(adablock_token=token)))]
    lengths = {len(span) for span in spans}
    assert lengths > {1, 6, 8, 16}
    assert max(lengths) == 16
    plain = blocks_of(answer(engine, PARAMS.replace(adablock=None, adablock_token=None)))
    assert [len(span) for span in plain] == [8] * 8


def test_a_delimiter_that_never_comes_changes_nothing(engine):
    plain = answer(engine, PARAMS.replace(adablock=None, adablock_token=None))
    for never in ({"adablock": 1.0}, {"adablock_token": 10**6}):
        same = answer(engine, PARAMS.replace(**never))
        assert same.tokens == plain.tokens
        assert same.diffusion.nfe == plain.diffusion.nfe


@pytest.mark.parametrize("cache", [name for name in sorted(FIXED_BLOCK_CACHES) if name != "none"])
@pytest.mark.parametrize("rule", [{}, {"frechet": 0.0}], ids=str)
def test_an_audit_changes_nothing(engine, cache, rule):
    params = PARAMS.replace(cache=cache, **rule)
    plain, audited = answer(engine, params), answer(engine, params.replace(audit=1))
    assert audited.tokens == plain.tokens
    assert audited.audit.num_steps == audited.diffusion.nfe - audited.diffusion.num_refreshes


def test_a_stream_tells_the_same(engine):
    *_, last = engine.stream({"prompt_token_ids": PROMPT}, PARAMS)
    assert last.output.outputs[0].tokens == answer(engine, PARAMS).tokens


def test_a_rule_of_a_hole_is_a_block_of_its_own(engine):
    with pytest.raises(InvalidRequestError, match="adablock") as caught:
        engine.infill([PROMPT, {"hole": 3, "regex": "a+"}], PARAMS)
    assert caught.value.param == "adablock"


def test_block_causal_attention_has_its_own_blocks():
    request = Request("a", None, tuple(PROMPT), None, (), (), IDS.mask, frozenset())
    special = SpecialIds(mask=IDS.mask, eos=IDS.eos, eot=IDS.eot)
    with pytest.raises(InvalidRequestError, match="full attention") as caught:
        make_sequence(request, PARAMS, special, seed=0, visibility=Visibility(8))
    assert caught.value.param == "adablock"
