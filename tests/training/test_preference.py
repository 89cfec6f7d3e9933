"""VRPO: the loss against a numpy twin, the bound against exact enumeration, and what each variance reduction is for."""

import itertools
import json
import sys

import numpy as np
import pytest
import torch

from tests.tolerance import FORWARD_FLOOR
from tests.training.conftest import small_model
from training import preference, sft
from training.data import Batch, BatchConfig
from training.experiments.ranking import rank, read_pairs
from training.lora import LoraConfig, add_adapters
from training.losses import preference_losses, row_bounds
from training.masking import forward_process_counted
from training.model import LLaDA
from training.model_folder import ExportConfig, export_model
from training.objectives import MaskedObjective
from training.preference_objective import PreferenceObjective
from training.preference_pairs import BETTER, WORSE, PairBatch, PairBatches, PreferenceConfig
from training.rows import RowConfig, RowEncoder
from training.store import TokenStore

MASK, ROUNDS = 2, 60
RECORDS = [
    {"prompt": "1+2=", "chosen": "3", "rejected": "12"},
    {"prompt": "17+5=", "chosen": "22", "rejected": "112"},
    {"prompt": "8+9=", "chosen": "17", "rejected": "16"},
    {"prompt": "96+7=", "chosen": "103", "rejected": "93"},
    {"prompt": "5+5=", "chosen": "10", "rejected": "01"},
]


@pytest.fixture(scope="module")
def store(tokenizer):
    encoder = RowEncoder(tokenizer, RowConfig())
    return TokenStore.from_rows(encoder.rows((str(i), record) for i, record in enumerate(RECORDS)), tokenizer)


@pytest.fixture(scope="module")
def policy(tokenizer):
    return sharp_model(tokenizer, 0)


@pytest.fixture(scope="module")
def reference(policy, tokenizer):
    """The policy, moved a little: what preference training looks at."""
    model = sharp_model(tokenizer, 0)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index))
    return model


def sharp_model(tokenizer, seed):
    """Weights five times those of a fresh model, so that its probabilities depend on what is hidden."""
    model = small_model(seed, vocab_size=tokenizer.get_vocab_size())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= 5
    return model


def batches(store, *, rows=5, seed=3, batch=None, **options) -> PairBatches:
    return PairBatches(store, batch or BatchConfig(batch_rows=rows), PreferenceConfig(**options), seed=seed, eos_id=1)


def whole(store, step=0, **options) -> PairBatch:
    made = batches(store, **options)
    return made.part(step, range(made.num_rows(step)))


# ---------------------------------------------------------------------------------------------------------- the loss


def numpy_bounds(model, batch, times, draws, *, n_mask, counted) -> np.ndarray:
    """(pairs, 2) float64, in loops: every pair, answer, time and mask by itself."""
    pairs, _, length = batch.tokens.shape
    n_time = times.shape[2]
    draws = draws.numpy().reshape(pairs, 2, n_time, n_mask, length)
    bounds = np.zeros((pairs, 2))
    for pair, answer in np.ndindex(pairs, 2):
        tokens, maskable = batch.tokens[pair, answer].numpy(), batch.maskable[pair, answer].numpy()
        places = np.flatnonzero(maskable)
        for k, j in np.ndindex(n_time, n_mask):
            t, draw = float(times[pair, answer, k]), draws[pair, answer, k, j]
            if counted:
                count = min(int(np.float32(t) * np.float32(len(places))) + 1, len(places))
                hidden, weight = places[np.argsort(draw[places], kind="stable")[:count]], len(places) / count
            else:
                p = (1 - 1e-3) * t + 1e-3
                hidden, weight = places[draw[places] < p], 1 / p
            noisy = tokens.copy()
            noisy[hidden] = MASK
            logits = model(torch.from_numpy(noisy)[None])[0].detach().double().numpy()[hidden]
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            bounds[pair, answer] += weight * log_p[np.arange(len(hidden)), tokens[hidden]].sum() / (n_time * n_mask)
    return bounds


