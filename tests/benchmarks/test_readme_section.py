"""The documents say what the stored results say, and a statement stands where its number puts it."""

import subprocess

import pytest

from benchmarks import readme_section, recording
from benchmarks.harness import ROOT
from benchmarks.readme_section import BEGIN, END, details, replaced, section
from benchmarks.recording import rounded
from benchmarks.report import Report, load_report
from tests.benchmarks.test_figures import LIMITS, SETTINGS, row

ENVIRONMENT = {"date": "2026-11-21T21:00:00", "commit": "abc", "cpu": "a cpu", "threads": 2, "table": "t", "load": 0.1}


def quality(fast: float, exact: float, arm: float) -> Report:
    setting = SETTINGS["matched-quality"]
    rows = [
        row("ours int8 fast", "mdm", fast, compute_type="int8", **setting),
        row("ours int8 reference", "mdm", exact, compute_type="int8", **setting),
        row("ours float32 reference", "mdm", exact / 2, compute_type="float32", **setting),
        row("llama.cpp-q8_0", "arm", arm / 2, type="q8_0", **setting),
        row("llama.cpp-q8_0@1", "arm", arm, type="q8_0", **setting),
        row("torch", "arm", None, type="bfloat16", **setting),
    ]
    return Report("matched-quality", "", ENVIRONMENT, LIMITS, rows=rows, findings=["target, verse: met"])


def fixed(one: float, four: float, arm: float) -> Report:
    rows = [
        row(f"ours int8 k={k}", "mdm", speed, **SETTINGS["fixed-work"] | {"tokens_per_step": k})
        for k, speed in ((1, one), (4, four))
    ]
    rows.append(row("torch", "arm", arm, **SETTINGS["fixed-work"]))
    return Report("fixed-work", "", ENVIRONMENT, LIMITS, rows=rows, findings=["break-even 1.7"])


def part(lines: list[str], heading: str) -> str:
    text = "\n".join(lines)
    return text.partition(f"**{heading}**")[2].partition("\n**")[0]


def test_what_is_won_and_what_is_lost():
    lines = section({"matched-quality": quality(500, 100, 200), "fixed-work": fixed(80, 300, 160)})
    won, lost = part(lines, "Won"), part(lines, "Lost")
    assert "verse: ours int8 fast runs at 2.50 times the speed of the ARM in llama.cpp q8_0, 1 thread" in won
    assert "verse: ours int8 reference runs at 0.50 times" in lost
    assert "int8 with 1 token a step runs at 0.50 times" in lost
    assert "int8 with 4 tokens a step runs at 1.88 times" in won
    text = "\n".join(lines)
    assert "* target, verse: met" in text
    assert "* break-even 1.7" in text
    assert "ARM in torch |" not in text.partition("Random weights")[0]  # its check has failed: no speed


def test_a_loss_moves_with_the_number():
    lines = section({"matched-quality": quality(100, 100, 200)})
    assert "ours int8 fast runs at 0.50 times" in part(lines, "Lost")
    assert "ours int8 fast runs at 0.50 times" not in part(lines, "Won")


def test_nothing_recorded():
    assert section({}) == [readme_section.MISSING]
    assert "Not measured" in "\n".join(details({}))


def test_only_what_is_between_the_markers_is_replaced():
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    made = replaced(text, ["new"], ROOT)
    assert made == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    assert replaced(made, ["new"], ROOT) == made
    for broken in ("no markers", BEGIN, f"{END}{BEGIN}", text + text):
        with pytest.raises(ValueError, match="expected"):
            replaced(broken, ["new"], ROOT)


def test_the_documents_are_what_the_results_say(monkeypatch):
    monkeypatch.setattr("sys.argv", ["readme_section", "--check"])
    readme_section.main()


@pytest.mark.parametrize(
    ("document", "path"), [("PERFORMANCE", "docs/performance.md"), ("DETAILS", "benchmarks/RESULTS.md")]
)
def test_a_stale_document_is_noticed(monkeypatch, tmp_path, document, path):
    assert getattr(readme_section, document) == ROOT / path
    stale = tmp_path / "STALE.md"
    stale.write_text(f"{BEGIN}\nof before\n{END}\n")
    monkeypatch.setattr(readme_section, document, stale)
    monkeypatch.setattr("sys.argv", ["readme_section", "--check"])
    with pytest.raises(SystemExit, match=r"STALE\.md: not what the results say"):
        readme_section.main()
    assert "of before" in stale.read_text()
    monkeypatch.setattr("sys.argv", ["readme_section"])
    readme_section.main()
    assert "of before" not in stale.read_text()


def test_stored_floats_are_short():
    assert rounded({"a": [1.23456789, 2], "b": (0.1,), "c": None}) == {"a": [1.2346, 2], "b": [0.1], "c": None}


def test_a_recorded_part_is_kept_until_the_code_changes(tmp_path, monkeypatch):
    path = tmp_path / "roof.json"
    assert not recording.is_recorded(path)
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        pytest.skip("not a git checkout")
    asked = []
    monkeypatch.setattr(recording.subprocess, "run", lambda command, **_: asked.append(command) or done(0))
    Report("roof", "", ENVIRONMENT | {"commit": "abc+"}).save(tmp_path, lines=False)
    assert load_report(path).environment["commit"] == "abc+"
    assert recording.is_recorded(path)
    assert "abc" in asked[0]
    monkeypatch.setattr(recording.subprocess, "run", lambda command, **_: done(1))
    assert not recording.is_recorded(path)


def done(code: int) -> subprocess.CompletedProcess:
    return subprocess.CompletedProcess([], code)
