"""The documents: links lead somewhere, programs run, command lines are the command line's, pages stay short."""

import os
import re
import subprocess
import sys

import pytest

from llada_rt.cli import app as cli
from tests.documents import (
    Block,
    alternatives,
    anchors,
    link_faults,
    links,
    module_faults,
    our_commands,
    parse_fault,
    path_faults,
    read,
    shell_commands,
    split,
    tracked_files,
)

FILES = tracked_files()
DOCUMENTS = sorted(name for name in FILES if name.endswith(".md"))
TELLS_OF_THE_PAST = {"CHANGELOG.md", "benchmarks/LOG.md"}  # commands there are those of their day
MOST_LINES = {"README.md": 150, "benchmarks/README.md": 120}
PROGRAM_S = 120.0


def test_these_are_the_documents():
    assert {"README.md", "CHANGELOG.md", "docs/README.md", "benchmarks/RESULTS.md"} <= set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    assert not list(link_faults(name, read(name), FILES))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_path_of_a_machine(name):
    assert not list(path_faults(name, read(name)))


@pytest.mark.parametrize("name", MOST_LINES)
def test_a_front_door_is_short(name):
    assert len(read(name).splitlines()) <= MOST_LINES[name]


def test_the_index_names_every_page_of_docs():
    pages = {name.removeprefix("docs/") for name in DOCUMENTS if name.startswith("docs/")} - {"README.md"}
    assert pages <= set(links(read("docs/README.md")))


# ---------------------------------------------------------------- Python


def programs() -> list:
    found = [(name, block) for name in DOCUMENTS for block in split(read(name))[0] if block.language == "python"]
    return [pytest.param(block, id=f"{name}:{block.line}") for name, block in found]


def fault_of(block: Block, folder) -> str:
    """What the block's program says on stderr if it fails; of one that is marked, what the compiler says."""
    if block.is_marked:
        try:
            compile(block.text, "<document>", "exec")
        except SyntaxError as error:
            return str(error)
        return ""
    done = subprocess.run(
        [sys.executable, "-c", block.text],
        cwd=folder,
        env=os.environ | {"GOMP_SPINCOUNT": "0", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=PROGRAM_S,
        check=False,
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("block", programs())
def test_a_program_runs(block, tmp_path):
    assert fault_of(block, tmp_path) == ""


def test_the_programs_of_the_readme_all_run():
    blocks = [block for block in split(read("README.md"))[0] if block.language == "python"]
    assert blocks
    assert not [block.line for block in blocks if block.is_marked]


def test_python_has_one_name():
    """A block under another name of Python would not be run."""
    others = {"py", "python3", "pycon", "ipython"}
    assert not [name for name in DOCUMENTS for block in split(read(name))[0] if block.language.lower() in others]


# ---------------------------------------------------------------- commands


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name not in TELLS_OF_THE_PAST])
def test_every_command_is_one(name):
    text = read(name)
    said = [(words, parse_fault(cli.app, words, is_whole=is_whole)) for words, is_whole in our_commands(text)]
    assert not [f"llada-rt {' '.join(words)}: {fault}" for words, fault in said if fault]
    assert not list(module_faults(name, text, FILES))


def test_the_readme_has_commands():
    assert len(list(our_commands(read("README.md")))) >= 5


# ---------------------------------------------------------------- the checks find what is wrong


PAGE = """\
# A page: *what* `it` is
## Twice
## Twice
[a](#a-page-what-it-is) [b](b.md "title") [c](b.md#there) ![d](../e.svg) [e](https://x.org/#y) `[no](link.md)`
<!-- [no](comment.md) --> [![inner](inner.svg)](outer.md) <img src="f.png">

[name]: g.md

```bash
# [no](block.md)
```
"""


def test_links_and_anchors_are_found():
    targets = {"#a-page-what-it-is", "b.md", "b.md#there", "../e.svg", "https://x.org/#y", "inner.svg", "outer.md"}
    assert set(links(PAGE)) == targets | {"f.png", "g.md"}
    assert anchors(PAGE) == {"a-page-what-it-is", "twice", "twice-1"}


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("README.md#more", None),
        ("docs/", None),
        ("#here", None),
        ("docs/install.md#gpus", None),
        ("docs/Install.md", "no such file"),
        ("../outside.md", "no such file"),
        ("/README.md", "absolute"),
        ("README.md#less", "no such heading"),
        ("#there", "no such heading"),
        ("LICENSE#text", "no document"),
    ],
)
def test_a_link_that_leads_nowhere_is_a_fault(target, fault):
    found = list(link_faults("X.md", f"# Here\n[x]({target})\n", FILES | {"X.md"}))
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