@pytest.mark.parametrize("options", [{}, {"n_time": 2, "n_mask": 3, "shared_draws": False, "even_times": False}])
@pytest.mark.parametrize("counted", [True, False])
def test_the_loss_equals_its_numpy_twin(store, policy, reference, counted, options):
    options = {"n_time": 4, "n_mask": 1, **options}
    batch = whole(store, **options)
    objective = PreferenceObjective(MASK, reference, beta=0.3, sft_weight=0.1, counted=counted)
    got = objective.loss_sum(policy, batch).item()
    sizes = {"n_mask": options["n_mask"], "counted": counted}
    ours = numpy_bounds(policy, batch, batch.times, batch.draws, **sizes)
    theirs = numpy_bounds(reference, batch, batch.reference_times, batch.reference_draws, **sizes)
    gain = ours - theirs
    preferred = np.log1p(np.exp(-0.3 * (gain[:, BETTER] - gain[:, WORSE])))
    fine_tuning = -ours[:, BETTER] / batch.maskable[:, BETTER].numpy().sum(-1)
    assert objective.count(batch) == 5
    assert got == pytest.approx((preferred + 0.1 * fine_tuning).sum(), rel=10 * FORWARD_FLOOR["float32"])


def test_the_preference_loss_is_log_two_at_the_reference_and_falls_with_the_difference():
    bounds = torch.tensor([[-3.0, -9.0]], requires_grad=True)
    at_reference = preference_losses(bounds, bounds.detach(), beta=0.5)
    assert at_reference.item() == pytest.approx(np.log(2))
    at_reference.sum().backward()
    assert bounds.grad.tolist() == [[-0.25, 0.25]]  # beta / 2: up with the better answer, down with the worse
    far = torch.tensor([[500.0, -500.0], [-500.0, 500.0]])
    assert preference_losses(far, torch.zeros(2, 2), beta=1.0).tolist() == [0.0, 1000.0]  # no overflow


def test_row_bounds_are_the_fine_tuning_losses_with_the_other_sign(policy):
    tokens = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(0))
    maskable = (torch.arange(9) > 3).expand(4, 9).clone()
    maskable[3] = False  # nothing to hide: a bound of nothing
    noised = forward_process_counted(tokens, torch.rand(4), torch.rand(4, 9), mask_id=MASK, maskable=maskable)
    logits = policy(noised.tokens, noised.masked)
    bounds = row_bounds(logits, tokens, noised)
    assert bounds[3] == 0
    batch = Batch(tokens, maskable, torch.empty(0), torch.empty(0), torch.arange(4))  # its noise is `noised`
    fine_tuning = MaskedObjective(MASK, "answers").noised_loss_sum(logits, batch, noised)
    torch.testing.assert_close(-bounds[:3].sum() / 5, fine_tuning)


def test_policy_and_reference_cancel_exactly_where_they_agree_and_draws_are_shared(store, policy):
    objective = PreferenceObjective(MASK, policy, sft_weight=0.0)
    shared = objective.loss_sum(policy, whole(store))
    assert shared.item() == pytest.approx(5 * np.log(2), rel=1e-7)
    assert shared.requires_grad
    apart = objective.loss_sum(policy, whole(store, shared_draws=False))
    assert abs(apart.item() - 5 * np.log(2)) > 0.01


def test_adapters_off_are_the_reference(store, policy, tokenizer):
    model = sharp_model(tokenizer, 0)
    add_adapters(model, LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B" in name:
                parameter += 0.05
    batch = whole(store)
    by_copy = PreferenceObjective(MASK, policy).loss_sum(model, batch)
    by_switch = PreferenceObjective(MASK, None).loss_sum(model, batch)
    assert torch.equal(by_copy, by_switch)
    by_switch.backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, parameter in model.named_parameters() if ".lora_" in name}
    without_difference = PreferenceObjective(MASK, model).loss_sum(model, batch)
    assert without_difference.item() != pytest.approx(by_copy.item(), rel=1e-4)


# ------------------------------------------------------------------------------------------- the bound and its noise


def exact_bound(model, tokens, places) -> float:
    """The expectation of the counted bound: all subsets of the answer's places."""
    total = 0.0
    for count in range(1, len(places) + 1):
        subsets = list(itertools.combinations(places, count))
        rows = torch.tensor([[MASK if i in hidden else t for i, t in enumerate(tokens)] for hidden in subsets])
        log_p = model(rows).double().log_softmax(-1)
        for row, hidden in enumerate(subsets):
            total += len(places) / count * sum(log_p[row, i, tokens[i]].item() for i in hidden) / len(subsets)
    return total / len(places)


