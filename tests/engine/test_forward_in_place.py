"""Logits and hidden states by DLPack: the numbers of `forward`, no copy, alive as long as somebody has them."""

import gc

import numpy as np
import pytest
import torch

from llada_rt import Engine
from llada_rt.errors import ConfigError, InvalidRequestError
from tests.data.make_goldens import CHECKPOINT

TOKENS = [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8"])
def test_logits_are_those_of_forward(compute_type):
    with Engine(CHECKPOINT, device="cpu", compute_type=compute_type) as engine:
        want = engine.forward(TOKENS)
        array = engine.forward_in_place(TOKENS)
        assert array.shape == want.shape
        assert np.array_equal(torch.from_dlpack(array).numpy(), want)
        assert np.array_equal(np.from_dlpack(array), want)


@pytest.mark.parametrize(("compute_type", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_head_on_hidden_states_gives_the_logits(compute_type, dtype):
    with Engine(CHECKPOINT, device="cpu", compute_type=compute_type) as engine:
        hidden = torch.from_dlpack(engine.forward_in_place(TOKENS, what="hidden"))
        want = torch.from_numpy(engine.forward(TOKENS))
    assert hidden.dtype == dtype
    from safetensors.torch import load_file

    head = load_file(CHECKPOINT / "model.safetensors")["model.transformer.ff_out.weight"].to(dtype).float()
    assert torch.allclose(hidden.float() @ head.T, want, atol=1e-4)


def test_the_memory_outlives_the_engine():
    engine = Engine(CHECKPOINT, device="cpu", compute_type="float32")
    want = engine.forward(TOKENS)
    kept = torch.from_dlpack(engine.forward_in_place(TOKENS))
    never_taken = engine.forward_in_place(TOKENS).__dlpack__(max_version=(1, 0))
    engine.close()
    del engine, never_taken
    gc.collect()
    assert np.array_equal(kept.numpy(), want)


def test_what_is_refused():
    with Engine(CHECKPOINT, device="cpu", compute_type="int8") as engine:
        with pytest.raises(ConfigError, match="leaves them floats, got int8"):
            engine.forward_in_place(TOKENS, what="hidden")
        with pytest.raises(InvalidRequestError, match="logits or hidden"):
            engine.forward_in_place(TOKENS, what="attention")
        with pytest.raises(InvalidRequestError, match="at least one token"):
            engine.forward_in_place([])
        with pytest.raises(InvalidRequestError, match="copy=False"):
            engine.forward_in_place(TOKENS).__dlpack__(copy=True)
        assert engine.num_open_slots == 0
