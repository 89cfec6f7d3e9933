"""How a model ranks right and wrong answers, and how noisy a preference loss is.

    python -m training.experiments.ranking MODEL_DIR PAIRS.jsonl [--reference MODEL_DIR --variance]

Rows are {"prompt", "chosen", "rejected"}. The first table: how often the better answer has the higher bound of its
log-likelihood (win rate), and the bounds themselves. With --variance, what each of VRPO's reductions
(preference_pairs.py) does to the noise of the loss on these rows: the variance over draws of the difference that the
loss sees, of the loss, and of its gradient.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from training.data import BatchConfig
from training.likelihood import hidden_losses, hidden_sets
from training.model import LLaDA
from training.preference_objective import PreferenceObjective
from training.preference_pairs import BETTER, WORSE, PairBatches, PreferenceConfig
from training.rows import Row, RowConfig, RowEncoder, read_records
from training.store import TokenStore
from training.vocabulary import Vocabulary, open_vocabulary

# What the table of variances compares: the reductions one after another, at the budget of LLaDA 1.5 from the second on.
PLAIN = PreferenceConfig(n_time=1, n_mask=1, shared_draws=False, even_times=False)
REDUCTIONS = {
    "1 time, 1 mask, own draws for each model": PLAIN,
    "budget 8: 1 time, 8 masks": PreferenceConfig(n_time=1, n_mask=8, shared_draws=False, even_times=False),
    "budget 8: 8 times, 1 mask": PreferenceConfig(n_time=8, n_mask=1, shared_draws=False, even_times=False),
    "and the same draws for both models": PreferenceConfig(n_time=8, n_mask=1, even_times=False),
    "and even times": PreferenceConfig(n_time=8, n_mask=1),
    "1 time, 1 mask, same draws": PreferenceConfig(n_time=1, n_mask=1, even_times=False),
}


@dataclass(frozen=True, slots=True)
class Ranking:
    """Pairs of answers under one model; bounds in nats per token, mean over answers' tokens, end token included."""

    win_rate: float  # share of pairs whose better answer has the higher bound; ties count half
    better: float
    worse: float
    margin: float  # mean over pairs: bound of the better answer minus that of the worse, in nats
    num_pairs: int

    @property
    def standard_error(self) -> float:
        """The standard error of the win rate, as an estimate of that over all such pairs."""
        return math.sqrt(self.win_rate * (1 - self.win_rate) / self.num_pairs)


def read_pairs(path: Path, source: Tokenizer | Vocabulary, *, chat: bool = False) -> list[Row]:
    encoder = RowEncoder(source, RowConfig(chat=chat))
    rows = list(encoder.rows(read_records(path, encoder.config)))
    if odd := [index for index, row in enumerate(rows) if len(row.examples) != 2]:
        raise ValueError(f"{path}: row {odd[0]}: expected the keys prompt, chosen and rejected")
    return rows


@torch.no_grad()
def rank(model: LLaDA, pairs: Sequence[Row], *, num_draws: int = 64, seed: int = 0) -> Ranking:
    """Bounds by hiding l of an answer's L tokens, l even over 1..L; the same draws whatever the model."""
    bounds = np.zeros((len(pairs), 2))  # of log p(answer | prompt), nats
    lengths = np.zeros((len(pairs), 2))
    for index, (place, row) in enumerate((place, row) for row in pairs for place in (BETTER, WORSE)):
        prompt, answer, _ = row.examples[place]
        hidden, weight = hidden_sets(len(answer), num_draws, "counted", seed, index)
        losses = hidden_losses(model, prompt, answer, torch.from_numpy(hidden)).numpy()
        bounds.flat[index], lengths.flat[index] = -(losses * weight).mean(), len(answer)
    margin = bounds[:, BETTER] - bounds[:, WORSE]
    per_token = bounds.sum(0) / lengths.sum(0)
    win_rate = float((margin > 0).mean() + (margin == 0).mean() / 2)
    return Ranking(win_rate, float(per_token[BETTER]), float(per_token[WORSE]), float(margin.mean()), len(pairs))


