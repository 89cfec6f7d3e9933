"""What a service asks of an engine beside answers: texts as ids and back, whether steps are made, who ended how."""

import asyncio
import threading
import time

import pytest

from llada_rt import (
    AsyncEngine,
    ContextLengthError,
    InvalidRequestError,
    QueueFullError,
    SamplingParams,
    TokenizerError,
)
from tests.data.make_goldens import IDS
from tests.engine.conftest import held
from tests.engine.models import BOS

MESSAGES = [{"role": "user", "content": "明月 <|eot_id|>"}]


def test_encode_reads_a_prompt_as_generate_does(speaker):
    params = SamplingParams(gen_length=2, steps=1)
    for prompt in ("明月", [5, 6, 7], {"messages": MESSAGES}, {"prompt": "a<|eot_id|>"}):
        assert speaker.encode(prompt) == speaker.generate(prompt, params)[0].prompt_token_ids
    assert IDS.eot in speaker.encode("a<|eot_id|>")
    assert IDS.eot not in speaker.encode("a<|eot_id|>", split_special_tokens=True)
    assert IDS.eot in speaker.encode({"messages": MESSAGES}, split_special_tokens=False)
    assert speaker.encode("明月", add_beginning=False) == speaker.tokenizer.encode("明月")


def test_render_chat_and_decode_are_the_two_halves_of_apply_chat_template(speaker):
    text = speaker.render_chat(MESSAGES)
    assert type(text) is str
    assert text == "<|startoftext|>user: 明月 <|eot_id|>\nassistant: "
    ids = speaker.apply_chat_template(MESSAGES)
    assert ids[0] == BOS
    assert speaker.decode(ids, skip_special_tokens=False) == text
    assert speaker.decode(ids) == text.removeprefix("<|startoftext|>")


def test_what_cannot_be_read_or_shown(speaker, engine):
    with pytest.raises(ContextLengthError):
        speaker.encode("a" * 129)
    with pytest.raises(ContextLengthError):
        speaker.render_chat([{"role": "user", "content": "a" * 10_000}])
    with pytest.raises(InvalidRequestError, match="from 0 to 159"):
        speaker.decode([160])
    with pytest.raises(TokenizerError):
        engine.decode([1])


@pytest.mark.parametrize("mode", ["append", "denoise"])
def test_the_last_event_of_a_sample_has_its_completion(speaker, mode):
    params = SamplingParams(gen_length=8, steps=8, block_length=4, n=3, seed=3, temperature=1.0)
    last = [event for event in speaker.stream("明月", params, mode=mode) if event.finished]
    (output,) = speaker.generate("明月", params)
    assert sorted(event.index for event in last) == [0, 1, 2]
    assert sorted((event.completion for event in last), key=lambda each: each.index) == output.outputs
    assert all(event.completion is None for event in speaker.stream("明月", params, mode=mode) if not event.finished)


def test_since_step_tells_an_engine_that_makes_none(speaker):
    assert speaker.stats().since_step_s is None
    with held(speaker) as release:
        asking = threading.Thread(target=speaker.generate, args=("明月", SamplingParams(gen_length=4, steps=4)))
        asking.start()
        until = time.monotonic() + 10
        while (since := speaker.stats().since_step_s) is None or since < 0.2:
            assert time.monotonic() < until
            time.sleep(0.01)
        release()
    asking.join()
    assert speaker.stats().since_step_s is None


def test_a_full_queue_is_told_before_a_request_is_read(text_folder, monkeypatch):
    params = SamplingParams(gen_length=4, steps=4)

    async def work():
        async with AsyncEngine(text_folder, threads=1, max_num_seqs=1, max_num_queued_reqs=1) as engine:
            with held(engine.engine):
                first = asyncio.create_task(engine.chat(MESSAGES, params))
                while engine.engine.num_running == 0:
                    await asyncio.sleep(0.001)
                second = asyncio.create_task(engine.chat(MESSAGES, params))
                while engine.engine.num_waiting == 0:
                    await asyncio.sleep(0.001)
                monkeypatch.setattr(engine.engine._reader, "read", None)  # nobody comes so far
                for call in (engine.chat(MESSAGES, params), engine.generate("a"), engine.score("a", "b")):
                    with pytest.raises(QueueFullError):
                        await call
            await asyncio.gather(first, second)

    asyncio.run(asyncio.wait_for(work(), 60))
