"""Folders as the cache of the Hugging Face hub lays them out, and models that lie one folder deeper."""

from pathlib import Path

import pytest

from llada_rt import Engine, ModelError, ModelNotFoundError
from llada_rt.folder.model_files import check_exists
from llada_rt.tools.convert import convert_model
from tests.engine.models import write_folder

REVISIONS = ["0123456789abcdef0123456789abcdef01234567", "76543210fedcba9876543210fedcba9876543210"]


def write_hub(root: Path, *, revisions: int = 1, main: str | None = None) -> Path:
    """models--org--name with blobs, and snapshots that link to them."""
    top = root / "models--org--name"
    source = write_folder(root / "source")
    (top / "blobs").mkdir(parents=True)
    for path in source.iterdir():
        (top / "blobs" / f"sha-{path.name}").write_bytes(path.read_bytes())
    for revision in REVISIONS[:revisions]:
        (top / "snapshots" / revision).mkdir(parents=True)
        for path in source.iterdir():
            (top / "snapshots" / revision / path.name).symlink_to(f"../../blobs/sha-{path.name}")
    if main is not None:
        (top / "refs").mkdir()
        (top / "refs" / "main").write_text(main)
    return top


@pytest.mark.parametrize("main", [REVISIONS[0], REVISIONS[0] + "\n", None])
def test_the_snapshot_is_found(tmp_path, main):
    top = write_hub(tmp_path, main=main)
    with Engine(top, threads=1) as engine:
        assert engine.config.model_dir == top / "snapshots" / REVISIONS[0]
        assert engine.has_chat_template
        assert engine.info()["model_dir"].endswith(REVISIONS[0])
    convert_model(top, tmp_path / "out", compute_type="int8")


def test_of_several_the_one_that_main_names(tmp_path):
    top = write_hub(tmp_path, revisions=2, main=REVISIONS[1])
    assert check_exists(top) == top / "snapshots" / REVISIONS[1]


@pytest.mark.parametrize("main", [None, "f" * 40, "", "..", "../../../etc", "\0", "é" * 100])
def test_of_several_none_is_guessed(tmp_path, main):
    top = write_hub(tmp_path, revisions=2, main=main)
    with pytest.raises(ModelNotFoundError, match="expected one snapshot") as error:
        Engine(top)
    assert all(revision in str(error.value) for revision in REVISIONS)


def test_no_snapshot(tmp_path):
    top = write_hub(tmp_path, revisions=0, main=REVISIONS[0])
    (top / "snapshots").mkdir()
    with pytest.raises(ModelNotFoundError, match="got none"):
        Engine(top)


def test_refs_that_leave_the_folder(tmp_path):
    top = write_hub(tmp_path, revisions=2, main="x")
    (top / "refs" / "main").unlink()
    (tmp_path / "elsewhere").write_text(REVISIONS[0])
    (top / "refs" / "main").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="link that leaves it"):
        Engine(top)


def test_a_model_one_folder_deeper_is_named(tmp_path):
    write_folder(tmp_path / "top" / "weights")
    (tmp_path / "top" / "docs").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"it lies in .*top/weights"):
        Engine(tmp_path / "top")
    write_folder(tmp_path / "top" / "other")
    with pytest.raises(ModelNotFoundError, match="there are models in other, weights"):
        Engine(tmp_path / "top")


def test_a_whole_cache_names_its_models(tmp_path):
    write_hub(tmp_path / "hub")
    write_hub(tmp_path / "hub" / "more")
    with pytest.raises(ModelNotFoundError, match="there are models in models--org--name, source"):
        Engine(tmp_path / "hub")


def test_a_folder_with_nothing_gets_no_hint(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"no config\.json") as error:
        Engine(tmp_path / "empty")
    assert error.value.hint is None


def test_many_places_are_counted(tmp_path):
    for number in range(12):
        (tmp_path / "top" / f"checkpoint-{number:02}").mkdir(parents=True)
        (tmp_path / "top" / f"checkpoint-{number:02}" / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="checkpoint-07 and 4 more"):
        Engine(tmp_path / "top")