@dataclass(frozen=True, slots=True)
class Noise:
    """Over draws, rows as they are. Variances of single pairs are averaged over the pairs."""

    difference: float  # of (policy - reference) of the better answer minus the same of the worse, nats squared
    loss: float
    gradient: float  # trace of the covariance of the batch's gradient
    passes: int  # noisy copies of an answer that one model runs


def measure_noise(
    policy: LLaDA, reference: LLaDA, store: TokenStore, config: PreferenceConfig, *, rounds: int, gradient_rounds: int
) -> Noise:
    """All rows of the store as one batch, under `rounds` draws; gradients under the first `gradient_rounds`."""
    objective = PreferenceObjective(policy.config.mask_token_id, reference, config.beta, sft_weight=0.0)
    differences, gradients = [], []
    for seed in range(rounds):
        batches = PairBatches(
            store, BatchConfig(batch_rows=len(store)), config, seed=seed, eos_id=policy.config.eos_token_id
        )
        batch = batches.part(0, range(len(store)))
        with torch.set_grad_enabled(seed < gradient_rounds):
            ours = objective.bounds(policy, batch.tokens, batch.maskable, batch.times, batch.draws)
            gain = ours - objective.reference_bounds(policy, batch)
            difference = gain[:, BETTER] - gain[:, WORSE]  # (pairs), rows in this seed's order
        if seed < gradient_rounds:
            policy.zero_grad()
            F.softplus(-config.beta * difference).mean().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]))
        differences.append(difference.detach()[batch.sample_ids.argsort()].double())
    seen, slopes = torch.stack(differences), torch.stack(gradients)  # (rounds, pairs), (gradient_rounds, parameters)
    return Noise(
        difference=float(seen.var(0).mean()),
        loss=float(F.softplus(-config.beta * seen).var(0).mean()),
        gradient=float(slopes.var(0).sum()),
        passes=config.budget,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model folder")
    parser.add_argument("pairs", type=Path, help="rows of prompt, chosen, rejected")
    parser.add_argument("--reference", type=Path, default=None, help="another model folder, for a second column")
    parser.add_argument("--chat", action="store_true", help="questions and answers through the chat template")
    parser.add_argument("--draws", type=int, default=64, help="draws of a bound")
    parser.add_argument(
        "--variance", action="store_true", help="the noise of the preference loss against the reference"
    )
    parser.add_argument("--rounds", type=int, default=200, help="draws of the loss that its variance is taken over")
    parser.add_argument("--rows", type=int, default=64, help="pairs that the variance is measured on")
    arguments = parser.parse_args()
    if arguments.variance and arguments.reference is None:
        parser.error("--variance: expected --reference beside it, got none")
    folders = [arguments.model, *([arguments.reference] if arguments.reference else [])]
    vocabulary = open_vocabulary(arguments.model)
    pairs = read_pairs(arguments.pairs, vocabulary, chat=arguments.chat)
    models = [LLaDA.from_folder(folder) for folder in folders]
    print("| model | pairs | win rate | better answer, nats per token | worse | margin, nats |\n" + "| --- " * 6 + "|")
    for folder, model in zip(folders, models, strict=True):
        r = rank(model, pairs, num_draws=arguments.draws)
        rate = f"{100 * r.win_rate:.1f} ± {100 * r.standard_error:.1f} %"
        print(f"| {folder} | {r.num_pairs} | {rate} | {-r.better:.4f} | {-r.worse:.4f} | {r.margin:.2f} |", flush=True)
    if not arguments.variance:
        return
    store = TokenStore.from_rows(pairs[: arguments.rows], vocabulary.tokenizer)
    print("\n| noise of the loss | difference, nats² | loss | gradient |\n" + "| --- " * 4 + "|")
    for name, config in REDUCTIONS.items():
        gradient_rounds = max(2, arguments.rounds // 4)
        n = measure_noise(models[0], models[1], store, config, rounds=arguments.rounds, gradient_rounds=gradient_rounds)
        print(f"| {name} | {n.difference:.4g} | {n.loss:.3g} | {n.gradient:.3g} |", flush=True)


if __name__ == "__main__":
    main()
