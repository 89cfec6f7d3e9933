"""The ARM twin in torch, transformers and llama.cpp: the tokens of training/arm.py, and what they say of their cost."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.baselines.arm_llama_cpp import LlamaCppArm
from benchmarks.baselines.arm_torch import TorchArm
from benchmarks.baselines.arm_transformers import TransformersArm
from benchmarks.baselines.contract import NotInstalled, Question, cut
from benchmarks.baselines.gguf_file import export_gguf, halves_to_pairs
from tests.data.make_goldens import CHECKPOINT
from training import arm
from training.model import LLaDA, ModelConfig
from training.weights import save_weights

PROMPTS = ((5, 17, 80, 3, 44, 9), (61,), (30, 31, 2, 2, 71, 8, 50, 11, 12, 13, 90), (7, 7, 7, 40))
LIMITS = (24, 24, 9, 24)
SYSTEMS: dict[str, Callable] = {
    "torch": lambda folder, **options: TorchArm(folder, dtype=torch.float32, **options),
    "transformers": lambda folder, **options: TransformersArm(folder, dtype=torch.float32, **options),
    "transformers dynamic": lambda folder, **options: TransformersArm(
        folder, dtype=torch.float32, cache="dynamic", **options
    ),
    "llama.cpp": lambda folder, **options: LlamaCppArm(folder, gguf_type="f32", threads=1, **options),
}


def write_arm(folder: Path, **sizes: object) -> Path:
    """A small ARM with seeded weights, large enough for its tokens not to repeat at once."""
    config = ModelConfig(
        **{
            **dict(d_model=64, n_layers=2, n_heads=4, n_kv_heads=4, mlp_hidden_size=96, vocab_size=96),
            **dict(max_sequence_length=64, mask_token_id=93, eos_token_id=94, pad_token_id=94, causal=True),
            **sizes,
        }
    )
    model = LLaDA(config)
    model.initialize(torch.Generator().manual_seed(3))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            writes = name.endswith(("attn_out.weight", "ff_out.weight")) and ".blocks." in name
            parameter *= (60 if writes else 8) if parameter.dim() == 2 else torch.linspace(0.5, 1.5, len(parameter))
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json("float32"))
    save_weights(model.state_dict(), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_arm(tmp_path_factory.mktemp("arm") / "untied")


@pytest.fixture(scope="module", params=["untied", "tied, grouped"])
def any_folder(request, folder, tmp_path_factory) -> Path:
    if request.param == "untied":
        return folder
    return write_arm(tmp_path_factory.mktemp("arm") / "tied", weight_tying=True, n_kv_heads=2)


def opened(name: str, folder: Path, **options: object):
    try:
        return SYSTEMS[name](folder, **options)
    except NotInstalled as missing:
        pytest.skip(str(missing))


def expected(folder: Path, prompt: tuple[int, ...], limit: int, stop_ids: tuple[int, ...]) -> tuple[int, ...]:
    (tokens,) = arm.generate(LLaDA.from_folder(folder), [prompt], max_new_tokens=limit, stop_ids=stop_ids)
    return cut(tokens, stop_ids)


@pytest.mark.parametrize("name", SYSTEMS)
def test_tokens_are_those_of_each_prompt_alone(name, any_folder):
    whole = [expected(any_folder, prompt, limit, ()) for prompt, limit in zip(PROMPTS, LIMITS, strict=True)]
    assert min(len(set(tokens)) for tokens in whole) > 4  # the model says something
    stop_ids = (whole[0][7], whole[2][-1])  # ends the first in the middle
    questions = [Question(prompt, limit) for prompt, limit in zip(PROMPTS, LIMITS, strict=True)]
    system = opened(name, any_folder)
    assert [answer.tokens for answer in system.answer(questions)] == whole
    assert system.answer(questions[1:2])[0].tokens == whole[1]  # smaller than what it has room for
    assert [answer.tokens for answer in system.answer(questions)] == whole  # nothing is left over
    system.close()
    system = opened(name, any_folder, stop_ids=stop_ids)
    ended = [expected(any_folder, prompt, limit, stop_ids) for prompt, limit in zip(PROMPTS, LIMITS, strict=True)]
    assert [answer.tokens for answer in system.answer(questions)] == ended
    assert len(ended[0]) <= 7
    system.close()


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_question_may_fill_the_context(name, folder):
    """Though the longest prompt and the longest answer would not fit together."""
    questions = [Question(PROMPTS[1] * 60, 4), Question(PROMPTS[0], 58)]
    system = opened(name, folder)
    for answer, question in zip(system.answer(questions), questions, strict=True):
        assert answer.tokens == expected(folder, question.prompt, question.max_new_tokens, ())
    system.close()


@pytest.mark.parametrize("name", SYSTEMS)
def test_what_an_answer_cost(name, folder):
    prompt, tokens = PROMPTS[0], expected(folder, PROMPTS[0], 24, ())
    end = tokens.index(tokens[9])
    system = opened(name, folder, stop_ids=tokens[9:10])
    (answer,) = system.answer([Question(prompt, 24)])
    assert answer.num_tokens == end
    assert answer.num_written == answer.num_forwards == end + 1  # the end token too
    assert answer.num_computed == len(prompt) + end
    assert 0 < answer.first_token_s <= answer.total_s
    system.close()


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "transformers dynamic"])
def test_a_masked_model_and_a_prompt_that_is_too_long_are_refused(name, folder):
    with pytest.raises(ValueError, match="an ARM"):
        opened(name, CHECKPOINT)
    system = opened(name, folder)
    with pytest.raises(ValueError, match="take 65 positions, the context has 64"):
        system.answer([Question(PROMPTS[0], 4), Question((1,) * 60, 5)])
    system.close()


@pytest.mark.parametrize(
    ("open_system", "module", "package"),
    [
        (lambda folder: LlamaCppArm(folder, threads=1), "llama_cpp", "llama-cpp-python"),
        (TransformersArm, "transformers", "transformers"),
        (lambda folder: export_gguf(folder, folder / "x.gguf"), "gguf", "gguf"),
    ],
)
def test_what_is_not_installed_says_how_to_get_it(open_system, module, package, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NotInstalled, match=f"skipped: {package} is not installed; pip install") as caught:
        open_system(folder)
    assert caught.value.package == package


@pytest.mark.parametrize("weight_type", ["bf16", "q8_0", "q4_k_m"])
def test_llama_cpp_answers_with_smaller_weights(folder, weight_type):
    """Rounded weights answer otherwise in places; that they are the same model's shows in most first tokens."""
    system = pytest.importorskip("llama_cpp") and LlamaCppArm(folder, gguf_type=weight_type, threads=1)
    questions = [Question((first, 7, 2 * first), 1) for first in range(1, 41)]
    same = [
        answer.tokens == expected(folder, question.prompt, 1, ())
        for answer, question in zip(system.answer(questions), questions, strict=True)
    ]
    system.close()
    assert sum(same) >= {"bf16": 38, "q8_0": 36, "q4_k_m": 20}[weight_type]
    with pytest.raises(ValueError, match="expected one of f32, f16, bf16, q8_0, q4_k_m, got 'q3'"):
        LlamaCppArm(folder, gguf_type="q3", threads=1)


