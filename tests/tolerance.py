"""The only place with numbers like 1e-5. Integers, committed tokens and results under another thread count are equal.

Floats: error against float64 at most twice that of the plain version in the same precision (numpy float32, torch
bfloat16), plus a floor for small cases, where the plain version may be exact by luck.
"""

import numpy as np

# Two roundings of the largest result: 2 * 2^-24 (float32, doubled for another order of summation), 2 * 2^-8 (bfloat16).
ROUNDING = {"float32": 2.0**-22, "bfloat16": 2.0**-7}

# Rounding of a float32 sum, relative to the sum of its absolute terms: products accumulate in float32 in either type.
ACCUMULATION = 2.0**-22

# numpy float64 against the recorded "float64" run, which rotates and normalises in float32 as the published code does;
# relative to the largest logit.
RECORDED_LOGITS = 1e-5

# Recorded likelihoods are float32 sums of up to a hundred terms; the issue's own bound for the engine.
RECORDED_LIKELIHOOD = {"reference": 1e-5, "engine": 1e-4}

# Whole forward: floor of the rule "twice torch", relative to the largest logit; one token rounds only a few times.
FORWARD_FLOOR = {"float32": 1e-6, "bfloat16": 2.0**-7}

# Logits of small models with layers of any kind, all below 1: torch in float32 against numpy in float64.
LAYER_LOGITS = 1e-6

# Confidences reported by the float32 engine against the float64 reference.
CONFIDENCE = 1e-4

# Training on two ranks against one process, over 20 steps in float32: the sums of a step are taken in another order.
# AdamW divides by the root of squared gradients, so a rounding of a gradient near zero moves its weight by far more.
RANKS = {"loss": 1e-6, "weight": 1e-5}


# A table of costs that was worked out elsewhere, rounded to three figures (steps: two), against the cost model. It
# charges a block-causal model the head for the pass that only stores a finished block; the model does not.
COST_TABLE = {"step": 0.012, "answer": 0.005, "block_causal": 0.025}


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest absolute difference; infinite if anything is not a number."""
    difference = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0))


def rms_error(got: np.ndarray, want: np.ndarray) -> float:
    """Root mean square of the difference."""
    return float(np.sqrt(np.mean((np.asarray(got, np.float64) - want) ** 2)))


def assert_accurate(got, want, plain, dtype: str, *, magnitude: float | None = None) -> None:
    """`magnitude`: the largest sum of absolute terms behind an element of `want`, if that is more than the element."""
    largest = float(np.abs(want).max(initial=0))
    floor = ROUNDING[dtype] * largest + ACCUMULATION * (magnitude or largest)
    assert np.shape(got) == np.shape(want)
    assert error(got, want) <= 2 * error(plain, want) + floor, (
        f"error {error(got, want):.3g}, plain {dtype} {error(plain, want):.3g}, floor {floor:.3g}"
    )
