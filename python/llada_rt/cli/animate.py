"""The canvas in the terminal while it is being filled: masks grey, tokens coloured by their confidence."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..outputs import RequestOutput, StepEvent
from ..text.tokenizer import Tokenizer

MASK_GLYPH = "░"
# Lower bound of the confidence, colour.
COLOURS = ((0.9, "green"), (0.5, "yellow"), (0.0, "red"))


def printable(text: str) -> str:
    """Text that cannot command a terminal: control characters but newline and tab are replaced."""
    return "".join(
        "\ufffd" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char
        for char in text
        if unicodedata.category(char) != "Cf" or char in "\u200c\u200d"
    )


def style_of(confidence: float | None) -> str:
    """Colour of a token; a fixed one has none. Scores that are no probabilities (entropy) are below every bound."""
    if confidence is None:
        return ""
    return next((colour for bound, colour in COLOURS if confidence >= bound), "red")


class CanvasView:
    """What is known of one canvas: its tokens, and with what confidence and how recently each was committed."""

    def __init__(self, tokenizer: Tokenizer | None, mask_id: int) -> None:
        self._tokenizer = tokenizer
        self._mask_id = mask_id
        self._confidence: dict[int, float] = {}
        self._texts: dict[int, str] = {}
        self._glyph = MASK_GLYPH

    def before(self, event: StepEvent) -> Text:
        """The response as it was before the first step."""
        # A mask is as wide as most characters around it, so that the line does not move while it is filled.
        given = "".join(self._text(token) for token in event.canvas if token != self._mask_id)
        self._glyph = MASK_GLYPH * (2 if cell_len(given) > 1.3 * len(given) else 1)
        canvas = list(event.canvas)
        for position, _, _ in event.committed:
            canvas[position] = self._mask_id
        return self._draw(canvas, event.prompt_length, set())

    def show(self, event: StepEvent) -> Text:
        """The response as it stands, what the last step committed in bold."""
        self._confidence |= {position: confidence for position, _, confidence in event.committed}
        return self._draw(event.canvas, event.prompt_length, {position for position, _, _ in event.committed})

    def _draw(self, canvas: list[int], start: int, fresh: set[int]) -> Text:
        view = Text()
        for position, token in enumerate(canvas[start:], start):
            if token == self._mask_id:
                view.append(self._glyph, style="grey42")
            else:
                style = style_of(self._confidence.get(position))
                view.append(self._text(token), style=f"bold reverse {style}" if position in fresh else style)
        return view

    def final(self, output: RequestOutput) -> Text:
        """The returned text in its colours, where it can be put together from single tokens; plain otherwise."""
        completion = output.outputs[0]
        view = Text()
        for position, token in enumerate(completion.token_ids, len(output.prompt_token_ids)):
            view.append(self._text(token), style=style_of(self._confidence.get(position)))
        return view if view.plain == printable(completion.text) else Text(printable(completion.text))

    def _text(self, token: int) -> str:
        if token not in self._texts:
            # Special tokens leave no text, as in the result.
            text = self._tokenizer.decode([token]) if self._tokenizer else f"{token} "
            self._texts[token] = printable(text)
        return self._texts[token]


def play(events: Iterable[StepEvent], view: CanvasView, console: Console, *, frame_seconds: float) -> RequestOutput:
    """Show a streamed request live, at least `frame_seconds` a step; the picture is cleared at the end."""
    output = None
    with Live(console=console, transient=True, auto_refresh=False) as live:
        for event in events:
            if event.step == 0:
                live.update(view.before(event), refresh=True)
                time.sleep(frame_seconds)
            began = time.perf_counter()
            live.update(view.show(event), refresh=True)
            time.sleep(max(0.0, frame_seconds - (time.perf_counter() - began)))
            output = event.output
    assert output is not None
    return output
