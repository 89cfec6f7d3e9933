"""generate and chat: prompt forms, order, independence of neighbours, what the results say."""

import json

import numpy as np
import pytest

from llada_rt import Engine, InvalidRequestError, SamplingParams
from tests.data.make_goldens import CHECKPOINT, IDS

QUICK = SamplingParams(gen_length=16, block_length=8, steps=8)
PROMPTS = [[3], [5, 9, 2, 6, 31, 77], list(range(20, 37)), [1, 2, 3]]
VARIETY = [
    SamplingParams(gen_length=16, block_length=8, steps=8, temperature=0.7, seed=11),
    SamplingParams(gen_length=24, preset="fast", block_length=8, seed=1),
    SamplingParams(gen_length=10, preset="quality", block_length=4, steps=7, cfg_scale=0.8, seed=2),
    SamplingParams(gen_length=12, remasking="random", seed=3, cache="prefix", block_length=6),
    SamplingParams(gen_length=16, remasking="margin", factor=1.0, seed=4, block_length=16, cache="dual"),
    SamplingParams(gen_length=8, remasking="entropy", logits_eos_inf=True, seed=5),
    SamplingParams(gen_length=16, confidence_eos_eot_inf=True, block_length=8, seed=6, eos_early_stop=True),
    SamplingParams(gen_length=24, block_length=12, cache="dual_compact", cfg_scale=0.5, temperature=0.4, seed=7),
    SamplingParams(gen_length=24, block_length=12, cache="dual_compact", threshold=0.4, seed=8),
    SamplingParams(gen_length=60, block_length=12, cache="vicinity", seed=9),
    SamplingParams(gen_length=54, block_length=6, cache="interval", seed=10),
]


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def test_every_form_of_a_prompt_means_the_same(engine: Engine):
    forms = [
        [4, 5, 6],
        (4, 5, 6),
        np.array([4, 5, 6]),
        {"prompt_token_ids": [4, 5, 6]},
        [[4, 5, 6]],
        [np.array([4, 5, 6], dtype=np.uint8)],
        np.array([[4, 5, 6]]),
    ]
    results = [engine.generate(form, QUICK) for form in forms]
    assert all(len(result) == 1 for result in results)
    assert len({tuple(result[0].outputs[0].token_ids) for result in results}) == 1
    assert all(result[0].prompt_token_ids == [4, 5, 6] and result[0].prompt is None for result in results)


def test_text_is_encoded_and_decoded(speaker: Engine):
    (output,) = speaker.generate("abc", QUICK)
    assert output.prompt == "abc"
    assert output.prompt_token_ids == [65, 66, 67]
    assert output.text == speaker.tokenizer.decode(output.outputs[0].token_ids)
    assert speaker.generate({"prompt": "abc"}, QUICK)[0].text == output.text


def test_chat_goes_through_the_template(speaker: Engine):
    messages = [{"role": "user", "content": " hi "}]
    rendered = "<|startoftext|>user: hi\nassistant: "
    assert speaker.apply_chat_template(messages) == speaker.tokenizer.encode(rendered)
    output = speaker.chat(messages, QUICK)
    assert output.prompt_token_ids == speaker.apply_chat_template(messages)
    assert tokens([output]) == tokens(speaker.generate({"messages": messages}, QUICK))


