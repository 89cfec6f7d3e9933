"""Fine-tune a model on questions and answers:  python -m training.sft RECIPE.toml --init MODEL_DIR --out DIR

Rows are prompts with answers, dialogues or templates (training/rows.py); `data.rows.chat = true` puts prompts and
answers into the chat form, which is the template of the folder that the run begins with (training/chat_form.py). As in
LLaDA's guidelines a prompt is never hidden, an answer is padded with EOS to the longest row of its batch, padding may
be hidden and counts, and each row's loss is divided by the length of its answer: every row counts the same. Each visit
of a dialogue takes one reply, given what stands before it. With `model.causal`, or from an ARM's folder, the next token
of the answer is learnt instead. With the table [lora] only adapters learn.

Runs, resumes and exports as training/pretrain.py does.
"""

import sys

from training.distributed import join
from training.objectives import choose_objective
from training.recipe import RunConfig, read_command, run_command, train_and_export
from training.tasks.verse_run import VerseRun


def check(config: RunConfig) -> None:
    """Windows cut from joined text have no prompts."""
    if config.data is not None and config.data.layout != "rows":
        raise ValueError(f"[data]: layout: expected 'rows' for fine-tuning, got {config.data.layout!r}")


def main() -> None:
    config = read_command(sys.argv[1:], __doc__, VerseRun)
    with run_command(), join(config.device) as world:
        check(config)
        train_and_export(config, lambda model: choose_objective(model, config.train, "answers"), world)


if __name__ == "__main__":
    main()
