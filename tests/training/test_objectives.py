"""Objectives: LLaDA's published losses out of sums and counts, and the ARM's targets."""

import json

import pytest
import torch

from tests.golden import folder_params
from tests.training.conftest import small_model
from tests.training.ranks import UnevenBatches
from training.config import TrainConfig
from training.data import Batch
from training.masking import forward_process_counted, mask_probability
from training.model import LLaDA
from training.objectives import BlockCausalObjective, MaskedObjective, NextTokenObjective, choose_objective
from training.trainer import Trainer

EOS = 1


def recorded_batch(case: dict, noisy: str, mask_id: int) -> Batch:
    """The recorded rows, with draws that hide the positions which were hidden, and no other."""
    tokens = torch.tensor(case["input_ids"])
    hidden = torch.tensor(case[noisy]) == mask_id
    draws = torch.where(hidden, 0.0, 1 - 2**-24)
    places = torch.arange(tokens.shape[1])
    maskable = torch.ones_like(hidden)
    if noisy == "noisy_sft":
        maskable = places >= torch.tensor(case["prompt_lengths"])[:, None]
    return Batch(tokens, maskable, draws, torch.tensor(case["t"]), torch.arange(len(tokens)))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("folder", folder_params())
def test_sums_over_counts_are_the_recorded_losses(folder, parts):
    model = LLaDA.from_folder(folder).double()
    for case in json.loads((folder / "losses.json").read_text()):
        for noisy, name, normalisation in (
            ("noisy_pretrain", "pretrain_loss", "tokens"),
            ("noisy_sft", "sft_loss", "answers"),
        ):
            objective = MaskedObjective(model.config.mask_token_id, normalisation)
            batch = recorded_batch(case, noisy, model.config.mask_token_id)
            assert objective.noise(batch).tokens.tolist() == case[noisy]
            torch.testing.assert_close(mask_probability(batch.times), torch.tensor(case["p_mask"]))
            cuts = zip(*(field.chunk(parts) for field in batch), strict=True)
            with torch.no_grad():
                pairs = [(objective.loss_sum(model, Batch(*cut)), objective.count(Batch(*cut))) for cut in cuts]
            loss = sum(total for total, _ in pairs) / sum(count for _, count in pairs)
            assert loss.item() == pytest.approx(case[name], rel=1e-5)


def test_rows_that_are_all_answer_have_the_loss_of_plain_text():
    """In rows of one length, nothing given, a row's share of the fine-tuning loss is its share of pre-training's."""
    model = small_model()
    batch = batch_of(torch.randint(3, 60, (6, 10)).tolist(), [0] * 6)
    tokens, answers = (MaskedObjective(2, normalisation) for normalisation in ("tokens", "answers"))
    plain = tokens.loss_sum(model, batch) / tokens.count(batch)
    torch.testing.assert_close(answers.loss_sum(model, batch) / answers.count(batch), plain)


def batch_of(rows: list[list[int]], prompts: list[int]) -> Batch:
    tokens = torch.tensor(rows)
    maskable = torch.arange(tokens.shape[1]) >= torch.tensor(prompts)[:, None]
    return Batch(tokens, maskable, torch.rand(tokens.shape), torch.rand(len(rows)), torch.arange(len(rows)))


def test_an_arm_learns_answers_and_one_end_and_never_the_first_token():
    batch = batch_of(
        [
            [7, 8, 9, EOS, EOS],  # an answer of one token, its end, padding
            [7, 8, 9, 10, 11],  # a text without an end
            [7, EOS, EOS, EOS, EOS],  # a prompt that ends in EOS: the answer's first EOS still counts
            [EOS, EOS, EOS, EOS, EOS],
        ],
        [2, 0, 2, 3],
    )
    expected = [
        [False, False, True, True, False],
        [False, True, True, True, True],
        [False, False, True, False, False],
        [False, False, False, True, False],
    ]
    assert NextTokenObjective(EOS).targets(batch).tolist() == expected
    assert NextTokenObjective(EOS).count(batch) == 8
    assert NextTokenObjective(EOS, "answers").count(batch) == 4


@pytest.mark.parametrize("normalisation", ["tokens", "answers"])
def test_the_arms_loss_is_the_cross_entropy_of_its_targets(normalisation):
    model, objective = small_model(causal=True), NextTokenObjective(EOS, normalisation)
    batch = batch_of([[7, 8, 9, EOS, EOS], [7, 8, 9, 10, 11]], [2, 1])
    log_p = model(batch.tokens).log_softmax(-1)
    rows = [
        [-log_p[row, place - 1, batch.tokens[row, place]] for place in range(5) if targets[place]]
        for row, targets in enumerate(objective.targets(batch).tolist())
    ]
    expected = sum(sum(row) / (len(row) if normalisation == "answers" else 1) for row in rows)
    torch.testing.assert_close(objective.loss_sum(model, batch), expected)


def test_counted_noise_is_the_one_of_the_forward_process():
    batch = batch_of([[7, 8, 9, 10, 11]] * 3, [2, 1, 0])
    noised = MaskedObjective(2, counted=True).noise(batch)
    expected = forward_process_counted(batch.tokens, batch.times, batch.draws, mask_id=2, maskable=batch.maskable)
    assert torch.equal(noised.tokens, expected.tokens)
    plain = MaskedObjective(2).noise(batch)
    assert torch.equal(plain.weight[:, 0], 1 / mask_probability(batch.times))


@pytest.mark.parametrize("counted", [True, False])
def test_one_block_of_the_whole_row_is_the_plain_objective(counted):
    model, batch = small_model(), batch_of([[7, 8, 9, 10, 11]] * 3, [2, 1, 0])
    expected = MaskedObjective(2, "answers", counted).loss_sum(model, batch)
    received = BlockCausalObjective(2, "answers", counted, block_length=5).loss_sum(model, batch)
    torch.testing.assert_close(received, expected)


def test_a_block_causal_run_learns(tmp_path):
    """A text that counts: with blocks of two the second half of each block is known from the first."""
    model = small_model(attention_block_length=2)
    objective = choose_objective(model.config, TrainConfig(seed=0, steps=1, lr=0.1), "tokens")
    config = TrainConfig(seed=0, steps=40, lr=0.01, warmup_steps=0, log_every=10, bf16=False)

    class Counting(UnevenBatches):
        def part(self, step, rows):
            batch = super().part(step, rows)
            start = batch.tokens[:, :1] % 30 + 6
            return batch._replace(tokens=start + torch.arange(batch.tokens.shape[1]))

    losses = [record["loss"] for record in Trainer(model, Counting(), objective, config, tmp_path).run()]
    assert losses[-1] < 0.6 * losses[0]


def test_the_model_and_the_recipe_choose_the_objective():
    config = TrainConfig(seed=0, steps=1, lr=0.1, counted_masks=False)
    masked, causal = small_model().config, small_model(causal=True).config
    assert choose_objective(masked, config, "answers") == MaskedObjective(2, "answers", False)
    assert choose_objective(causal, config, "tokens") == NextTokenObjective(1, "tokens")
    blocks = small_model(attention_block_length=4).config
    assert choose_objective(blocks, config, "tokens") == BlockCausalObjective(2, "tokens", False, block_length=4)
    own = TrainConfig(seed=0, steps=1, lr=0.1, normalisation="tokens")
    assert choose_objective(masked, own, "answers") == MaskedObjective(2, "tokens", True)
