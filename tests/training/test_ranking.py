"""Win rates and bounds of pairs, the noise of the loss, and the sums with a slip that it is tried on."""

import json
import random
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.conftest import small_model
from training.experiments import ranking
from training.experiments.ranking import measure_noise, rank, read_pairs
from training.likelihood import bound
from training.preference_pairs import PreferenceConfig
from training.store import TokenStore
from training.tasks import is_held_out, slips

PAIRS = [{"prompt": f"{a}+1=", "chosen": str(a + 1), "rejected": str(a + 2)} for a in (1, 4, 6, 23)]


@pytest.fixture
def pairs(tmp_path, tokenizer):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return read_pairs(path, tokenizer)


def test_a_model_that_knows_wins_and_one_that_has_it_backwards_loses(pairs, tokenizer):
    """One answer digit after another is made likelier, whatever stands around it."""
    model = small_model(vocab_size=tokenizer.get_vocab_size())
    swapped = [type(row)(row.examples[::-1]) for row in pairs]
    undecided = rank(model, pairs)
    assert undecided.num_pairs == 4
    assert rank(model, swapped).win_rate == 1 - undecided.win_rate
    assert rank(model, swapped).margin == pytest.approx(-undecided.margin, abs=0.2)  # other draws for each place
    with torch.no_grad():  # of the pairs' digits, only the right answers' are ever likely: 2, 5, 7 and 24
        model.transformer["ff_out"].weight[:] = 0
        bias = torch.ones(32)
        model.transformer["ln_f"].weight[:] = 1
        for digit in "257":
            model.transformer["ff_out"].weight[tokenizer.token_to_id(digit)] = bias
        model.transformer["wte"].weight[:] = 1
    knowing = rank(model, pairs[:3])
    assert knowing.win_rate == 1
    assert knowing.standard_error == 0
    assert knowing.margin > 1
    assert rank(model, swapped[:3]).win_rate == 0


def test_bounds_are_those_of_the_likelihood(pairs, tokenizer):
    model = small_model(vocab_size=tokenizer.get_vocab_size())
    ranked = rank(model, pairs, num_draws=512)
    for place, got in enumerate((ranked.better, ranked.worse)):
        rows = [row.examples[place][:2] for row in pairs]
        estimate = bound(model, rows, num_draws=512)
        assert -got == pytest.approx(estimate.nats_per_token, abs=5 * estimate.draw_error)


def test_the_noise_of_the_loss_is_measured_over_draws(pairs, tokenizer):
    policy, reference = (small_model(seed, vocab_size=tokenizer.get_vocab_size()) for seed in (0, 1))
    store = TokenStore.from_rows(pairs, tokenizer)
    few = {"rounds": 24, "gradient_rounds": 6}
    plain = measure_noise(
        policy, reference, store, PreferenceConfig(n_time=1, shared_draws=False, even_times=False), **few
    )
    reduced = measure_noise(policy, reference, store, PreferenceConfig(n_time=8), **few)
    assert (plain.passes, reduced.passes) == (1, 8)
    assert 0 < reduced.difference < 0.2 * plain.difference
    assert 0 < reduced.loss < 0.2 * plain.loss
    assert 0 < reduced.gradient < 0.5 * plain.gradient


def test_rows_that_are_no_pairs_are_refused(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(PAIRS[0]) + "\n" + json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n")
    with pytest.raises(ValueError, match="row 1: expected the keys prompt, chosen and rejected"):
        read_pairs(path, tokenizer)


def test_variance_needs_a_reference(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ranking", "model", "pairs.jsonl", "--variance"])
    with pytest.raises(SystemExit):
        ranking.main()
    assert "--reference" in capsys.readouterr().err


@given(st.integers(0, 10**7), st.integers(0, 1000))
def test_a_slip_is_one_digit_off_by_one(number, seed):
    right = str(number)
    wrong = slips.slip(right, random.Random(seed))
    assert len(wrong) == len(right)
    assert wrong == str(int(wrong))  # no leading zero
    off = [abs(int(a) - int(b)) for a, b in zip(right, wrong, strict=True)]
    assert sorted(off) == [0] * (len(right) - 1) + [1]


def test_sums_are_right_and_tests_are_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["slips", "--out", str(tmp_path), "--digits", "2", "--sft", "300", "--train", "50", "--test", "40"]
    )
    slips.main()
    rows = {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.iterdir()}
    assert {name: len(made) for name, made in rows.items()} == {"sft": 300, "pairs": 50, "test": 40, "test_pairs": 40}
    for name, made in rows.items():
        assert len({row["prompt"] for row in made}) == len(made)
        for row in made:
            a, b = map(int, row["prompt"].rstrip("=").split("+"))
            assert int(row.get("answer", row.get("chosen"))) == a + b
            assert is_held_out(f"{min(a, b)}+{max(a, b)}") == name.startswith("test")
    assert not {row["prompt"] for row in rows["sft"]} & {row["prompt"] for row in rows["pairs"]}
