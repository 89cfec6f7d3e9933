"""Pre-train a model by a recipe:  python -m training.pretrain RECIPE.toml --out DIR

A masked diffusion model learns LLaDA's bound: the cross-entropy of hidden tokens, each weighted with 1 / masking
probability, over all tokens of the batch. With `model.causal` it is the autoregressive model of a comparison, and
learns the next token. `--init MODEL_DIR` goes on from the weights of a model folder, published or exported.

On several processes:  torchrun --nproc-per-node 8 -m training.pretrain RECIPE.toml --out DIR

The run's folder gets config.toml, metrics.jsonl, checkpoints/ (the same command goes on from the newest), samples.txt,
curves.png and in the end model/, ready for `python -m training.evaluate` and `llada-rt generate`.
"""

import sys

from training.distributed import join
from training.objectives import choose_objective
from training.recipe import read_command, run_command, train_and_export
from training.tasks.verse_run import VerseRun


def main() -> None:
    config = read_command(sys.argv[1:], __doc__, VerseRun)
    with run_command(), join(config.device) as world:
        train_and_export(config, lambda model: choose_objective(model, config.train, "tokens"), world)


if __name__ == "__main__":
    main()
