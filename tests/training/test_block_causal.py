"""The training pass over [x_t ; x_0] against each block run by itself, and what the attention promises a KV cache."""

import pytest
import torch

from tests.tolerance import FORWARD_FLOOR
from tests.training.conftest import small_model
from training.block_causal import block_causal_logits, block_noise, block_times, training_visible
from training.losses import token_losses
from training.masking import forward_process, forward_process_counted
from training.sampling import generate, generate_block_causal

MASK = 2
PROCESSES = [forward_process, forward_process_counted]


def noised_text(process, length=11, block_length=4, batch=3, prompt=2):
    """(clean tokens, maskable, noised): lengths that do not divide, a prompt that stays."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 60, (batch, length), generator=generator)
    maskable = (torch.arange(length) >= prompt).expand(batch, length)
    t, draws = torch.rand(batch, generator=generator), torch.rand(batch, length, generator=generator)
    noised = block_noise(process, tokens, t, draws, mask_id=MASK, maskable=maskable, block_length=block_length)
    return tokens, maskable, noised


def assert_close(got, want):
    torch.testing.assert_close(got, want, rtol=0, atol=FORWARD_FLOOR["float32"] * want.abs().max().item())


@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 1, "weight_tying": True}])
@pytest.mark.parametrize("process", PROCESSES)
def test_one_pass_equals_a_pass_for_each_block_after_its_clean_prefix(process, options):
    block_length = 4
    model = small_model(attention_block_length=block_length, **options)
    tokens, _, noised = noised_text(process, block_length=block_length)
    one_pass = block_causal_logits(model, noised, tokens, block_length)
    alone = torch.zeros(*tokens.shape, model.config.vocab_size)
    for start in range(0, tokens.shape[1], block_length):
        stop = min(start + block_length, tokens.shape[1])
        canvas = torch.cat([tokens[:, :start], noised.tokens[:, start:stop]], dim=1)
        alone[:, start:stop] = model(canvas)[:, start:]
    assert noised.masked.any()
    assert_close(one_pass, alone[noised.masked])


def test_the_visible_matrix_is_the_papers():
    """Two blocks of two: [x_t ; x_0] against itself, written out."""
    expected = [
        "11000000",
        "11000000",
        "00111100",
        "00111100",
        "00001100",
        "00001100",
        "00001111",
        "00001111",
    ]
    visible = training_visible(4, 2)
    assert ["".join(str(int(seen)) for seen in row) for row in visible] == expected


def test_one_block_of_the_whole_length_is_the_plain_pass():
    model = small_model()
    tokens, _, noised = noised_text(forward_process, block_length=16)
    assert_close(block_causal_logits(model, noised, tokens, 16), model(noised.tokens, noised.masked))


def test_blocks_of_one_are_an_autoregressive_likelihood():
    """Every token is hidden on its own, given all before: the loss is exact and draws do not matter."""
    model = small_model(attention_block_length=1)
    losses = []
    for seed in range(2):
        tokens, _, _ = noised_text(forward_process)
        t, draws = torch.rand(3, generator=torch.Generator().manual_seed(seed)), torch.rand(tokens.shape)
        noised = block_noise(
            forward_process_counted, tokens, t, draws, mask_id=MASK, maskable=tokens > 0, block_length=1
        )
        assert noised.masked.all()
        losses.append(token_losses(block_causal_logits(model, noised, tokens, 1), tokens, noised))
    assert torch.equal(*losses)


@pytest.mark.parametrize("process", PROCESSES)
def test_noise_keeps_the_prompt_and_is_unbiased_in_every_block(process):
    tokens, _, noised = noised_text(process, batch=3000)
    assert not noised.masked[:, :2].any()
    assert (noised.tokens == torch.where(noised.masked, MASK, tokens)).all()
    weights = (noised.weight * noised.masked).mean(0)[2:]
    # Standard error of such a mean: 0.02 for counted blocks of four, 0.045 for single tokens (E[1/p] is about 7).
    bound = 0.08 if process is forward_process_counted else 0.2
    assert weights.tolist() == pytest.approx([1] * 9, abs=bound)


def test_times_are_uniform_and_even_over_a_rows_blocks():
    times = block_times(torch.rand(2000, generator=torch.Generator().manual_seed(0)), 8)
    assert ((times >= 0) & (times < 1)).all()
    for block in times.T:
        assert torch.histc(block, bins=4, min=0, max=1).tolist() == pytest.approx([500] * 4, abs=80)
    gaps = times.sort(1).values.diff(dim=1)
    assert gaps.max() < 0.3  # eight independent draws leave wider gaps in most rows
    assert block_times(torch.tensor([1 - 2.0**-24]), 3).max() < 1


def test_finished_blocks_do_not_feel_later_ones():
    """What makes kept keys and values exact: the prefix of a longer row has the same logits."""
    model, tokens = small_model(attention_block_length=4), torch.arange(3, 15)[None]
    changed = tokens.clone()
    changed[0, 8:] = MASK
    differs = (model(tokens) != model(changed)).any(-1)[0]
    assert differs.tolist() == [False] * 8 + [True] * 4
    assert_close(model(tokens[:, :8]), model(tokens)[:, :8])


def test_sampling_lays_blocks_from_position_zero_and_runs_nothing_behind_them():
    model = small_model(attention_block_length=4)
    with torch.no_grad():  # a hole must not be answered with the mask itself
        model.transformer["ff_out"].weight[MASK] = 0
        model.transformer["ff_out"].weight[7] = 5
    prompts = [[5, 6, 7], [8, 9, 10, 11, 12], [13]]
    together = generate_block_causal(model, prompts, gen_length=8, steps=4)
    for prompt, canvas in zip(prompts, together, strict=True):
        assert canvas[: len(prompt)] == prompt
        assert MASK not in canvas
        assert generate_block_causal(model, [prompt], gen_length=8, steps=4) == [canvas]
    # Aligned prompt, blocks of the model's length: the loop over the whole canvas commits the same tokens.
    aligned = [[5, 6, 7, 8]]
    assert generate_block_causal(model, aligned, gen_length=8, steps=4) == generate(
        model, aligned, gen_length=8, block_length=4, steps=8
    )


def test_a_model_with_full_attention_is_not_sampled_so():
    with pytest.raises(ValueError, match="not block-causal"):
        generate_block_causal(small_model(), [[5]], gen_length=4, steps=4)


@pytest.mark.parametrize("options", [{"attention_block_length": 0}, {"attention_block_length": 4, "causal": True}])
def test_a_block_length_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="attention_block_length"):
        small_model(**options)
