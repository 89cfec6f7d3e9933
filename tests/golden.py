"""Recorded runs of the published code.

They lie beside the checkout in CI, not in a clone: tests then skip and say so.
"""

import json
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"
DATA = Path(__file__).resolve().parent / "data"
FOLDERS = sorted(path.parent for path in GOLDEN.glob("*/generate.json"))

needs_golden = pytest.mark.skipif(not FOLDERS, reason="recorded runs (../shared/golden) are not beside this checkout")


def folder_params() -> list:
    """One parameter per recorded folder; a single skipped one where there are none."""
    skipped = [pytest.param(None, id="absent", marks=needs_golden)]
    return [pytest.param(folder, id=folder.name) for folder in FOLDERS] or skipped


def load(folder: Path, name: str) -> dict | list:
    return json.loads((folder / name).read_text())


def cache_of(case: dict) -> str:
    """The cache policy that a recorded function stands for."""
    return {"generate_with_prefix_cache": "prefix", "generate_with_dual_cache": "dual"}.get(case["function"], "none")
