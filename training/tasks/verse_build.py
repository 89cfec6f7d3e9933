"""Rebuild `verse.jsonl` from the published package it is an excerpt of.

npm pack chinese-poetry@2.0.1          # in a scratch folder; 85 MB, sha512 checked below
pip install opencc-python-reimplemented==0.1.7
python -m training.tasks.verse_build chinese-poetry-2.0.1.tgz
"""

from training.tasks.rebuild import rebuild
from training.tasks.verse import VERSE_FILE
from training.tasks.verse_package import PACKAGE_SHA512, read_poems

if __name__ == "__main__":
    rebuild(__doc__, PACKAGE_SHA512, read_poems, VERSE_FILE)
