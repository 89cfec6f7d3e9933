"""The figure of a run, an SVG written by hand: speed to the right, quality upwards, an interval through each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from .report import TuneReport, TuneRow

Scale = Callable[[float], float]

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 56
CHARACTER = 6.2  # width of a letter, about
# Colours that are told apart by any eye (Okabe and Ito).
EXACT, FINAL, CHOSEN, DROPPED, INK = "#000000", "#0072b2", "#d55e00", "#bbbbbb", "#444444"


def draw(report: TuneReport) -> str:
    """An SVG document."""
    rows = [row for row in report.rows if row.tokens_per_s > 0]
    exact = report.rows[0]
    top_speed = 1.08 * max((row.tokens_per_s for row in rows), default=1.0)
    lowest = min([*(row.low for row in rows if row.state == "final"), report.keep * exact.right])
    floor = max(0.0, math.floor(20 * (lowest - 0.02)) / 20)

    def x(speed: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * speed / top_speed

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (max(share, floor) - floor) / (1 - floor)

    share_of = "kept" if report.quality == "agreement" else "right"
    parts = [*_axes(x, y, top_speed, floor, f"answers {share_of}, %")]
    least = report.keep * exact.right
    parts.append(_segment(LEFT, y(least), WIDTH - RIGHT, y(least), CHOSEN, dash="5 4"))
    parts.append(_text(WIDTH - RIGHT, y(least) + 13, f"floor {least:.1%}", CHOSEN, anchor="end"))
    best = sorted((row for row in rows if row.on_front), key=lambda row: row.tokens_per_s)
    points = " ".join(f"{x(row.tokens_per_s):.1f},{y(row.right):.1f}" for row in best)
    parts.append(f'<polyline points="{points}" fill="none" stroke="{FINAL}" stroke-width="1"/>')
    for row in sorted(rows, key=lambda row: (row.state == "final", row == report.chosen)):
        parts += _point(row, report, x(row.tokens_per_s), y(row.low), y(row.right), y(row.high))
    parts += _labels([*best, *(row for row in (exact, report.chosen) if not row.on_front)], report, x, y)
    parts.append(_text(LEFT, 22, f"chosen: {report.chosen.name}", CHOSEN, size=13))
    parts.append(_text(WIDTH - RIGHT, 22, "grey: dropped on the way, asked less", INK, anchor="end"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="#ffffff"/>\n'
        f"{body}\n</svg>\n"
    )


def _axes(x: Scale, y: Scale, top_speed: float, floor: float, label: str) -> list[str]:
    parts = []
    for speed in ticks(0, top_speed):
        parts.append(_segment(x(speed), TOP, x(speed), HEIGHT - BOTTOM, "#eeeeee"))
        parts.append(_text(x(speed), HEIGHT - BOTTOM + 16, f"{speed:,g}", INK, anchor="middle"))
    for share in ticks(100 * floor, 100):
        parts.append(_segment(LEFT, y(share / 100), WIDTH - RIGHT, y(share / 100), "#eeeeee"))
        parts.append(_text(LEFT - 6, y(share / 100) + 4, f"{share:g}", INK, anchor="end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "tokens of text a second", INK, anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'<g transform="rotate(-90 16 {middle})">{_text(16, middle, label, INK, anchor="middle")}</g>'
    return [*parts, turned]


def _point(row: TuneRow, report: TuneReport, x: float, low: float, at: float, high: float) -> list[str]:
    is_exact = row is report.rows[0]
    colour = CHOSEN if row == report.chosen else EXACT if is_exact else FINAL if row.state == "final" else DROPPED
    title = f"<title>{escape(f'{row.name}: {row.right:.1%} of {row.asked}, {row.tokens_per_s:,.1f} tokens/s')}</title>"
    bar = [_segment(x, low, x, high, colour)] if row.state == "final" else []
    radius = 6 if row == report.chosen else 4 if row.state == "final" else 2.5
    return [*bar, f'<circle cx="{x:.1f}" cy="{at:.1f}" r="{radius}" fill="{colour}">{title}</circle>']


def _labels(rows: Sequence[TuneRow], report: TuneReport, x: Scale, y: Scale) -> list[str]:
    """The names, to the left of points in the right half; one that would cover another is moved down."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []  # from where to where a line of text goes, and how high
    for row in rows:
        is_right = x(row.tokens_per_s) > WIDTH / 2
        at = x(row.tokens_per_s) + (-9 if is_right else 9)
        height = y(row.right) - 7
        length = CHARACTER * len(row.name)
        begin, end = (at - length, at) if is_right else (at, at + length)
        while any(begin < stop and start < end and abs(height - beside) < 12 for start, stop, beside in taken):
            height += 12
        taken.append((begin, end, height))
        colour = CHOSEN if row == report.chosen else INK
        parts.append(_text(at, height, row.name, colour, anchor="end" if is_right else "start"))
    return parts


def ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers of a range."""
    rough = (high - low) / 7
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [
        round(step * index, 10) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def _segment(x0: float, y0: float, x1: float, y1: float, colour: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{colour}"{dashed}/>'


def _text(x: float, y: float, text: str, colour: str, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}" '
        f'paint-order="stroke" stroke="#ffffff" stroke-width="3">{escape(text)}</text>'
    )
