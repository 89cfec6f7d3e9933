"""LLaDA get_log_likelihood.py on given draws: -E[ sum over masked answer positions of CE / mask_ratio ]."""

import numpy as np

from .candidates import guide
from .forward import Model


def log_likelihood(
    model: Model, prompt: list[int], answer: list[int], noisy, mask_ratio, *, mask_id: int, cfg_scale=0.0
) -> float:
    """noisy: sequences (prompt and answer) with some answer tokens masked; mask_ratio: one per sequence."""
    full, total = np.array([*prompt, *answer]), 0.0
    for row, ratio in zip(np.asarray(noisy), mask_ratio, strict=True):
        logits = model.forward(row)
        if cfg_scale > 0:
            hidden_prompt = np.where(np.arange(len(row)) < len(prompt), mask_id, row)
            logits = guide(logits, model.forward(hidden_prompt), cfg_scale)
        masked = np.flatnonzero(row == mask_id)
        logits = logits[masked] - logits[masked].max(-1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        total += log_p[np.arange(len(masked)), full[masked]].sum() / ratio
    return float(total / len(mask_ratio))
