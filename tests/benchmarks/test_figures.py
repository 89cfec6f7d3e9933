"""Figures and the page of every kind of report, from rows made by hand."""

import pytest
from matplotlib import pyplot

from benchmarks.cli import COMPARISONS
from benchmarks.cost_model import Work
from benchmarks.figures import DRAWINGS, draw, pareto, svg
from benchmarks.page import render
from benchmarks.report import COLUMNS, Report
from benchmarks.roof import annotate

LIMITS = {"float32": 4e11, "bfloat16": 9e11, "int8": 1.8e12, "read": 4e10}
SETTINGS = {
    "fixed-work": {"shape": "s", "tokens_per_step": 4, "line": "int8", "cache": "dual"},
    "matched-quality": {"pair": "verse", "about": "lines", "label": "fast"},
    "roof": {"shape": "s", "tokens_per_step": 4, "line": "int8", "cache": "dual"},
    "scaling": {"shape": "s", "axis": "batch", "value": 4, "tokens_per_step": 4, "cache": "dual"},
}


def row(system: str, kind: str, speed: float | None, **setting) -> dict:
    waits = {"p50": 0.1, "p90": 0.2, "p99": 0.3}
    return {
        "system": system,
        "kind": kind,
        "setting": setting,
        "questions": 1,
        "batch": 1,
        "rounds": 3,
        "right": 1,
        "judged": 1,
        "share_right": 0.9,
        "check": None if speed else "broken & <odd>",
        "partial": None,
        "tokens": 100,
        "tokens_per_s": speed,
        "tokens_per_forward": 4.0,
        "tokens_per_cpu_s": speed,
        "wall_s": speed and 100 / speed,
        "spread": 0.1,
        "nfe": 25,
        "padding_share": 0.5,
        "first_text_s": waits,
        "latency_s": waits,
        "memory_bytes": 2**20,
        "first_text_waits_s": [0.1, 0.2],
        "total_waits_s": [0.2, 0.3],
    }


def report(bench: str) -> Report:
    setting = SETTINGS.get(bench, {})
    rows = [
        row("ours int8 fast", "mdm", 500.0, compute_type="int8", **setting),
        row("ours bfloat16", "mdm", 300.0, compute_type="bfloat16", **setting | {"label": None}),
        row("llama.cpp-q8_0", "arm", 400.0, type="q8_0", **setting | {"label": None}),
        row("torch", "arm", None, type="bfloat16", **setting),
    ]
    made = Report(bench, f"A report of {bench}", {"cpu": "a <cpu>"}, LIMITS, rows=rows, findings=["1 < 2"])
    if bench in ("roof", "scaling"):
        for each in rows:
            annotate(each, LIMITS, Work(64, 100, 50, masked_head=True))
    return made


@pytest.mark.parametrize("bench", DRAWINGS)
def test_a_figure_and_a_page(bench):
    made = report(bench)
    figure = draw(made)
    drawing = svg(figure)
    pyplot.close(figure)
    columns = COMPARISONS[bench][1] if bench in COMPARISONS else COLUMNS
    page = render(made, columns, drawing)
    assert drawing.startswith("<svg")
    assert page.count("<svg") == 1
    assert "a &lt;cpu&gt;" in page
    assert "1 &lt; 2" in page
    assert "check failed, no speed: broken &amp; &lt;odd&gt;" in page
    assert page.count("<tr>") == 5


@pytest.mark.parametrize("bench", DRAWINGS)
def test_a_figure_without_any_speed(bench):
    made = report(bench)
    made.rows = [each for each in made.rows if not each["tokens_per_s"]]
    for each in made.rows:
        each |= {"first_text_waits_s": None, "total_waits_s": None}
    pyplot.close(draw(made))


def test_share_of_the_roof():
    ours, _, q8, failed = report("roof").rows
    assert 0 < ours["share_of_roof"] < 1
    assert ours["bytes"] < 2 * ours["operations"]
    assert q8["bytes"] > 100 * 27e6  # so many tokens, each of which reads all weights
    assert failed["share_of_roof"] is None


def test_what_no_other_beats():
    assert pareto([(1, 90), (2, 95), (3, 80), (2.5, 70), (4, 80)]) == [(2, 95), (4, 80)]
    assert pareto([]) == []