def samples(store, policy, reference, rounds=ROUNDS, **options) -> torch.Tensor:
    """(rounds, pairs, 3): bounds of better and worse answer, and the difference that the preference loss sees."""
    objective = PreferenceObjective(MASK, reference)
    drawn = []
    for seed in range(rounds):
        made = batches(store, seed=seed, **options)
        batch = made.part(0, range(5))
        batch = PairBatch(*(field[batch.sample_ids.argsort()] for field in batch))  # another order each seed
        ours = objective.bounds(policy, batch.tokens, batch.maskable, batch.times, batch.draws)
        gain = ours - objective.reference_bounds(policy, batch)
        drawn.append(torch.cat([ours, gain[:, :1] - gain[:, 1:]], dim=1))
    return torch.stack(drawn)


@torch.no_grad()
def test_bounds_are_unbiased_and_every_reduction_reduces(store, policy, reference):
    plain = {"n_time": 1, "n_mask": 1, "shared_draws": False, "even_times": False}
    settings = {
        "one draw": plain,
        "eight masks": {**plain, "n_mask": 8},
        "eight times": {**plain, "n_time": 8},
        "shared": {**plain, "n_time": 8, "shared_draws": True},
        "even": {**plain, "n_time": 8, "shared_draws": True, "even_times": True},
    }
    drawn = {name: samples(store, policy, reference, **options) for name, options in settings.items()}
    batch = whole(store)
    batch = PairBatch(*(field[batch.sample_ids.argsort()] for field in batch))
    for pair, answer in np.ndindex(5, 2):
        tokens, maskable = batch.tokens[pair, answer].tolist(), batch.maskable[pair, answer]
        exact = exact_bound(policy, tokens, maskable.nonzero()[:, 0].tolist())
        for name, values in drawn.items():
            bound = values[:, pair, answer]
            assert bound.mean().item() == pytest.approx(exact, abs=5 * bound.std().item() / ROUNDS**0.5), name
    variances = {name: values[:, :, 2].var(0).mean().item() for name, values in drawn.items()}
    # Independent times cut the variance by eight; masks of one time by less, as the time's own share stays.
    assert variances["eight times"] == pytest.approx(variances["one draw"] / 8, rel=0.4)
    assert variances["eight times"] < 0.8 * variances["eight masks"] < 0.8 * variances["one draw"]
    assert variances["shared"] < 0.1 * variances["eight times"]
    assert variances["even"] < variances["shared"]


# --------------------------------------------------------------------------------------------------------- the batches


def test_pairs_are_padded_to_one_length_and_questions_stay(store, tokenizer):
    batch = whole(store)
    assert batch.tokens.shape == batch.maskable.shape == (5, 2, 9)  # 96+7=103 and EOS
    assert batch.draws.shape == (5, 2 * 8 * 9)
    assert batch.times.shape == (5, 2, 8)
    for tokens, maskable, sample in zip(batch.tokens, batch.maskable, batch.sample_ids.tolist(), strict=True):
        for answer, key in ((BETTER, "chosen"), (WORSE, "rejected")):
            shown = tokenizer.decode(tokens[answer].tolist(), skip_special_tokens=True)
            assert shown == RECORDS[sample]["prompt"] + RECORDS[sample][key]
            assert (~maskable[answer]).sum() == len(RECORDS[sample]["prompt"])
            assert maskable[answer, len(RECORDS[sample]["prompt"]) :].all()


def test_parts_are_slices_of_the_batch_and_a_batch_is_a_function_of_seed_and_step(store):
    together, again = whole(store, step=3), batches(store)
    for a, b, all_rows in zip(again.part(3, range(2)), again.part(3, range(2, 5)), together, strict=True):
        assert torch.equal(torch.cat([a, b]), all_rows)
    assert not torch.equal(whole(store, step=4).draws, together.draws)
    assert not torch.equal(whole(store, step=3, seed=4).draws, together.draws)


def test_draws_are_shared_or_not(store):
    shared, apart = whole(store), whole(store, shared_draws=False)
    assert torch.equal(shared.draws, shared.reference_draws)
    assert torch.equal(shared.times, shared.reference_times)
    assert not (apart.draws == apart.reference_draws).any()
    assert not (apart.times == apart.reference_times).any()
    assert not (shared.times[:, BETTER] == shared.times[:, WORSE]).any()  # different answers, independent noise


def test_even_times_are_even(store):
    times = whole(store).times.sort(-1).values
    torch.testing.assert_close(times.diff(dim=-1), torch.full((5, 2, 7), 1 / 8))
    assert ((times >= 0) & (times < 1)).all()
    gaps = whole(store, even_times=False).times.sort(-1).values.diff(dim=-1)
    assert gaps.max() > 0.25


