"""Which candidates are written into the canvas: LLaDA's schedule (`top_k`), Fast-dLLM's `threshold` and `factor`."""

import numpy as np

RULES = ("top_k", "threshold", "factor")


def select(confidence: np.ndarray, rule: str, *, count: int = 0, value: float = 0.0) -> np.ndarray:
    """Rows to commit, surest first; equal confidences by row. threshold and factor commit at least the `count` surest
    ones, and always one.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    c, n = np.asarray(confidence)[order], np.arange(1, len(order) + 1)
    if rule == "top_k":
        return order[:count]
    keep = c >= value if rule == "threshold" else (n + 1) * (1 - c) < value
    return order[: max(1, count, np.count_nonzero(keep))]


def commit(canvas, positions, tokens, confidence, rule, *, count=0, value=0.0, mask_id, alternatives=None):
    """Returns the new canvas and the committed positions, surest first. A committed mask changes nothing: not reported.

    If threshold or factor selects masks only, the surest of `alternatives` (tokens, confidence) is committed instead.
    """
    canvas, positions, tokens = np.array(canvas), np.asarray(positions), np.asarray(tokens)
    rows = [row for row in select(confidence, rule, count=count, value=value) if tokens[row] != mask_id]
    if not rows and len(positions) and rule != "top_k" and alternatives is not None:
        tokens = np.asarray(alternatives[0])
        rows = [int(np.argmax(alternatives[1]))]
    canvas[positions[rows]] = tokens[rows]
    return canvas, positions[rows]
