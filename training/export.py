"""Write a model folder in the published layout (training/model_folder.py), ready to be served:

    python -m training.export RUN_DIR --out DIR                               a run as its newest checkpoint has it
    python -m training.export RUN_DIR/checkpoints/step-0000500 --out DIR      or an older one, of any number of ranks
    python -m training.export MODEL_DIR --out DIR --max-shard-bytes 5e9       a model folder in other types or shards

A folder holds config.json, model.safetensors or shards with an index, tokenizer.json, tokenizer_config.json (chat
template, special tokens), generation_config.json (ids, and under "llada_rt" the defaults a caller gets who gives no
parameters) and README.md.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from training.model_folder import DTYPES, check_target, convert
from training.preference_run import PreferenceRun
from training.recipe import RunConfig, export_run, open_run
from training.tasks.verse_run import VerseRun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of a run, of one of its checkpoints, or of a model")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--name", help="title of the card (default: the recipe's)")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), help="of the weights (default: the recipe's, or as they are)"
    )
    parser.add_argument(
        "--max-shard-bytes", type=lambda text: int(float(text)), help="largest file of weights, e.g. 5e9"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    arguments = parser.parse_args()
    names = ("name", "dtype", "max_shard_bytes")
    changes = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    source, folder, overwrite = arguments.source, arguments.out, arguments.overwrite
    try:
        check_target(folder, overwrite=overwrite)  # before the weights are read
        if (source / "config.json").is_file():
            convert(source, folder, changes, overwrite=overwrite)
        else:
            config, model, vocabulary, record = open_run(source, RunConfig, VerseRun, PreferenceRun)
            changed = replace(config, export=replace(config.export, **changes))
            export_run(changed, model, vocabulary, record, folder, overwrite=overwrite)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    print(f"model: {folder}")


if __name__ == "__main__":
    main()
