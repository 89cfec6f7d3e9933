"""A table that another extension module offers (csrc/ops/offer.h) is taken up only if both come of one build."""

import ctypes
import re
import types

import pytest

from llada_rt import DeviceError, _core
from llada_rt.runtime import device
from tests.cuda_host import ROOT, capsule, ops_hash

# The ops of the page, and what a table says of itself before them: each is 8 bytes.
PAGE = (ROOT / "csrc/ops/ops.h").read_text()
OPS_BYTES = 8 * (3 + len(re.findall(r"\(\*\w+\)", PAGE[PAGE.index("struct Ops {") :])))
REBUILD = "the two compiled modules come of different builds: build the package again"


class Table(ctypes.Structure):
    """The beginning of a table, and room for its ops: nobody calls them here."""

    _fields_ = [("name", ctypes.c_char_p), ("rest", ctypes.c_char * (OPS_BYTES - 8))]


class Offer(ctypes.Structure):
    _fields_ = [
        ("abi_version", ctypes.c_int64),
        ("ops_bytes", ctypes.c_int64),
        ("ops_hash", ctypes.c_char_p),
        ("table", ctypes.POINTER(Table)),
    ]


def planted(**wrong: object) -> Offer:
    """An offer as this build makes it, of a table whose name is known: taking it up changes nothing."""
    table = Table(name=b"generic")
    right = {"abi_version": 1, "ops_bytes": OPS_BYTES, "ops_hash": ops_hash().encode()}
    return Offer(**right | wrong, table=ctypes.pointer(table))


def take_up(offer: Offer, name: bytes = b"llada_rt.Ops") -> None:
    _core.add_table(capsule(ctypes.addressof(offer), name))


def test_an_offer_of_this_build_is_taken_up():
    before = _core.tables()
    take_up(planted())
    assert _core.tables() == before


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"abi_version": 2}, "expected ABI version 1, got 2"),
        # A later layout may mean anything by what follows the version: it is not read.
        ({"abi_version": 2, "ops_hash": None}, "expected ABI version 1, got 2"),
        ({"ops_bytes": OPS_BYTES + 8}, f"expected sizeof(Ops) {OPS_BYTES}, got {OPS_BYTES + 8}"),
        ({"ops_hash": b"0123456789abcdef"}, f"expected headers with the hash {ops_hash()}, got 0123456789abcdef"),
    ],
)
def test_an_offer_of_another_build_is_refused_with_both_values(wrong, told):
    before = _core.tables()
    with pytest.raises(DeviceError) as error:
        take_up(planted(**wrong))
    assert str(error.value) == f"a table of ops: {told}; {REBUILD}"
    assert _core.tables() == before


@pytest.mark.parametrize("name", [b"llada_rt.Ops/0123456789abcdef", b"numpy.array"])
def test_a_capsule_of_another_name_is_refused(name):
    with pytest.raises(DeviceError) as error:
        take_up(planted(), name)
    assert str(error.value) == f"a table of ops: expected a capsule named llada_rt.Ops, got {name.decode()}; {REBUILD}"


def test_a_backend_of_another_build_leaves_the_processor_usable(monkeypatch):
    """The engine says why there is no GPU, as with any other fault of the backend."""
    offer = planted(ops_bytes=8)
    backend = types.SimpleNamespace(
        probe=lambda: {"count": 1, "why": ""}, table=lambda: capsule(ctypes.addressof(offer))
    )
    monkeypatch.setattr(device.importlib, "import_module", lambda name: backend)
    why = device.missing_cuda.__wrapped__()
    assert why == (
        f"the CUDA backend cannot be used: a table of ops: expected sizeof(Ops) {OPS_BYTES}, got 8; {REBUILD}"
    )
    monkeypatch.setattr(device, "missing_cuda", lambda: why)
    assert not device.place("auto", None).is_gpu
    with pytest.raises(DeviceError, match=re.escape(f"expected sizeof(Ops) {OPS_BYTES}, got 8")):
        device.place("cuda", None)