def test_results_come_in_input_order_with_their_own_params(engine: Engine):
    params = [QUICK.replace(gen_length=length, steps=length // 2) for length in (48, 8, 32, 16)]
    outputs = engine.generate(PROMPTS, params)
    assert [output.prompt_token_ids for output in outputs] == PROMPTS
    assert [len(output.outputs[0].token_ids) for output in outputs] == [48, 8, 32, 16]
    assert [output.params.gen_length for output in outputs] == [48, 8, 32, 16]
    assert len({output.request_id for output in outputs}) == 4


@pytest.mark.parametrize("options", [{}, {"max_num_seqs": 2}, {"max_num_batched_tokens": 50}, {"threads": 3}])
def test_a_request_does_not_feel_its_neighbours(options):
    requests = [(prompt, params) for prompt in PROMPTS for params in VARIETY]
    with Engine(CHECKPOINT, **{"compute_type": "float32", "threads": 1, "eot_token_id": IDS.eot} | options) as engine:
        alone = [engine.generate([prompt], params)[0] for prompt, params in requests]
        together = engine.generate(*map(list, zip(*requests, strict=True)))
        assert tokens(together) == tokens(alone)
        for one, other in zip(alone, together, strict=True):
            assert one.outputs[0].diffusion.nfe == other.outputs[0].diffusion.nfe
        assert engine.num_open_slots == 0


def test_the_reference_returns_every_position_and_others_cut_at_the_end(engine: Engine):
    # Some of these write an end token; the checkpoint was made so.
    prompts = [[n, n + 1] for n in range(0, 150, 3)]
    published = engine.generate(prompts, SamplingParams(gen_length=16, block_length=8))
    trimmed = engine.generate(prompts, SamplingParams(gen_length=16, block_length=8, preset="quality"))
    assert all(len(output.outputs[0].token_ids) == 16 for output in published)
    reasons = set()
    for output in trimmed:
        completion = output.outputs[0]
        assert IDS.eos not in completion.token_ids
        assert IDS.eot not in completion.token_ids
        assert completion.finish_reason == ("stop" if len(completion.token_ids) < 16 else "length")
        assert completion.diffusion.emitted_tokens == len(completion.token_ids)
        assert completion.diffusion.padding_tokens == 16 - len(completion.token_ids)
        reasons.add(completion.finish_reason)
    assert reasons == {"stop", "length"}


def test_early_stop_saves_forwards_and_changes_no_text(engine: Engine):
    prompts = [[n, n + 1] for n in range(0, 150, 3)]
    params = SamplingParams(gen_length=24, block_length=4, preset="quality")
    early = engine.generate(prompts, params)
    full = engine.generate(prompts, params.replace(eos_early_stop=False))
    assert tokens(early) == tokens(full)
    saved = 0
    for one, other in zip(early, full, strict=True):
        assert one.outputs[0].diffusion.nfe <= other.outputs[0].diffusion.nfe == 24
        saved += one.outputs[0].diffusion.nfe < 24
    assert saved


def test_token_infos_say_where_when_and_how_sure(engine: Engine):
    params = SamplingParams(gen_length=16, block_length=8, steps=8, preset="quality", return_tokens=True)
    (output,) = engine.generate([[7, 8, 9]], params)
    completion = output.outputs[0]
    assert [info.id for info in completion.tokens] == completion.token_ids
    assert [info.position for info in completion.tokens] == [3 + i for i in range(len(completion.token_ids))]
    for info in completion.tokens:
        assert info.block == (info.position - 3) // 8
        assert 4 * info.block <= info.step < 4 * (info.block + 1)
        assert 0 < info.confidence <= 1
    assert completion.diffusion.min_confidence <= completion.diffusion.mean_confidence
    assert engine.generate([[7, 8, 9]], params.replace(return_tokens=False))[0].outputs[0].tokens is None


@pytest.mark.parametrize(
    ("cache", "refreshes", "rows"),
    [
        ("none", 16, 16 * 19),
        ("prefix", 2, 2 * 19 + 7 * (16 + 8)),
        ("dual", 2, 2 * 19 + 14 * 8),
        ("dual_compact", 2, 2 * 19 + 2 * (8 + 7 + 6 + 5 + 4 + 3 + 2)),
        ("vicinity", 16, 16 * 19),
        ("interval", 1, 19 + 2 * 16 + 13 * 8),
    ],
)
def test_statistics_count_what_was_computed(engine: Engine, cache, refreshes, rows):
    (output,) = engine.generate(
        [[7, 8, 9]], SamplingParams(gen_length=16, block_length=8, preset="quality", cache=cache)
    )
    stats = output.outputs[0].diffusion
    if stats.nfe == 16:  # not ended early
        assert (stats.num_refreshes, stats.num_query_rows, stats.num_blocks) == (refreshes, rows, 2)
    assert stats.tokens_per_forward == 1.0
    assert stats.canvas_tokens == 16


def test_seeds(engine: Engine):
    hot = SamplingParams(gen_length=32, temperature=1.5)
    prompts = [[3, 4]] * 4
    first, second = (engine.generate(prompts, hot.replace(seed=5)) for _ in range(2))
    assert tokens(first) == tokens(second)
    assert len({tuple(t) for t in tokens(first)}) == 1
    assert tokens(first) != tokens(engine.generate(prompts, hot.replace(seed=6)))
    drawn = engine.generate(prompts, hot)
    assert len({tuple(t) for t in tokens(drawn)}) > 1
    assert len({output.params.seed for output in drawn}) == 4
    again = engine.generate(prompts, [output.params for output in drawn])
    assert tokens(again) == tokens(drawn)
    for seed in (0, 2**63 - 1, 2**64 - 1):
        engine.generate([[3, 4]], hot.replace(seed=seed))


def test_guidance_changes_the_text_and_not_the_number_of_forwards(engine: Engine):
    plain, guided = (engine.generate([[3, 4, 5]], QUICK.replace(cfg_scale=scale))[0] for scale in (0.0, 2.0))
    assert tokens([plain]) != tokens([guided])
    assert plain.outputs[0].diffusion.nfe == guided.outputs[0].diffusion.nfe


def test_logits_eos_inf_never_writes_the_end(engine: Engine):
    prompts = [[n, n + 1] for n in range(0, 150, 3)]
    outputs = engine.generate(prompts, SamplingParams(gen_length=16, logits_eos_inf=True))
    assert all(IDS.eos not in t for t in tokens(outputs))


@pytest.mark.parametrize("options", [{}, {"threshold": 0.9}, {"factor": 1.0}, {"temperature": 1.0}])
def test_no_mask_is_left_outside_the_reference(engine: Engine, options):
    prompts = [[n, n + 1] for n in range(0, 150, 3)]
    params = SamplingParams(gen_length=20, block_length=8, preset="quality", eos_early_stop=False, **options)
    for output in engine.generate(prompts, params):
        assert IDS.mask not in output.outputs[0].token_ids
        assert output.outputs[0].diffusion.nfe <= 20


@pytest.mark.parametrize("options", [{}, {"threshold": 0.9}, {"factor": 1.0}])
def test_a_mask_that_wins_never_makes_the_reference_endless(engine: Engine, options):
    prompts = [[n, n + 1] for n in range(0, 150, 3)]
    outputs = engine.generate(prompts, SamplingParams(gen_length=16, block_length=8, steps=16, **options))
    assert all(output.outputs[0].diffusion.nfe <= 16 for output in outputs)


def test_more_steps_than_tokens_cost_nothing_more(engine: Engine):
    outputs = engine.generate([[5, 6]], SamplingParams(gen_length=8, steps=72))
    assert outputs[0].outputs[0].diffusion.nfe <= 8


def test_a_result_is_plain_json(speaker: Engine):
    (output,) = speaker.generate("abc", QUICK.replace(return_tokens=True))
    value = json.loads(json.dumps(output.to_dict()))
    assert value["outputs"][0]["token_ids"] == output.outputs[0].token_ids
    assert len(value["outputs"][0]["tokens"]) == 16
    assert SamplingParams.from_dict(value["params"]) == output.params


def test_wrong_number_of_params(engine: Engine):
    with pytest.raises(InvalidRequestError, match="one for each of 2 prompts, got 3"):
        engine.generate([[1], [2]], [QUICK] * 3)


def test_forward(engine: Engine):
    logits = engine.forward([1, 2, 3])
    assert logits.shape == (3, 160)
    assert logits.dtype == np.float32
    assert np.array_equal(logits, engine.forward(np.array([1, 2, 3])))
    # A committed token at temperature 0 is the argmax of its position.
    (output,) = engine.generate([[1, 2]], SamplingParams(gen_length=1))
    (token,) = output.outputs[0].token_ids
    assert token == engine.forward([1, 2, IDS.mask])[2].argmax()
