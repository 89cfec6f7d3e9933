"""Teach a model which of two answers is better:  python -m training.preference RECIPE.toml --init MODEL_DIR --out DIR

VRPO (LLaDA 1.5, arXiv 2505.19223): the preference loss of DPO on Monte-Carlo bounds of the log-likelihood, against the
frozen model that the run began with, plus a little of the fine-tuning loss. Rows are {"prompt", "chosen", "rejected"}.
With the table [lora] only adapters learn, and the reference is the same model without them.
"""

import sys
from dataclasses import replace

from training.distributed import join
from training.model import ModelConfig
from training.preference_objective import PreferenceObjective
from training.preference_pairs import PairBatches
from training.preference_run import PreferenceRun, check, open_reference
from training.recipe import open_data, read_command, run_command, train_and_export


def main() -> None:
    config = read_command(sys.argv[1:], __doc__, PreferenceRun)
    with run_command(), join(config.device) as world:
        check(config)
        data = open_data(config, world)
        assert config.data is not None
        assert data.store is not None
        eos_id = data.vocabulary.eos_id
        batches = PairBatches(data.store, config.data.batches, config.preference, seed=config.train.seed, eos_id=eos_id)
        reference, weights = open_reference(config, world), config.preference

        def objective(model: ModelConfig) -> PreferenceObjective:
            counted = config.train.counted_masks
            return PreferenceObjective(model.mask_token_id, reference, weights.beta, weights.sft_weight, counted)

        train_and_export(config, objective, world, replace(data, batches=batches))


if __name__ == "__main__":
    main()
