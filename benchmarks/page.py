"""One HTML page for one report: what was found, the figure, the table, how it was counted. It needs nothing else."""

from collections.abc import Sequence
from html import escape

from benchmarks.report import Column, Report, faults

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --paper: #fff; --line: #ddd; --soft: #666; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --paper: #18181b; --line: #3a3a3f; --soft: #aaa; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } figure { margin: 1.5rem 0; background: #fff; padding: .5rem; border-radius: 6px; }
figure svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.soft { color: var(--soft); font-size: .85rem; } .fault { color: #c0392b; }
"""

COUNTING = (
    "Tokens are those of the text: before the first end token. Padding is what was written behind it.",
    "Systems answer the same questions in turn, round after round, in one process; the first round is thrown away. "
    "Figures are medians of the rounds, spread is (largest - smallest) / median.",
    "Answers are checked first; a system whose answers fail the check has no speed. It must also give the same tokens "
    "in every round.",
    "By CPU: tokens a second of processor time. Where other work takes time slices it is the steadier figure.",
    "Forwards are counted for each answer, so tokens a forward says how many tokens a forward has brought to an "
    "answer. First text is when the first position of an answer has its token.",
    "Memory is the peak of the resident set while a system was opened and first asked, above what was resident before; "
    "packages that it loads first count.",
)


def render(report: Report, columns: Sequence[Column], drawing: str) -> str:
    """`drawing`: an SVG element."""

    def items(lines: Sequence[str], kind: str = "") -> str:
        return "".join(f'<li class="{kind}">{escape(line)}</li>' for line in lines)

    head = "".join(f"<th>{escape(heading)}</th>" for heading, _ in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(row))}</td>" for _, cell in columns) + "</tr>" for row in report.rows
    )
    facts = ", ".join(f"{name} {value}" for name, value in report.environment.items())
    limits = ", ".join(f"{name} {value / 1e9:,.0f}" for name, value in report.machine.items())
    found = items(report.findings) + items(faults(report.rows), "fault") + items(report.skipped, "soft")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.title)}</title><style>{STYLE}</style></head><body>
<h1>{escape(report.title)}</h1>
<p class="soft">{escape(facts)}{"<br>measured limits, 1e9 a second: " + escape(limits) if limits else ""}</p>
<ul>{found}</ul>
<figure>{drawing}</figure>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>
<h2>How it was counted</h2><ul class="soft">{items(COUNTING)}</ul>
</body></html>
"""
