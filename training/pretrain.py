"""Pre-train a model by a recipe:  python -m training.pretrain RECIPE.toml --out DIR

A masked diffusion model by LLaDA's bound (each hidden token weighted with 1 / masking probability), or with
`model.causal` the autoregressive model of a comparison by the next token. `--init MODEL_DIR` goes on from the weights
of a model folder. On several GPUs: torchrun --nproc-per-node 8 -m training.pretrain RECIPE.toml --out DIR

The run's folder gets config.toml, metrics.jsonl, checkpoints/ (the same command goes on from the newest), samples.txt,
curves.png and in the end model/, ready to be served.
"""

import json
import sys

import torch

from training.distributed import World, join
from training.evaluate import evaluate_and_record
from training.model import ModelConfig
from training.objectives import MaskedObjective, NextTokenObjective, Objective
from training.recipe import RunConfig, open_data, read_command, train_and_export


def objective(config: RunConfig, model: ModelConfig) -> Objective:
    normalisation = config.train.normalisation or "tokens"
    if model.causal:
        return NextTokenObjective(model.eos_token_id, normalisation)
    return MaskedObjective(model.mask_token_id, normalisation, config.train.counted_masks)


def main() -> None:
    config = read_command(sys.argv[1:], __doc__)
    if config.threads:
        torch.set_num_threads(config.threads)
    with join(config.device) as world:
        trainer = train_and_export(config, lambda model: objective(config, model), world)
        if trainer.interrupted or not world.is_first:
            return
    if (book := open_data(config, World()).book) is not None:
        print(json.dumps(evaluate_and_record(config.out / "model", book, gen_length=config.export.gen_length)))


if __name__ == "__main__":
    main()