def test_rows_that_are_no_pairs_are_refused(tokenizer):
    encoder = RowEncoder(tokenizer, RowConfig())
    records = [RECORDS[0], {"prompt": "1+1=", "answer": "2"}]
    store = TokenStore.from_rows(encoder.rows((str(i), record) for i, record in enumerate(records)), tokenizer)
    with pytest.raises(ValueError, match="row 1 of the data: expected the keys prompt, chosen and rejected"):
        batches(store)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_time": 0}, "n_time"),
        ({"n_mask": 0}, "n_mask"),
        ({"beta": 0.0}, "beta"),
        ({"sft_weight": -1.0}, "sft_weight"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PreferenceConfig(**options)


# ----------------------------------------------------------------------------------------------------------- the stage

RECIPE = """
[data]
files = ["{folder}/pairs.jsonl"]
[data.batches]
batch_rows = 4
[preference]
n_time = 4
[train]
seed = 3
steps = 24
lr = 0.01
warmup_steps = 0
bf16 = false
log_every = 4
checkpoint_every = 100
[export]
name = "prefers"
dtype = "float32"
"""


@pytest.fixture
def start(tmp_path, policy, tokenizer):
    """Folder with a model and pairs to begin with."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path))
    export_model(policy, tokenizer, tmp_path / "init", ExportConfig(name="start", dtype="float32"))
    return tmp_path


def run_stage(monkeypatch, folder, *options):
    monkeypatch.setattr(
        sys, "argv", ["preference", f"{folder}/recipe.toml", "--out", f"{folder}/run", *map(str, options)]
    )
    preference.main()


@pytest.mark.parametrize("adapters", [False, True])
def test_the_stage_raises_the_margin_and_not_at_the_cost_of_the_right_answer(
    start, monkeypatch, policy, tokenizer, adapters
):
    if adapters:
        with (start / "recipe.toml").open("a") as file:
            file.write("[lora]\nrank = 4\nalpha = 16.0\n")
    run_stage(monkeypatch, start, "--init", start / "init")
    pairs = read_pairs(start / "pairs.jsonl", tokenizer)
    trained = LLaDA.from_folder(start / "run" / "model")
    before, after = rank(policy, pairs), rank(trained, pairs)
    assert after.margin > before.margin + 2
    assert after.better > before.better
    losses = [json.loads(line)["loss"] for line in (start / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert "[preference]" in (start / "run" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--init with the fine-tuned model"),
        (["--init", "{}/init", "--held-out", "x.jsonl"], "held_out: expected no"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused(start, monkeypatch, options, message):
    sizes = "[model]\nd_model = 32\nn_layers = 2\nn_heads = 2\nn_kv_heads = 2\nmlp_hidden_size = 48\n"
    (start / "recipe.toml").write_text(RECIPE.format(folder=start) + ("" if options else sizes))
    with pytest.raises(SystemExit, match=message):
        run_stage(monkeypatch, start, *(option.format(start) for option in options))


def test_pairs_are_for_this_stage_and_nothing_else_is(start, monkeypatch):
    (start / "pairs.jsonl").write_text(json.dumps({"prompt": "1+1=", "answer": "2"}) + "\n")
    with pytest.raises(SystemExit, match=r"pairs\.jsonl:1: expected the keys prompt, chosen and rejected"):
        run_stage(monkeypatch, start, "--init", start / "init")
    (start / "pairs.jsonl").write_text(json.dumps(RECORDS[0]) + "\n")
    text = (start / "recipe.toml").read_text()
    (start / "recipe.toml").write_text(text.replace("[preference]\nn_time = 4\n", ""))
    monkeypatch.setattr(
        sys, "argv", ["sft", f"{start}/recipe.toml", "--init", f"{start}/init", "--out", f"{start}/tuned"]
    )
    with pytest.raises(SystemExit, match=r"pairs\.jsonl:1: a rejected answer"):
        sft.main()


def test_an_autoregressive_start_is_refused(start, monkeypatch, tokenizer):
    arm = small_model(vocab_size=tokenizer.get_vocab_size(), causal=True)
    export_model(arm, tokenizer, start / "arm", ExportConfig(name="arm"))
    with pytest.raises(SystemExit, match="expected a masked model"):
        run_stage(monkeypatch, start, "--init", start / "arm")
