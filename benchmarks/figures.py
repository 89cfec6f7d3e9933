"""Figures of reports: a PNG, and an SVG that the page holds. One function for each kind of report.

A ring is around every point that is noisy (noise.py). Legends stand below the axes, where they hide no point.
"""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.noise import MOST_FOREIGN, MOST_SPREAD, doubts
from benchmarks.report import Report, Row, is_ours

# Colours that are told apart by any eye (Okabe and Ito), by what computes.
COLOURS = {
    "int8": "#d55e00",
    "bfloat16": "#0072b2",
    "float32": "#009e73",
    "llama.cpp": "#000000",
    "torch": "#cc79a7",
    "transformers": "#e69f00",
}
OTHER = "#777777"
MARKERS = "ovPX*<>^"  # of others that share a colour
NOISY = f"noisy: differs by over {MOST_SPREAD:.0%}, or others took over {MOST_FOREIGN:.0%} of the processors"


def colour_of(row: Row) -> str:
    """Ours by compute type, the others by package."""
    if is_ours(row) and row["setting"].get("compute_type") in COLOURS:
        return COLOURS[row["setting"]["compute_type"]]
    return next((colour for name, colour in COLOURS.items() if row["system"].startswith(name)), OTHER)


def timed(rows: Iterable[Row]) -> list[Row]:
    """Those with a speed: no others are drawn."""
    return [row for row in rows if row["tokens_per_s"]]


def groups(rows: Iterable[Row], name: str) -> dict[Any, list[Row]]:
    """By a setting, in the order they come."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row["setting"].get(name), []).append(row)
    return found


def panels(count: int, *, width: float = 5.0, height: float = 3.9) -> tuple[Figure, list[Axes]]:
    across = min(count, 3)
    down = -(-count // across)
    figure, axes = pyplot.subplots(
        down, across, figsize=(width * across, height * down), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axisbelow(True)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def plain_log(axis: Axes, *which: str) -> None:
    """Logarithmic, with numbers as people write them."""
    for name in which:
        getattr(axis, f"set_{name}scale")("log")
        along = getattr(axis, f"{name}axis")
        along.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        along.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.10g}"))
        along.set_minor_formatter(ticker.NullFormatter())


def legend(axis: Axes, columns: int = 2) -> None:
    """Below the axis, whatever is drawn there; nothing where nothing has a name."""
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=7, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False)


def ring(axis: Axes, points: Iterable[tuple[float, float, Row]], *, is_named: bool = True) -> None:
    """Around those of the (x, y, row) that are noisy."""
    noisy = [(x, y) for x, y, row in points if doubts(row)]
    if noisy:
        axis.plot(
            *zip(*noisy, strict=True),
            marker="o",
            linestyle="none",
            fillstyle="none",
            color="#cc0000",
            markersize=11,
            markeredgewidth=0.8,
            label=NOISY if is_named else None,
        )


def markers(rows: Iterable[Row]) -> dict[str, str]:
    """System -> marker: those that share a colour get one each."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        own = found.setdefault(colour_of(row), {})
        own.setdefault(row["system"], MARKERS[len(own) % len(MARKERS)])
    return {system: marker for own in found.values() for system, marker in own.items()}


def draw_bars(report: Report) -> Figure:
    """Tokens a second of each system; the whisker is the spread."""
    rows = timed(report.rows)
    figure, (axis,) = panels(1, width=8.0, height=1.2 + 0.36 * max(len(rows), 1))
    for place, row in enumerate(reversed(rows)):
        speed = row["tokens_per_s"]
        axis.barh(place, speed, xerr=speed * row["spread"] / 2, color=colour_of(row), ecolor="#444444", height=0.7)
    ring(axis, [(row["tokens_per_s"], place, row) for place, row in enumerate(reversed(rows))])
    legend(axis)
    labels = [f"{row['system']}, batch {row['batch']}" if row["batch"] > 1 else row["system"] for row in rows]
    axis.set_yticks(range(len(rows)), labels[::-1], fontsize=8)
    axis.set_xlabel("tokens a second")
    return figure


