"""What the commands that rebuild a committed corpus have in common."""

import argparse
import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file of an archive; FileNotFoundError if it is none."""
    file = archive.extractfile(name)
    if file is None:
        raise FileNotFoundError(f"{archive.name!s}: expected the file {name}, which is something else there")
    return file


def rebuild(description: str, sha512: str, read: Callable[[Path], list[dict]], out: Path) -> None:
    """Check the package that the command line names, write its poems as JSON lines, say what was written."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    digest = hashlib.sha512(arguments.package.read_bytes()).hexdigest()
    if digest != sha512:
        raise SystemExit(f"{arguments.package}: sha512: expected {sha512[:16]}…, got {digest[:16]}…")
    poems = read(arguments.package)
    text = "".join(json.dumps(poem, ensure_ascii=False) + "\n" for poem in poems)
    arguments.out.write_text(text, encoding="utf-8")
    print(f"{len(poems)} poems, sha256 {hashlib.sha256(text.encode()).hexdigest()} -> {arguments.out}")