# ---------------------------------------------------------------- GGUF


def test_halves_to_pairs():
    rows = np.arange(12)[:, None] * [1, 1]  # two heads of 6, the number of its row in each
    assert halves_to_pairs(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize("gguf_type", ["f32", "f16", "bf16", "q8_0"])
def test_the_file_holds_the_weights(folder, tmp_path, gguf_type):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(export_gguf(folder, tmp_path / "model.gguf", gguf_type))
    weights = LLaDA.from_folder(folder).state_dict()
    assert len(reader.tensors) == len(weights)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    assert stored["blk.1.ffn_norm.weight"].tensor_type.name == "F32"
    down = stored["blk.1.ffn_down.weight"]
    assert down.tensor_type.name == gguf_type.upper()
    values = gguf.quants.dequantize(down.data, down.tensor_type)
    exact = weights["transformer.blocks.1.ff_out.weight"].numpy()
    worst = {"f32": 0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 2**-7}[gguf_type]  # half a step, of the largest
    assert np.abs(values - exact).max() <= worst * np.abs(exact).max()
    assert reader.fields["llama.rope.freq_base"].contents() == 10000.0
    assert reader.fields["llama.attention.layer_norm_rms_epsilon"].contents() == pytest.approx(1e-5)


def test_what_can_not_be_exported_is_refused(folder, tmp_path):
    pytest.importorskip("gguf")
    with pytest.raises(ValueError, match="expected one of f32, f16, bf16, q8_0, got 'q5'"):
        export_gguf(folder, tmp_path / "x.gguf", "q5")
    odd = write_arm(tmp_path / "odd", mlp_hidden_size=72)
    with pytest.raises(ValueError, match="multiples of 32, got 64 and 72"):
        export_gguf(odd, tmp_path / "x.gguf", "q8_0")
