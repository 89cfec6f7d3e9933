"""Markdown as the tests of the documents read it: links, anchors, Python blocks, command lines."""

import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any
from urllib.parse import unquote

import typer

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = {"build", "data", "dist", "flight", "runs"}  # folders of the root that git ignores

FENCE = re.compile(r"^( {0,3})(`{3,}|~{3,})\s*(\S*)")
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")
CODE_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*$")
TARGETS = (
    re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)"),  # [text](target), ![text](target)
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE),  # [name]: target
    re.compile(r"\b(?:src|href)=\"([^\"]+)\""),
)
ELSEWHERE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)  # an address with a scheme
ANCHOR = re.compile(r"\bid=\"([^\"]+)\"")
PATH_OF_A_MACHINE = re.compile(
    r"(?<![\w.~}/-])/(?:home|root|work|tmp|mnt|media|opt|srv|usr|var|scratch|Users|Volumes)/[\w.-]|\b[A-Z]:\\\w"
)
MODULE = re.compile(r"\bpython3? -m ((?:benchmarks|training)(?:\.[a-z_]\w*)*)([^\n`#|&]*)")


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between two fences."""

    language: str
    text: str
    line: int  # of its first fence, from 1
    is_marked: bool  # <!-- not run: why --> is the line before


def tracked_files() -> set[str]:
    """Paths of what git tracks or would add; in an unpacked source distribution those of all its files."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return {name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return {
        path.as_posix()
        for path in found
        if path.parts[0] not in NOT_SOURCES and not any(part.startswith(".") for part in path.parts)
    }


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---------------------------------------------------------------- parts of a document


def split(text: str) -> tuple[list[Block], str]:
    """The fenced blocks, and the text with these left empty, line for line."""
    blocks, prose, body = [], [], None
    opened = (0, "", "", False)  # line, fence, language, is_marked
    before = ""
    for number, line in enumerate(text.split("\n"), 1):
        fence = FENCE.match(line)
        if body is None and fence:
            opened = (number, fence[2], fence[3], bool(NOT_RUN.match(before.strip())))
            body = []
        elif body is not None and fence and fence[2].startswith(opened[1]) and not fence[3]:
            blocks.append(Block(opened[2], "\n".join(body) + "\n", opened[0], opened[3]))
            body = None
        elif body is not None:
            body.append(line)
        prose.append(line if body is None and not fence else "")
        before = line
    if body is not None:
        raise ValueError(f"line {opened[0]}: a fence that is never closed")
    return blocks, "\n".join(prose)


def blank(match: re.Match[str]) -> str:
    """The same number of lines, with nothing on them."""
    return "\n" * match[0].count("\n")


def links(text: str) -> list[str]:
    """Targets of links and images."""
    prose = CODE_SPAN.sub(blank, COMMENT.sub(blank, split(text)[1]))
    return [target for pattern in TARGETS for target in pattern.findall(prose)]


def code_spans(text: str) -> list[str]:
    prose = COMMENT.sub(blank, split(text)[1])
    return [" ".join(found[1].split()) for found in CODE_SPAN.findall(prose)]


def anchors(text: str) -> set[str]:
    """What a link may name behind its #: the headings as GitHub writes them, and ids."""
    prose = split(text)[1]
    counts: Counter[str] = Counter()
    names = set(ANCHOR.findall(prose))
    for line in prose.split("\n"):
        if heading := HEADING.match(line):
            title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            name = re.sub(r"[^\w\- ]", "", title).replace(" ", "-")
            names.add(f"{name}-{counts[name]}" if counts[name] else name)
            counts[name] += 1
    return names


# ---------------------------------------------------------------- what is wrong with them


