"""What the reference says of a recorded case, worked out once: how many of its forwards do something."""

from functools import cache
from pathlib import Path

from tests.golden import cache_of, load
from tests.reference.denoise import Params, SpecialIds, generate
from tests.reference.forward import Model


@cache
def useful_forwards(folder: Path) -> tuple[int, ...]:
    """Per case of generate.json: its num_forward without the published loops' idle forwards (golden README)."""
    recorded, model = load(folder, "generate.json"), Model(folder)
    ids = SpecialIds(recorded["mask_id"], recorded["eos_id"], recorded["eot_id"])
    runs = (generate(model, c["prompt"], Params(**c["params"], cache=cache_of(c)), ids) for c in recorded["cases"])
    return tuple(case["num_forward"] - run.num_idle for case, run in zip(recorded["cases"], runs, strict=True))
