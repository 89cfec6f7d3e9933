"""The inner loops of the products keep their accumulators in registers: read from the machine code of the module.

g++ 12 once stored every accumulator to the stack in each step, which halves the speed and changes no result.
"""

import re
import shutil
import subprocess

import pytest

from llada_rt import _core

MULTIPLY_ADD = re.compile(r"\bv(dpbf16ps|pdpbusd|pmaddwd|fmadd\d+ps)\b.*%zmm")
STACK = re.compile(r"%zmm\d+.*\(%r[sb]p|\(%r[sb]p.*%zmm")
JUMP = re.compile(r"^\s*([0-9a-f]+):\s+j[a-z]+\s+([0-9a-f]+)\b")


def inner_product_loops(lines: list[str]) -> list[list[str]]:
    """Bodies of the innermost loops that fetch ahead and are made of multiply-adds on whole registers."""
    index = {line.split(":")[0].strip(): number for number, line in enumerate(lines) if ":" in line}
    loops, last_start = [], -1
    for number, line in enumerate(lines):
        jump = JUMP.match(line)
        start = index.get(jump[2], number) if jump else number
        # Backwards, and not around a loop that has been seen: the innermost ones come first in the listing.
        if start < number and start > last_start and number - start < 400:
            body = lines[start : number + 1]
            multiply_adds = sum(bool(MULTIPLY_ADD.search(each)) for each in body)
            if multiply_adds >= 16 and any("prefetch" in each for each in body):
                loops.append(body)
                last_start = start
    return loops


@pytest.mark.skipif("avx512bf16" not in _core.tables(), reason="no avx512bf16 table on this machine")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump here")
def test_no_accumulator_on_the_stack():
    command = ["objdump", "-d", "--no-show-raw-insn", _core.__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    loops = inner_product_loops(listing)
    # Tiles of 4, 5 and 6 rows by 64 columns, in each precision at least.
    for instruction in ("vdpbf16ps", "vpdpbusd", "vpmaddwd", "vfmadd"):
        assert sum(any(instruction in line for line in body) for body in loops) >= 3
    for body in loops:
        assert not [line for line in body if STACK.search(line)]


def test_a_spill_would_be_seen():
    loop = ["  10:\tprefetcht1 (%rax)", *["  11:\tvdpbf16ps %zmm1,%zmm2,%zmm3"] * 16]
    spilled = [*loop, "  20:\tvmovaps %zmm3,0x40(%rsp)", "  30:\tjne    10 <f+0x10>"]
    (body,) = inner_product_loops(spilled)
    assert [line for line in body if STACK.search(line)]