def draw_fixed_work(report: Report) -> Figure:
    """Tokens a second against tokens committed a step; an ARM is a level line, which ours crosses at the break-even."""
    shapes = groups(timed(report.rows), "shape")
    figure, axes = panels(max(len(shapes), 1), width=5.6, height=4.8)
    for axis, (shape, rows) in zip(axes, shapes.items(), strict=False):
        lines: dict[str, list[Row]] = {}
        for row in rows:
            if row["kind"] == "arm":
                axis.axhline(row["tokens_per_s"], color=colour_of(row), linestyle="--", linewidth=1)
                right: dict[str, Any] = {
                    "xycoords": ("axes fraction", "data"),
                    "ha": "right",
                    "fontsize": 7,
                    "va": "bottom",
                }
                name = row["system"] + ("  (noisy)" if doubts(row) else "")
                axis.annotate(name, (1.0, row["tokens_per_s"]), color=colour_of(row), **right)
            else:
                lines.setdefault(f"{row['system'].split(' ')[0]} {row['setting'].get('line', '')}", []).append(row)
        marked = markers(row for line in lines.values() for row in line if not is_ours(row))
        for label, line in lines.items():
            points = sorted((row["setting"]["tokens_per_step"], row["tokens_per_s"]) for row in line)
            marker = marked.get(line[0]["system"], "o")
            axis.plot(*zip(*points, strict=True), f"{marker}-", color=colour_of(line[0]), markersize=5, label=label)
        of_lines = [row for line in lines.values() for row in line]
        ring(axis, [(row["setting"]["tokens_per_step"], row["tokens_per_s"], row) for row in of_lines])
        plain_log(axis, "y")
        axis.set_xscale("log", base=2)
        axis.set_xticks([1, 2, 3, 4, 8], ["1", "2", "3", "4", "8"])
        axis.set_title(f"shape {shape}, random weights, batch 1", fontsize=10)
        axis.set_xlabel("tokens committed a step (an ARM: one)")
        axis.set_ylabel("tokens a second")
        legend(axis)
    return figure


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (speed, share right) pairs that no other beats in both, by speed."""
    best: list[tuple[float, float]] = []
    for speed, share in sorted(points, reverse=True):
        if not best or share > best[-1][1]:
            best.append((speed, share))
    return best[::-1]


def draw_matched_quality(report: Report) -> Figure:
    """Share answered exactly against tokens a second, a panel for each pair; the line joins ours that none beats."""
    pairs = groups(timed(report.rows), "pair")
    figure, axes = panels(max(len(pairs), 1), width=6.4, height=6.4)
    for axis, (pair, rows) in zip(axes, pairs.items(), strict=False):
        ours = [row for row in rows if is_ours(row)]
        marked = markers(row for row in rows if not is_ours(row))
        labelled: set[str] = set()
        for row in rows:
            label = f"ours, {row['setting'].get('compute_type', '')}" if is_ours(row) else row["system"]
            axis.plot(
                row["tokens_per_s"],
                100 * row["share_right"],
                marker="o" if is_ours(row) else marked[row["system"]],
                markersize=5 if is_ours(row) else 8,
                linestyle="none",
                color=colour_of(row),
                fillstyle="full" if row["kind"] == "mdm" else "none",
                label=None if label in labelled else label,
            )
            labelled.add(label)
        ring(axis, [(row["tokens_per_s"], 100 * row["share_right"], row) for row in rows])
        for place, ((speed, share), (label, colour)) in enumerate(_labels(ours).items()):
            above = (3, 7 + 8 * (place % 3)) if place % 2 else (3, -12 - 8 * (place % 3))
            axis.annotate(label, (speed, share), fontsize=7, xytext=above, textcoords="offset points", color=colour)
        front = pareto([(row["tokens_per_s"], 100 * row["share_right"]) for row in ours])
        if front:
            axis.plot(*zip(*front, strict=True), color=OTHER, linewidth=1, zorder=0)
        plain_log(axis, "x")
        lowest = min(100 * row["share_right"] for row in rows)
        room = max(1.0, 0.1 * (100 - lowest))
        axis.set_ylim(lowest - 1.5 * room, 100 + 1.5 * room)
        axis.set_yticks([tick for tick in axis.get_yticks() if lowest - 1.5 * room <= tick <= 100])
        axis.set_xlabel("tokens of text a second, batch 1; hollow: an ARM")
        axis.set_ylabel("answered exactly, %")
        axis.set_title(f"{pair}: {rows[0]['setting'].get('about', '')}", fontsize=10)
        legend(axis, 3)
    return figure


def _labels(rows: Sequence[Row]) -> dict[tuple[float, float], tuple[str, str]]:
    """Where to write the names of presets: those whose points would cover each other share a label."""
    found: dict[tuple[float, float], tuple[str, str]] = {}
    for row in rows:
        if not row["setting"].get("label"):
            continue
        speed, share, colour = row["tokens_per_s"], 100 * row["share_right"], colour_of(row)
        near = [at for at, (_, c) in found.items() if c == colour and at[1] == share and 0.6 < at[0] / speed < 1.6]
        if near:
            found[near[0]] = f"{found[near[0]][0]}, {row['setting']['label']}", colour
        else:
            found[speed, share] = row["setting"]["label"], colour
    return found


def draw_roof(report: Report) -> Figure:
    """Share of what the machine can do that each system reaches."""
    rows = [row for row in timed(report.rows) if row.get("share_of_roof")]
    figure, (axis,) = panels(1, width=8.0, height=1.2 + 0.36 * max(len(rows), 1))
    for place, row in enumerate(reversed(rows)):
        axis.barh(place, 100 * row["share_of_roof"], color=colour_of(row), height=0.7)
        axis.annotate(
            f" {row['bound']}" + (", noisy" if doubts(row) else ""),
            (100 * row["share_of_roof"], place),
            fontsize=7,
            va="center",
        )
    axis.set_yticks(range(len(rows)), [f"{row['setting']['shape']}: {row['system']}" for row in rows[::-1]], fontsize=8)
    axis.set_xlabel("% of the cost model's ceiling on this machine's measured limits")
    return figure


def draw_scaling(report: Report) -> Figure:
    """A panel for each thing that is varied: measured points, the cost model dashed at the same scale."""
    by_axis = groups(timed(report.rows), "axis")
    figure, axes = panels(max(len(by_axis), 1), width=4.6, height=4.4)
    for axis, (name, rows) in zip(axes, by_axis.items(), strict=False):
        marked = markers(rows)
        for system, line in _by_system(rows).items():
            line = sorted(line, key=lambda row: row["setting"]["value"])
            values = [row["setting"]["value"] for row in line]
            speeds = [row["tokens_per_s"] for row in line]
            colour = colour_of(line[0])
            axis.plot(values, speeds, f"{marked[system]}-", color=colour, markersize=5, label=system)
            model = [speed for row in line if (speed := row.get("model_tokens_per_s"))]
            if len(model) == len(line):
                axis.plot(values, model, ":", color=colour, linewidth=1.2)
        ring(axis, [(row["setting"]["value"], row["tokens_per_s"], row) for row in rows], is_named=False)
        plain_log(axis, "y")
        axis.set_xscale("log", base=2)
        values = sorted({row["setting"]["value"] for row in rows})
        axis.set_xticks(values, [str(value) for value in values])
        axis.set_title(f"{name.replace('_', ' ')}", fontsize=10)
        axis.set_ylabel("tokens a second")
        legend(axis)
    rings = f"; a ring: {NOISY}" if any(doubts(row) for row in timed(report.rows)) else ""
    figure.suptitle(f"measured, and dotted the cost model's ceiling{rings}", fontsize=9)
    return figure


def draw_waits(report: Report) -> Figure:
    """How long requests waited: the share of them that had waited no longer."""
    figure, axes = panels(2)
    for axis, name, title in zip(axes, ("first_text_waits_s", "total_waits_s"), ("first text", "all"), strict=True):
        for row in report.rows:
            waits = sorted(row.get(name) or [])
            shares = [(index + 1) / len(waits) for index in range(len(waits))]
            axis.step(waits, shares, where="post", color=colour_of(row), label=row["system"])
        axis.set_xlabel("seconds since the request was due")
        axis.set_ylabel("share of requests")
        axis.set_title(title, fontsize=10)
        legend(axis)
    return figure


def _by_system(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["system"], []).append(row)
    return found


DRAWINGS: Mapping[str, Callable[[Report], Figure]] = {
    "latency": draw_bars,
    "throughput": draw_bars,
    "serve-trace": draw_waits,
    "fixed-work": draw_fixed_work,
    "matched-quality": draw_matched_quality,
    "roof": draw_roof,
    "scaling": draw_scaling,
}


def draw(report: Report) -> Figure:
    return DRAWINGS[report.bench](report)


def svg(figure: Figure) -> str:
    """Inline, without the XML preamble; text is paths, so no font is needed."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
