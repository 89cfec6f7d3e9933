"""The demo model in int8 and int4 beside float32: how often the best token agrees, and how many answers stay right."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from llada_rt import Engine, SamplingParams
from llada_rt.config import DEMO_DIR
from training.tasks.verse import Item, VerseBook, hole_items, line_items

MAX_CHARS = 64  # the poems that the demo was trained on
GEN_LENGTH = 28
NUM_LINES, NUM_POEMS = 120, 30
TOP_1 = {"int8": 0.99, "int8_bfloat16": 0.99, "int4": 0.95}  # of float32
ACCURACY_LOSS = {"int8": 0.01, "int8_bfloat16": 0.01, "int4": 0.03}

pytestmark = pytest.mark.skipif(
    not (DEMO_DIR / "model.safetensors").is_file(), reason="the demo model is not in the package"
)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """Lines after and before a given one, and poems with holes, spread over the book."""
    book = VerseBook.select(max_chars=MAX_CHARS)
    tokenizer = Tokenizer.from_file(str(DEMO_DIR / "tokenizer.json"))
    lines = [
        item
        for task in ("next_line", "previous_line")
        for item in line_items(book, tokenizer, task, gen_length=GEN_LENGTH)
    ]
    poems = hole_items(book, tokenizer)
    chosen = [(lines, NUM_LINES), (poems, NUM_POEMS)]
    return [all_[i] for all_, count in chosen for i in np.linspace(0, len(all_) - 1, count).astype(int)]


def best_tokens(engine: Engine, items: list[Item]) -> np.ndarray:
    """The best token of each masked position of each canvas, as it stands."""
    masked = [np.array(item.canvas) == engine.mask_token_id for item in items]
    return np.concatenate([engine.forward(i.canvas).argmax(-1)[at] for i, at in zip(items, masked, strict=True)])


def answers(engine: Engine, items: list[Item]) -> list[list[int]]:
    mask = engine.mask_token_id
    requests = [{"segments": [1 if token == mask else [token] for token in item.canvas]} for item in items]
    params = [SamplingParams(preset="reference", steps=item.canvas.count(mask)) for item in items]
    return [output.outputs[0].token_ids for output in engine.generate(requests, params)]


@pytest.fixture(scope="module")
def exact(items):
    """Best tokens and answers in float32."""
    with Engine(compute_type="float32", max_num_seqs=16) as engine:
        return best_tokens(engine, items), answers(engine, items)


# int8_bfloat16 has the weights of int8 and more exact rows; tests/model/test_quantized_models.py has its bits.
@pytest.mark.parametrize("compute_type", ["int8", pytest.param("int8_bfloat16", marks=pytest.mark.slow), "int4"])
def test_quantised_demo(items, exact, compute_type):
    best, want = exact
    with Engine(compute_type=compute_type, max_num_seqs=16) as engine:
        agreement = (best_tokens(engine, items) == best).mean()
        same = np.mean([got == right for got, right in zip(answers(engine, items), want, strict=True)])
    assert agreement >= TOP_1[compute_type], agreement
    assert same >= 1 - ACCURACY_LOSS[compute_type], same
