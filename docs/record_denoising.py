"""Records the demo model at work as an animated SVG, one frame a denoising step.

python docs/record_denoising.py docs/denoising.svg

Masks are grey, tokens coloured by the confidence with which they were committed, as
`llada-rt generate --animate` shows them.
"""

import dataclasses
import sys
from html import escape
from pathlib import Path

from llada_rt import Engine, SamplingParams
from llada_rt.outputs import StepEvent

# (caption, segments): text is fixed, a number is a hole of that many tokens.
SCENES = [
    ("the first characters of an acrostic are given", ["床", 4, "，疑", 4, "。举", 4, "，低", 4, "。"]),
    ("the line before", [5, "，夜来风雨声，花落知多少。"]),
    ("a poem with holes", ["白日", 2, "尽，黄", 3, "流。欲穷", 2, "目，更上", 2, "楼。"]),
]
CELL, LINE, TOP = 26, 44, 34
FRAME_S, HOLD_S = 0.22, 2.2
WIDTH, BACKGROUND = 780, "#101418"


def colour(confidence: float | None) -> str:
    if confidence is None:
        return "#e6edf3"
    return "#3fb950" if confidence >= 0.9 else "#d29922" if confidence >= 0.5 else "#f85149"


def frame(events: list[StepEvent], engine: Engine, y: int) -> str:
    """The canvas after the last of `events`."""
    known = {position: confidence for event in events for position, _, confidence in event.committed}
    fresh = {position for position, _, _ in events[-1].committed}
    cells = []
    for i, token in enumerate(events[-1].canvas):
        x = 24 + i * CELL
        if token == engine.mask_token_id:
            cells.append(f'<rect x="{x}" y="{y - 19}" width="{CELL - 4}" height="24" rx="3" fill="#30363d"/>')
            continue
        if i in fresh:
            cells.append(f'<rect x="{x - 2}" y="{y - 21}" width="{CELL}" height="28" rx="3" fill="#1f2d3d"/>')
        text = escape(engine.tokenizer.decode([token]))
        cells.append(f'<text x="{x}" y="{y}" fill="{colour(known.get(i))}">{text}</text>')
    return "".join(cells)


def scene_frames(engine: Engine, segments: list[str | int], y: int) -> list[str]:
    prompt = {"segments": segments}
    events = list(engine.stream(prompt, SamplingParams()))
    filled = {position for position, _, _ in events[0].committed}
    canvas = [engine.mask_token_id if i in filled else token for i, token in enumerate(events[0].canvas)]
    events.insert(0, dataclasses.replace(events[0], canvas=canvas, committed=[]))
    return [frame(events[: i + 1], engine, y) for i in range(len(events))]


def svg(engine: Engine) -> str:
    rows = [TOP + 30 + i * (LINE + 26) for i in range(len(SCENES))]
    frames = [scene_frames(engine, segments, y) for (_, segments), y in zip(SCENES, rows, strict=True)]
    total = max(map(len, frames)) * FRAME_S + HOLD_S
    height = rows[-1] + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-size="22" '
        'font-family="ui-monospace, Menlo, Consolas, Noto Sans Mono CJK SC, Noto Sans CJK SC, monospace">',
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="{BACKGROUND}"/>',
    ]
    for (caption, _), y, scene in zip(SCENES, rows, frames, strict=True):
        label = f'<text x="24" y="{y - 30}" fill="#8b949e" font-size="13">{caption} · {len(scene) - 1} steps</text>'
        parts.append(label)
        for i, picture in enumerate(scene):
            begin = i * FRAME_S / total
            end = 1.0 if i + 1 == len(scene) else (i + 1) * FRAME_S / total
            times, values = ("0;1", "1;1") if (begin, end) == (0, 1) else (f"0;{begin:.4f};{end:.4f}", "0;1;0")
            if begin == 0:
                times, values = f"0;{end:.4f}", "1;0"
            if end == 1.0:
                times, values = f"0;{begin:.4f}", "0;1"
            shown = 1 if end == 1.0 else 0  # viewers that don't animate show the result
            parts.append(
                f'<g opacity="{shown}"><animate attributeName="opacity" calcMode="discrete" dur="{total:.2f}s" '
                f'repeatCount="indefinite" keyTimes="{times}" values="{values}"/>{picture}</g>'
            )
    return "".join(parts) + "</svg>\n"


def main() -> None:
    with Engine(compute_type="float32") as engine:
        Path(sys.argv[1]).write_text(svg(engine), encoding="utf-8")


if __name__ == "__main__":
    main()
