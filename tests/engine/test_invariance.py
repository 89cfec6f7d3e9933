"""A request's tokens, confidences and forwards are those of the same request alone, bit for bit, in any company."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llada_rt import Engine, SamplingParams
from llada_rt.planning.caches import FIXED_BLOCK_CACHES
from tests.data.make_goldens import CHECKPOINT, IDS
from tests.engine.conftest import check_idle


def some_params(choice):
    """Any settings that go together."""
    length = choice.choice([1, 3, 8, 16, 24, 40])
    options = {
        "preset": choice.choice(["quality", "balanced", "fast"]),
        "gen_length": length,
        "block_length": choice.randint(1, length),
        "cache": choice.choice(sorted(FIXED_BLOCK_CACHES)),
        "temperature": choice.choice([0.0, 0.0, 0.8]),
        "cfg_scale": choice.choice([0.0, 0.0, 0.7]),
        "seed": choice.randrange(2**64),
        "n": choice.choice([1, 1, 1, 3]),
        "remasking": choice.choice(["low_confidence", "random", "margin"]),
        "eos_early_stop": choice.random() < 0.5,
        "max_nfe": choice.choice([None, None, None, choice.randint(1, 12)]),
        "stop_token_ids": choice.choice([[], [], choice.sample(range(150), 40)]),
    }
    if choice.random() < 0.5:
        options |= {"threshold": None, "steps": choice.choice([None, choice.randint(1, 30)])}
    return SamplingParams(**options, return_tokens=True, logprobs=choice.choice([0, 0, 3, 20]))


def some_request(choice):
    if choice.random() < 0.15:
        answer = choice.choices(range(150), k=choice.randint(1, 9))
        options = {
            "mc_num": choice.choice([1, 5, 17]),
            "seed": choice.randrange(99),
            "cfg_scale": choice.choice([0, 0.5]),
        }
        return "score", (choice.choices(range(150), k=choice.randint(0, 20)), answer), options
    prompt = choice.choices(range(150), k=choice.choice([1, 2, 7, 30, 60]))
    if choice.random() < 0.15:
        prompt = {"segments": [prompt[:9], choice.randint(1, 5), [3, 1], choice.randint(1, 5)]}
        return "generate", (prompt, some_params(choice).replace(stop_token_ids=[])), {}
    return choice.choice(["generate", "stream"]), (prompt, some_params(choice)), {}


def answer_of(engine, request):
    """What must not depend on the company."""
    verb, arguments, options = request
    if verb == "score":
        return engine.score(*arguments, **options)
    if verb == "stream":
        output = list(engine.stream(*arguments, mode="append"))[-1].output
    else:
        (output,) = engine.generate(*arguments)
    return output.outputs  # tokens with confidences and alternatives, reasons, statistics


def check_mix(engine, choice):
    requests = [some_request(choice) for _ in range(choice.randint(2, 9))]
    alone = [answer_of(engine, request) for request in requests]
    order = list(range(len(requests)))
    choice.shuffle(order)
    barrier = threading.Barrier(len(order))

    def ask(index):
        barrier.wait()
        return index, answer_of(engine, requests[index])

    with ThreadPoolExecutor(len(order)) as pool:
        for index, answer in pool.map(ask, order):
            assert answer == alone[index], requests[index]
    check_idle(engine)


def check_mixes(seed, number):
    choice = random.Random(seed)
    options = {
        "threads": 1 + seed % 3,
        "max_num_seqs": choice.choice([1, 2, 5, 8]),
        "max_num_batched_tokens": choice.choice([1, 40, 130, 4096]),
    }
    with Engine(CHECKPOINT, compute_type="float32", eot_token_id=IDS.eot, **options) as engine:
        for _ in range(number):
            check_mix(engine, choice)


@pytest.mark.parametrize("seed", range(8))
def test_forty_random_mixes(seed):
    check_mixes(seed, 5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 125))
def test_five_hundred_random_mixes(seed):
    check_mixes(seed, 20)
