"""The loop: it learns, and a run that stops and resumes takes the steps of one that does not."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from tests.tolerance import RANKS
from tests.training.conftest import small_model
from tests.training.ranks import UnevenBatches
from training.config import TrainConfig
from training.objectives import MaskedObjective, NextTokenObjective
from training.progress import draw_curves, read_metrics
from training.tasks.verse import VerseBook
from training.tasks.verse_batches import VerseBatches, VerseConfig
from training.trainer import NotFinite, Trainer


def test_ten_steps_reduce_the_loss(make_trainer):
    trainer = make_trainer(steps=24, decay_share=0.0)
    losses = [record["loss"] for record in trainer.run()]
    assert sum(losses[-4:]) < 0.75 * sum(losses[:4])
    lines = (trainer.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 25))


@pytest.mark.parametrize("options", [{}, {"matrix_lr": None, "ema": 0.9, "bf16": False, "counted_masks": False}])
def test_four_steps_are_two_and_two_more(make_trainer, options):
    whole = make_trainer("whole", **options)
    expected = [record["loss"] for record in whole.run(4)]
    first = make_trainer("parts", **options)
    losses = [record["loss"] for record in first.run(2)]
    second = make_trainer("parts", **options)
    assert second.resume()
    assert second.step == 2
    losses += [record["loss"] for record in second.run(4)]
    assert losses == expected
    for name, value in whole.final_weights().items():
        assert torch.equal(value, second.final_weights()[name]), name


def test_nothing_to_resume_is_said(make_trainer):
    assert not make_trainer().resume()


def test_a_batch_is_a_function_of_seed_and_step(make_trainer):
    first, second = make_trainer("a").batches, make_trainer("b").batches
    for step in (0, 7, 100000):
        rows = range(first.num_rows(step))
        whole = first.part(step, rows)
        assert all(torch.equal(a, b) for a, b in zip(whole, second.part(step, rows), strict=True))
        part = second.part(step, range(1, len(rows)))  # a part is those rows of the whole
        assert all(torch.equal(a[1:], b) for a, b in zip(whole, part, strict=True))
    assert not torch.equal(first.part(1, range(1)).draws[0, :9], first.part(2, range(1)).draws[0, :9])


def test_prompts_are_kept_and_answers_end_in_eot_and_eos(make_trainer):
    batches = make_trainer().batches
    eos, eot, bos = batches.eos_id, 5, 0
    for step in range(30):
        tokens, maskable, *_ = batches.part(step, range(batches.num_rows(step)))
        assert tokens.shape == maskable.shape
        assert tokens.numel() <= 256
        for row, mask in zip(tokens.tolist(), maskable.tolist(), strict=True):
            start = mask.index(True)
            assert all(mask[start:])
            assert (row[0] == bos) == (start > 0)
            answer = row[start:]
            if start:
                end = answer.index(eot)
                assert set(answer[end + 1 :]) <= {eos}


def test_groups_of_exact_length_need_no_padding(tokenizer):
    config = VerseConfig(
        max_chars=64, batch_tokens=4096, kinds={"plain": 1.0}, pads={"plain": [0]}, exact_lengths=["plain"]
    )
    batches = VerseBatches.build(VerseBook.select(max_chars=32), tokenizer, config, 0)
    for step in range(8):
        tokens, maskable, *_ = batches.part(step, range(batches.num_rows(step)))
        assert not (tokens == batches.eos_id).any()
        assert maskable.all()


def test_unknown_kinds_of_rows_are_refused(book, tokenizer):
    config = VerseConfig(max_chars=24, batch_tokens=64, kinds={"prose": 1.0}, pads={"prose": [0]})
    with pytest.raises(ValueError, match=r"kinds: expected some of .*'lines'.*got \['prose'\]"):
        VerseBatches.build(book, tokenizer, config, 0)


def losses_of(folder, **options) -> list[float]:
    config = TrainConfig(
        **{"seed": 5, "steps": 6, "lr": 0.01, "matrix_lr": 0.02, "log_every": 1, "bf16": False, **options}
    )
    trainer = Trainer(small_model(), UnevenBatches(), MaskedObjective(2, "answers", counted=True), config, folder)
    return [record["loss"] for record in trainer.run()]


def test_compiled_blocks_compute_the_same(tmp_path, monkeypatch):
    """Traced and differentiated as torch.compile does, without minutes of a C++ compiler."""
    compile_ = torch.nn.Module.compile
    compiled = []

    def compile_quickly(module):
        compiled.append(module)
        compile_(module, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    expected = losses_of(tmp_path / "eager", steps=4)
    received = losses_of(tmp_path / "compiled", steps=4, compile=True, activation_checkpointing=True)
    assert received == pytest.approx(expected, abs=RANKS["loss"])
    assert len(compiled) == 2


@pytest.mark.parametrize("micro_tokens", [1, 20, 1000])
def test_micro_batches_change_nothing(tmp_path, micro_tokens):
    expected = losses_of(tmp_path / "whole")
    assert losses_of(tmp_path / "cut", micro_tokens=micro_tokens) == pytest.approx(expected, abs=RANKS["loss"])


def test_computing_activations_again_changes_nothing(tmp_path):
    assert losses_of(tmp_path / "again", activation_checkpointing=True) == losses_of(tmp_path / "kept")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run(make_trainer, number, capsys):
    trainer = make_trainer()
    part = trainer.batches.part

    def part_and_signal(step, rows):
        if step == 3:
            os.kill(os.getpid(), number)
        return part(step, rows)

    object.__setattr__(trainer.batches, "part", part_and_signal)
    handler = signal.getsignal(number)
    trainer.run()
    assert trainer.interrupted
    assert signal.getsignal(number) == handler
    assert trainer.checkpoints.newest().name == f"step-{trainer.step:07d}"
    assert f"stopped by a signal after step {trainer.step}" in capsys.readouterr().err
    again = make_trainer()
    assert again.resume()
    again.run()
    whole = make_trainer("whole")
    whole.run()
    assert not again.interrupted
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), whole.model.parameters(), strict=True))


class Poisoned(MaskedObjective):
    """Not a number from the fifth batch on, in the loss or only in the gradient."""

    def loss_sum(self, model, batch):
        loss = super().loss_sum(model, batch)
        parameter = model.transformer["ln_f"].weight
        if batch.sample_ids.numel() != 8:  # the fourth batch has eight rows
            return loss
        return loss * torch.nan if self.counted else loss + (parameter - parameter).sum().sqrt()


@pytest.mark.parametrize("in_loss", [True, False])
@pytest.mark.parametrize("log_every", [1, 100])
def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path, in_loss, log_every):
    config = TrainConfig(seed=5, steps=9, lr=0.01, log_every=log_every, bf16=False, checkpoint_every=2)
    trainer = Trainer(small_model(), UnevenBatches(), Poisoned(2, counted=in_loss), config, tmp_path)
    with pytest.raises(NotFinite, match=r"step 3: loss .*nan.*samples \[0, 1, 2.*last good .*step-0000002"):
        trainer.run()
    assert trainer.checkpoints.newest().name == "step-0000002"
    assert all(record["step"] <= 3 for record in read_metrics(tmp_path))


class OneToken(UnevenBatches):
    """Every other batch is one token long: nothing for an ARM to predict."""

    def part(self, step, rows):
        batch = super().part(step, rows)
        return type(batch)(*(x[:, :1] if x.dim() == 2 and step % 2 == 0 else x for x in batch))


def test_a_batch_with_nothing_to_learn_from_changes_nothing(tmp_path):
    config = TrainConfig(seed=5, steps=4, lr=0.01, log_every=2, bf16=False)
    trainer = Trainer(small_model(causal=True), OneToken(), NextTokenObjective(1), config, tmp_path)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train_step(trainer.parts(0), 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert [record["step"] for record in trainer.run()] == [2, 4]


def test_samples_curves_and_held_out_loss_come_at_their_steps(make_trainer, tmp_path):
    trainer = make_trainer(sample_every=4, steps=10, log_every=100)
    trainer.samples = lambda model: f"text of {'a training' if model.training else 'an evaluated'} model"
    trainer.held_out = trainer.batches
    records = trainer.run()
    assert [record["step"] for record in records] == [4, 8, 10]
    assert records[-1]["held_out"] < records[0]["held_out"]
    assert trainer.held_out_loss() == records[-1]["held_out"]  # always the same noise
    text = (trainer.folder / "samples.txt").read_text()
    assert [line for line in text.splitlines() if line.startswith("==")] == ["== step 4", "== step 8", "== step 10"]
    assert "training model" not in text
    assert draw_curves(trainer.folder).stat().st_size > 1000


def test_only_the_first_rank_speaks(make_trainer, capsys):
    trainer = make_trainer()
    trainer.progress.is_first = False
    trainer.run(2)
    assert capsys.readouterr() == ("", "")
    assert not (trainer.folder / "metrics.jsonl").exists()


def test_a_run_goes_on_with_a_longer_schedule(make_trainer):
    make_trainer().run(4)
    longer = make_trainer()
    longer.config = replace(longer.config, steps=20)
    assert longer.resume()
    assert longer.run()[-1]["step"] == 20
