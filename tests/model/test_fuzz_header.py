"""Hypothesis on safetensors headers: whatever they say, the loader answers with a typed error or a model."""

import contextlib
import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llada_rt import _core
from llada_rt.errors import ModelError
from tests.model.folders import assemble, header_and_data, write_config

HEADER, DATA = header_and_data()
NAMES = sorted(name for name in HEADER if name != "__metadata__")
NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65),
    st.sampled_from([0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1]),
    st.floats(),
    st.none(),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=8), st.booleans()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F16", "F64", "I8", ""]) | VALUES,
        "shape": st.lists(NUMBERS, max_size=9) | VALUES,
        "data_offsets": st.lists(NUMBERS, max_size=3) | VALUES,
        "other": VALUES,
    },
)
# Examples are bounded and the same in every run.
BOUNDED = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def load(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder))
        (Path(folder) / "model.safetensors").write_bytes(raw)
        with contextlib.suppress(ModelError):
            _core.Runtime(folder, compute_type="float32", num_threads=1)


@BOUNDED
@given(st.lists(st.tuples(st.sampled_from(NAMES), FIELDS), min_size=1, max_size=3))
def test_any_value_in_a_record(changes):
    header = json.loads(json.dumps(HEADER))
    for name, fields in changes:
        header[name].update(fields)
    load(assemble(header, DATA))


@BOUNDED
@given(st.data())
def test_any_byte_of_the_header(data):
    raw = bytearray(assemble(HEADER, DATA))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(raw) - len(DATA) - 1))
        raw[position] = data.draw(st.integers(0, 255))
    load(bytes(raw))


@BOUNDED
@given(st.binary(max_size=64), st.none() | st.integers(0, 2**64 - 1))
def test_any_bytes_for_a_header(text, length):
    load(assemble(text, DATA, length=length))


@BOUNDED
@given(st.integers(0, 2000))
def test_any_cut(cut):
    load(assemble(HEADER, DATA)[:cut])
