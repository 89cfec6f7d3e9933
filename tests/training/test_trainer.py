"""The loop: it learns, and a run that stops and resumes takes the steps of one that does not."""

import json

import pytest
import torch

from training.data import VerseBatches, VerseConfig
from training.optim import learning_rate_factor
from training.tasks.verse import VerseBook


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


def test_the_schedule_warms_up_stays_and_decays(make_trainer):
    config = make_trainer(steps=100, warmup_steps=10, decay_share=0.4).config
    factors = [learning_rate_factor(config, step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:61] == pytest.approx([1.0] * 52)
    assert factors[99] == pytest.approx(1 / 40)
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)


def test_unknown_kinds_of_rows_are_refused(book, tokenizer):
    config = VerseConfig(max_chars=24, batch_tokens=64, kinds={"prose": 1.0}, pads={"prose": [0]})
    with pytest.raises(ValueError, match=r"kinds expected some of .*'lines'.*received \['prose'\]"):
        VerseBatches.build(book, tokenizer, config, 0)