def link_faults(name: str, text: str, files: set[str]) -> Iterator[str]:
    """Links and images of the document `name` that lead nowhere."""
    folders = {str(parent) for file in files for parent in PurePosixPath(file).parents}
    for target in links(text):
        if ELSEWHERE.match(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        if path.startswith("/"):
            yield f"{name}: {target}: expected a path from the document's folder, got an absolute one"
            continue
        found = normpath(PurePosixPath(name).parent / path) if path else name
        if found not in files and found not in folders:
            yield f"{name}: {target}: no such file"
        elif anchor and not found.endswith(".md"):
            yield f"{name}: {target}: an anchor in a file that is no document"
        elif anchor and anchor not in anchors(text if found == name else read(found)):
            yield f"{name}: {target}: no such heading"


def path_faults(name: str, text: str) -> Iterator[str]:
    """Lines that name a folder of some machine."""
    for number, line in enumerate(text.split("\n"), 1):
        if PATH_OF_A_MACHINE.search(line):
            yield f"{name}:{number}: an absolute path of a machine: {line.strip()[:100]}"


# ---------------------------------------------------------------- command lines


def shell_commands(script: str) -> Iterator[list[str]]:
    """The words of every command on a line that names llada-rt; pipes and lists taken apart, comments left out."""
    for line in script.replace("\\\n", " ").split("\n"):
        if "llada-rt" not in line:
            continue  # a block without a language may be a drawing
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;<>()"):
                while command and re.match(r"^\w+=", command[0]):  # NAME=value before it
                    command.pop(0)
                if command:
                    yield command
                command = []
            else:
                command.append(word)


def our_commands(text: str) -> Iterator[tuple[list[str], bool]]:
    """The words behind every `llada-rt` of a document, and whether all that the command needs must be there: in a
    block of commands it must, in a sentence the name may stand alone.
    """
    for block in split(text)[0]:
        if block.language in ("", "bash", "sh", "console"):
            yield from ((words[1:], True) for words in shell_commands(block.text) if words[0] == "llada-rt")
    for span in code_spans(text):
        if span.startswith("llada-rt "):
            yield from ((words, False) for words in alternatives(span))


def alternatives(span: str) -> list[list[str]]:
    """The words behind llada-rt, a list for each of `llada-rt bench latency | compare`, `llada-rt generate|score`."""
    words = shlex.split(re.sub(r"\s*\|\s*", "|", span))[1:]
    at = 1 if words[0] == "bench" and len(words) > 1 else 0
    return [[*words[:at], choice, *words[at + 1 :]] for choice in words[at].split("|")]


def parse_fault(app: typer.Typer, words: Sequence[str], *, is_whole: bool) -> str | None:
    """What the parser of a command line has against the words, None if it takes them. Nothing is run."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("llada-rt", [], resilient_parsing=True)
    if not words or words[0].startswith("-"):
        known = {option for parameter in group.get_params(context) for option in parameter.opts}
        return None if set(words[:1]) <= known else f"no such option: {words[0]}"
    name, rest = words[0], list(words[1:])
    command = group.get_command(context, name)
    if command is None:
        return f"no such command: {name}"
    if name == "bench":
        from benchmarks.cli import app as bench

        return parse_fault(bench, rest, is_whole=is_whole)
    if {"-h", "--help"} & set(rest):
        return None
    try:
        command.make_context(name, rest, parent=context)
    except Exception as error:
        if not hasattr(error, "format_message"):  # what typer's parser raises has one
            raise
        if is_whole or type(error).__name__ != "MissingParameter":
            return f"{type(error).__name__}: {error.format_message()}"
    return None


def module_faults(name: str, text: str, files: Iterable[str]) -> Iterator[str]:
    """`python -m benchmarks.x --option`: modules that are not there, options that no program of benchmarks/ has."""
    sources = None
    for module, rest in MODULE.findall(text):
        path = module.replace(".", "/")
        if not {f"{path}.py", f"{path}/__main__.py"} & set(files):
            yield f"{name}: python -m {module}: no such program"
        if path.startswith("benchmarks"):
            sources = sources or "".join(read(file) for file in files if re.match(r"benchmarks/(gpu/)?\w+\.py$", file))
            for option in re.findall(r"--[a-z][a-z-]*", rest):
                if f'"{option.replace("--no-", "--")}"' not in sources:
                    yield f"{name}: python -m {module} {option}: no such option"
