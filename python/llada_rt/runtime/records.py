"""Records: a plan as numpy structured arrays, which the compiled module reads as the structs of csrc/denoise/plan.h.

A rule's fields are packed by their names, so a field that stands on both sides needs no line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..planning.plan import QuerySpan, SamplingRule, SelectRule, SequencePlan, Span

SEQUENCE = np.dtype(_core.SEQUENCE_DTYPE)
SPAN = np.dtype(_core.SPAN_DTYPE)
_MOST = 2**31 - 1  # of an int32
_NUMBERS = {  # of the words of an enumeration, by the field that holds one
    "kind": {name: number for number, name in enumerate(_core.SELECT_KINDS)},
    "score": {name: number for number, name in enumerate(_core.SCORES)},
}


def pack(plans: Sequence[SequencePlan]) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """One record per sequence, and the query spans that its ranges point into."""
    spans: list[tuple[int, int, int]] = []

    def place(queries: tuple[QuerySpan, ...] | tuple[Span, ...]) -> tuple[int, int]:
        begin = len(spans)
        spans.extend((q.start, q.stop, q.visible if isinstance(q, QuerySpan) else q.stop) for q in queries)
        return begin, len(spans)

    records, num_targets, num_sets = [], 0, 0
    for plan in plans:
        first, then = place(plan.first_query), place(plan.next_query)
        editable = place(plan.editable)
        value: dict[str, Any] = {
            "slot": plan.slot,
            "guide_slot": plan.guide_slot,
            "first_begin": first[0],
            "first_end": first[1],
            "next_begin": then[0],
            "next_end": then[1],
            "block_start": plan.block.start,
            "block_stop": plan.block.stop,
            "commit_start": plan.commit_start,
            "editable_begin": editable[0],
            "editable_end": editable[1],
            "post_steps": plan.post_steps,
            "step": plan.step,
            "compact": plan.compact,
            "targets_begin": num_targets,
            "targets_end": num_targets + len(plan.targets),
            "allowed_begin": num_sets,
            "allowed_end": num_sets + len(plan.allowed),
            "border_stop": plan.border_stop,
            "border_token": plan.border_token,
            "border_probability": plan.border_probability,
            "select": _rule(plan.select, SEQUENCE["select"]),
            "sampling": _rule(plan.sampling, SEQUENCE["sampling"]),
        }
        num_targets += len(plan.targets)
        num_sets += len(plan.allowed)
        records.append(tuple(value[name] for name in SEQUENCE.names or ()))
    return np.array(records, SEQUENCE), np.array(spans, SPAN)


def _rule(rule: SelectRule | SamplingRule, record: np.dtype[Any]) -> tuple[Any, ...]:
    return tuple(_value(rule, name) for name in record.names or ())


def _value(rule: SelectRule | SamplingRule, name: str) -> Any:
    if name == "step":  # the loop's: of the request and the call
        return 0
    value = getattr(rule, name)
    if name in _NUMBERS:
        return _NUMBERS[name][value]
    return min(value, _MOST) if name == "num_steps" else value


def blank(count: int) -> NDArray[np.void]:
    """Records for plans made by hand: all zeros, but for tokens and slots that are none."""
    records = np.zeros(count, SEQUENCE)
    records["guide_slot"] = -1
    put(records, suppressed_token=-1, unconfident_tokens=-1)
    return records


def put(records: NDArray[np.void], **values: Any) -> None:
    """Set fields, those of the rules by their own names (`step`: the sequence's)."""
    for name, value in values.items():
        place = next((rule for rule in ("select", "sampling") if name in (SEQUENCE[rule].names or ())), None)
        (records if place is None or name == "step" else records[place])[name] = value
