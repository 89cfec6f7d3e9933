"""What the compiler made of the kernels, read from the module `_cuda`: tensor cores where they are meant, and nothing
in local memory. Needs cuobjdump and nvdisasm (PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm)."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

FUNCTION = re.compile(r"Function\s*:?\s*([\w$.]+)")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9]+)")
# The product of the plain tier by its operands: what multiplies there. sm_90 has no float8 instruction for a warp: the
# assembler widens to float16.
PLAIN = {
    "BFloat16Operands": "HMMA",
    "Int8Operands": "IMMA",
    "Float8Operands": "HMMA",
    "WidenInt8": "HMMA",
    "WidenInt4": "HMMA",
    "Float32Operands": "FFMA",
}


@dataclass(frozen=True)
class Usage:
    registers: int
    stack: int
    local: int


def module_path() -> Path | None:
    spec = importlib.util.find_spec("llada_rt._cuda")
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def tool_folder() -> str | None:
    """The folder of cuobjdump, with nvdisasm beside it: from PATH or from the package."""
    wheel = importlib.util.find_spec("nvidia")
    places = [f"{root}/cu13/bin" for root in (wheel.submodule_search_locations or [])] if wheel is not None else []
    path = os.pathsep.join([os.environ.get("PATH", ""), *places])
    found = shutil.which("cuobjdump", path=path)
    return str(Path(found).parent) if found is not None and shutil.which("nvdisasm", path=path) is not None else None


def dump(*options: str) -> list[str]:
    path, tools = module_path(), tool_folder()
    if path is None:
        pytest.skip("no module _cuda: this build is without CUDA")
    if tools is None:
        pytest.skip("no cuobjdump and nvdisasm on this machine")
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [f"{tools}/cuobjdump", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.splitlines()


def parse_usage(lines: list[str]) -> dict[tuple[str, str], Usage]:
    """By architecture and mangled name."""
    found, architecture, name = {}, "", ""
    for line in lines:
        if line.startswith("arch = "):
            architecture = line.removeprefix("arch = ").strip()
        elif function := FUNCTION.search(line):
            name = function[1]
        elif usage := USAGE.search(line):
            found[architecture, name] = Usage(*map(int, usage.groups()))
    return found


def parse_instructions(lines: list[str]) -> dict[tuple[str, str], dict[str, int]]:
    """How often each instruction stands in each kernel."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    architecture, counts = "", defaultdict(int)
    for line in lines:
        if line.startswith("arch = "):
            architecture = line.removeprefix("arch = ").strip()
        elif "Function" in line and (function := FUNCTION.search(line)):
            counts = found.setdefault((architecture, function[1]), defaultdict(int))
        elif instruction := INSTRUCTION.match(line):
            counts[instruction[1]] += 1
    return found


@functools.cache
def usage() -> dict[tuple[str, str], Usage]:
    return parse_usage(dump("-res-usage"))


@functools.cache
def instructions() -> dict[tuple[str, str], dict[str, int]]:
    return parse_instructions(dump("-sass", "-arch", "sm_90a"))


def test_no_kernel_keeps_anything_in_local_memory():
    kernels = {key: used for key, used in usage().items() if "llada4cuda" in key[1]}
    assert len(kernels) >= 30
    assert {key: used for key, used in kernels.items() if used.stack or used.local} == {}


def test_tiles_for_few_rows_leave_room_for_two_blocks():
    """128 threads each, and shared memory for two: with at most 128 registers four would fit."""
    shapes = [used for (_, name), used in usage().items() if re.search(r"matmul_kernel.*MatmulTileShapeE[012]E", name)]
    assert len(shapes) >= 15
    assert max(used.registers for used in shapes) <= 128


@pytest.mark.slow
@pytest.mark.parametrize("operands", PLAIN)
def test_products_use_their_instruction(operands):
    kernels = {
        key: counts for key, counts in instructions().items() if re.search(rf"matmul_kernel.*{operands}", key[1])
    }
    assert kernels
    for key, counts in kernels.items():
        assert counts[PLAIN[operands]] >= 16, key
        assert counts["LDL"] == counts["STL"] == 0, key
        assert counts["LDGSTS"] >= 2, key  # copies beside the arithmetic


@pytest.mark.slow
def test_products_of_cutlass_use_the_warp_group_instruction():
    kernels = {key: counts for key, counts in instructions().items() if "Sm90TmaGmma" in key[1]}
    if not kernels:
        pytest.skip("this build is without CUTLASS")
    for key, counts in kernels.items():
        assert counts["HGMMA"] + counts["QGMMA"] >= 4, key
        assert counts["LDL"] == counts["STL"] == 0, key


def test_a_spill_would_be_seen():
    lines = [
        "arch = sm_90a",
        " Function _ZN5llada4cuda4slowEv:",
        "  REG:64 STACK:16 SHARED:0 LOCAL:0 CONSTANT[0]:632 TEXTURE:0 SURFACE:0 SAMPLER:0",
    ]
    assert parse_usage(lines) == {("sm_90a", "_ZN5llada4cuda4slowEv"): Usage(64, 16, 0)}
    lines = [
        "arch = sm_90a",
        "\t\tFunction : slow",
        "        /*0090*/              @!P0 STL [R1], R2 ;",
        "  /*00a0*/ HMMA R4",
    ]
    assert parse_instructions(lines) == {("sm_90a", "slow"): {"STL": 1, "HMMA": 1}}


@pytest.mark.slow
def test_attention_multiplies_on_tensor_cores():
    """A tile of 64 keys (32 of the widest heads) meets queries and then values; copies run beside."""
    kernels = {key: counts for key, counts in instructions().items() if "attention_bfloat16_kernel" in key[1]}
    assert len(kernels) >= 12
    for key, counts in kernels.items():
        head_dim, out_dim, _ = map(int, re.findall(r"Li(\d+)E", key[1]))
        keys = 32 if head_dim > 128 else 64
        assert counts["HMMA"] == keys * (head_dim + out_dim) // 128, key
        assert counts["LDSM"] >= counts["HMMA"] // 2, key
        assert counts["LDGSTS"] >= 6, key
        assert counts["LDL"] == counts["STL"] == 0, key


def test_attention_has_room_for_the_blocks_it_counts_on():
    """Four warps of 128 columns twice on a multiprocessor, of 64 columns three times."""
    kernels = {name: used for (_, name), used in usage().items() if "attention_bfloat16_kernel" in name}
    assert len(kernels) >= 12
    for name, used in kernels.items():
        head_dim, _, num_warps = map(int, re.findall(r"Li(\d+)E", name))
        if num_warps == 4:
            assert used.registers <= (168 if head_dim <= 64 else 256), name
