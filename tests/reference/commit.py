"""Which candidates are written into the canvas: LLaDA's schedule (`top_k`), Fast-dLLM's `threshold` and `factor`,
Fast-dLLM++'s Fréchet profile, LocalLeap, and the EB-Sampler's bound on entropies.
"""

import numpy as np

RULES = ("top_k", "threshold", "factor", "frechet", "local_leap", "entropy_bound")


def select(
    confidence: np.ndarray,
    rule: str,
    *,
    count: int = 0,
    value: float = 0.0,
    near_value: float = 0.0,
    radius: int = 0,
    positions: np.ndarray | None = None,
    entropy: np.ndarray | None = None,
) -> np.ndarray:
    """Rows to commit, surest first; equal confidences by row. All but top_k commit at least the `count` surest ones,
    and always one; local_leap counts the surest of those that it does not take after those that it takes.
    """
    confidence = np.asarray(confidence)
    order = np.argsort(-confidence, kind="stable")
    if rule == "top_k":
        return order[:count]
    c, n = confidence[order], np.arange(1, len(order) + 1)
    match rule:
        case "threshold":
            keep = c >= value
        case "factor":
            keep = (n + 1) * (1 - c) < value
        case "frechet":
            keep = np.cumsum(c) - (n - 1) - (1 - c) > value
        case "local_leap":
            distances = np.abs(np.subtract.outer(positions, np.asarray(positions)[confidence >= value]))
            is_near = (distances <= radius).any(1)
            taken = (confidence >= value) | (is_near & (confidence >= near_value))
            order, keep = np.concatenate([order[taken[order]], order[~taken[order]]]), taken
        case "entropy_bound":
            ordered = np.asarray(entropy)[order]
            keep = np.cumsum(ordered) - np.maximum.accumulate(ordered) <= value
    return order[: max(1, count, np.count_nonzero(keep))]


def commit(canvas, positions, tokens, confidence, rule, *, mask_id, alternatives=None, **limits):
    """Returns the new canvas and the committed positions, surest first. A committed mask changes nothing: not reported.

    If a rule that is not top_k selects masks only, the surest of `alternatives` (tokens, confidence) is committed
    instead.
    """
    canvas, positions, tokens = np.array(canvas), np.asarray(positions), np.asarray(tokens)
    rows = [row for row in select(confidence, rule, positions=positions, **limits) if tokens[row] != mask_id]
    if not rows and len(positions) and rule != "top_k" and alternatives is not None:
        tokens = np.asarray(alternatives[0])
        rows = [int(np.argmax(alternatives[1]))]
    canvas[positions[rows]] = tokens[rows]
    return canvas, positions[rows]
