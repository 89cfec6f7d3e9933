"""What crosses the border is the same on both sides: fields, by name, order and type, and the words of enumerations."""

import dataclasses
from typing import get_args, get_type_hints

import numpy as np
import pytest

from llada_rt import _core
from llada_rt.config import ComputeType, StoredType
from llada_rt.folder import quantize
from llada_rt.options.types import Remasking
from llada_rt.planning import plan
from llada_rt.planning.plan import QuerySpan, SamplingRule, SelectRule, SequencePlan, Span
from llada_rt.runtime import records

KINDS = {int: "iu", float: "f", bool: "i", tuple[int, int]: "i"}


@pytest.mark.parametrize(("rule", "name", "own"), [(SelectRule, "select", []), (SamplingRule, "sampling", ["step"])])
def test_a_rule_has_the_same_fields_on_both_sides(rule, name, own):
    record = records.SEQUENCE[name]
    hints = get_type_hints(rule)
    assert [*hints, *own] == list(record.names)
    for field, hint in hints.items():
        subtype = record[field].base if record[field].subdtype else record[field]
        words = get_args(hint) and hint != tuple[int, int]
        assert subtype.kind in ("i" if words else KINDS[hint]), field
    assert record.itemsize == sum(record[field].itemsize for field in record.names), "a byte lies open"


def test_a_sequence_has_the_same_fields_on_both_sides():
    """Those of the plan: spans and targets are ranges below."""
    below = set(records.SEQUENCE.names)
    ranges = {
        "first_query": "first",
        "next_query": "next",
        "block": "block",
        "editable": "editable",
        "targets": "targets",
        "allowed": "allowed",
    }
    parts = ("first", "next", "editable", "targets", "allowed")
    above = {field.name for field in dataclasses.fields(SequencePlan)}
    of_ranges = {f"{name}_{end}" for name in parts for end in ("begin", "end")}
    assert below - of_ranges - {"block_start", "block_stop"} == above - set(ranges)
    assert list(records.SPAN.names) == [field.name for field in dataclasses.fields(QuerySpan)]


def test_words_of_enumerations_are_those_of_the_module():
    assert get_args(plan.SelectKind) == _core.SELECT_KINDS
    assert get_args(plan.Score) == _core.SCORES
    assert set(get_args(Remasking)) == set(_core.SCORES)
    assert get_args(ComputeType) == ("auto", *_core.COMPUTE_TYPES)


def test_what_is_written_into_files_is_what_the_module_reads():
    """Element types of weights, of which float8 is never in a file, and how many weights share a scale."""
    weights = {elements["weight"]: elements["weight_bits"] for elements in _core.ELEMENT_TYPES.values()}
    assert set(get_args(StoredType)) == set(weights) - {"float8"}
    plain = {"int8": 8, "int4": 4}
    shares = {name: 32 / group if group else 0 for name, group in quantize.GROUP_SIZE.items()}  # of a float32
    assert {name: plain[name] + share for name, share in shares.items()} == {name: weights[name] for name in plain}


def test_every_field_arrives():
    sampling = SamplingRule(7, "entropy", 0.5, 1.5, 2**64 - 1, 3, (4, 5), True, 6)
    select = SelectRule("factor", 8, 2**40, 9, 3, 0.25, 0.5, 10, 0.125, 11, 0.75)
    spans = (QuerySpan(0, 4, 20), QuerySpan(6, 8, 20)), (QuerySpan(1, 3, 20),)
    editable = (Span(12, 13), Span(14, 15))
    made = SequencePlan(10, 11, *spans, Span(12, 13), 14, select, sampling, 15, True, editable, 16, (1, -1, 2))
    packed, ranges = records.pack([made, dataclasses.replace(made, editable=(), targets=())])
    assert packed["select"].tolist() == [(2, 8, 2**31 - 1, 9, 3, 0.25, 0.5, 10, 0.125, 11, 0.75)] * 2
    assert packed["sampling"]["unconfident_tokens"].tolist() == [[4, 5]] * 2
    told = dict(zip(records.SEQUENCE["sampling"].names, packed["sampling"][0].tolist(), strict=True))
    assert told | {"unconfident_tokens": None} == {
        "mask_id": 7,
        "score": 3,
        "temperature": 0.5,
        "guidance_scale": 1.5,
        "seed": 2**64 - 1,
        "suppressed_token": 3,
        "unconfident_tokens": None,
        "propose_mask": 1,
        "num_alternatives": 6,
        "step": 0,
    }
    names = ("slot", "guide_slot", "block_start", "block_stop", "commit_start", "step", "compact", "post_steps")
    assert [int(packed[0][name]) for name in names] == [10, 11, 12, 13, 14, 15, 1, 16]
    assert packed[["first_begin", "first_end", "next_begin", "next_end"]].tolist() == [(0, 2, 2, 3), (5, 7, 7, 8)]
    assert packed[["editable_begin", "editable_end"]].tolist() == [(3, 5), (8, 8)]
    assert packed[["targets_begin", "targets_end"]].tolist() == [(0, 3), (3, 3)]
    queries = [(0, 4, 20), (6, 8, 20), (1, 3, 20)]
    assert ranges.tolist() == [*queries, (12, 13, 13), (14, 15, 15), *queries]
    assert [array.shape for array in records.pack([])] == [(0,), (0,)]


def test_plans_by_hand():
    made = records.blank(2)
    records.put(made, slot=[3, 4], num_masked=5, temperature=[0.5, 1.0], step=7)
    assert made["guide_slot"].tolist() == [-1, -1]
    assert made["sampling"]["unconfident_tokens"].tolist() == [[-1, -1]] * 2
    assert made["select"]["num_masked"].tolist() == [5, 5]
    assert made["sampling"]["temperature"].tolist() == [0.5, 1.0]
    assert made["step"].tolist() == [7, 7]
    assert made["sampling"]["step"].tolist() == [0, 0]
    assert np.array_equal(made["slot"], [3, 4])