@pytest.mark.parametrize("line", ["see /home/ann/x", "`/tmp/out`", "(/root/a)", "C:\\work", "```\ncd /srv/tree\n```"])
def test_a_path_of_a_machine_is_a_fault(line):
    assert list(path_faults("X.md", f"# x\n{line}\n"))
    for harmless in ("csrc/srv/x", "https://x.org/home/y", "~/tmp/x", "/proc/stat", "and/or", "$DIR/tmp/x"):
        assert not list(path_faults("X.md", harmless))


def test_a_program_that_fails_is_a_fault(tmp_path):
    text = (
        "```python\nprint(1)\n```\n```python\nprint(engine)\n```\n"
        "<!-- not run: needs a model -->\n```python\nprint(engine)\n```\n"
        "<!-- not run: needs a model -->\n\n```python\nprint(engine)\n```\n"  # not the line before
        "<!-- not run: -->\n```python\nprint(engine)\n```\n"  # no reason
        "<!-- not run: needs a model -->\n```python\nprint(\n```\n"
    )
    faults = [fault_of(block, tmp_path) for block in split(text)[0]]
    assert [bool(fault) for fault in faults] == [False, True, False, True, True, True]
    assert "NameError" in faults[1]
    with pytest.raises(ValueError, match="never closed"):
        split("```python\nx\n")


def test_commands_are_taken_apart():
    script = (
        "pip install . && llada-rt info  # llada-rt lies\n"
        "X=1 llada-rt chat \\\n  -m 'a b' >out\n"
        "cat x | llada-rt score\n"
    )
    commands = [["pip", "install", "."], ["llada-rt", "info"], ["llada-rt", "chat", "-m", "a b"], ["out"]]
    assert list(shell_commands(script)) == [*commands, ["cat", "x"], ["llada-rt", "score"]]
    assert alternatives("llada-rt bench latency | compare") == [["bench", "latency"], ["bench", "compare"]]
    assert alternatives("llada-rt generate|score --json") == [["generate", "--json"], ["score", "--json"]]
    assert alternatives("llada-rt infill 'a|b'") == [["infill", "a|b"]]
    text = "`llada-rt info` and `llada-rt`\n```bash\nllada-rt chat\n```\n```python\nllada-rt = 1\n```\n"
    assert list(our_commands(text)) == [(["chat"], True), (["info"], False)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("generate --preset fast --input x.txt", None),
        ("convert A B --compute-type int8", None),
        ("bench compare --kind roof", None),
        ("--version", None),
        ("convert --help", None),
        ("generate --presett fast", "No such option"),
        ("generate --preset fastest", "fastest"),
        ("convert A B --compute-type int7", "int7"),
        ("convert A", "Missing"),
        ("bench compare --kind rooff", "rooff"),
        ("bench fly", "no such command"),
        ("serve --port 0", None),
        ("serve --prot 0", "no such option"),
        ("served", "no such command"),
        ("served --help", "no such command"),
        ("--loud", "no such option"),
    ],
)
def test_a_command_that_the_parser_refuses_is_a_fault(line, fault):
    said = parse_fault(cli.app, line.split(), is_whole=True)
    assert (said is None) == (fault is None)
    assert fault is None or re.search(fault, said, re.IGNORECASE)


def test_a_name_in_a_sentence_needs_no_arguments():
    assert parse_fault(cli.app, ["convert"], is_whole=False) is None
    assert parse_fault(cli.app, ["convert"], is_whole=True)
    assert parse_fault(cli.app, ["convert", "--fast"], is_whole=False)


def test_a_program_that_is_not_there_is_a_fault():
    good = "`python -m benchmarks.bench_step --shapes m`, python -m training.pretrain x.toml; python -m benchmarks"
    assert not list(module_faults("X.md", good, FILES))
    assert list(module_faults("X.md", "python -m benchmarks.bench_stepp", FILES))
    assert list(module_faults("X.md", "python -m training.tasks.nothing", FILES))
    assert list(module_faults("X.md", "python -m benchmarks.bench_step --shape-s m", FILES))
