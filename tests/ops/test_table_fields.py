"""A table of ops that leaves one out does not compile: csrc/cpu/table.cc by CMake, csrc/cuda/table.cu for the tests."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cuda_host import FLAGS, ROOT

CMAKE = (ROOT / "CMakeLists.txt").read_text()
OPTION = re.search(r"set_source_files_properties\(csrc/cpu/table\.cc PROPERTIES COMPILE_OPTIONS (\S+)\)", CMAKE)
COMMANDS = {
    "csrc/cpu/table.cc": ["-std=c++20", f"-I{ROOT}/csrc", "-DLLADA_TABLE=generic", OPTION[1] if OPTION else ""],
    "csrc/cuda/table.cu": ["-std=c++17", *FLAGS],
}


def compile_text(text: str, options: list[str], folder: Path) -> subprocess.CompletedProcess:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source = folder / "table.cc"
    source.write_text(text)
    command = [compiler, *options, "-x", "c++", "-fsyntax-only", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", COMMANDS)
def test_a_forgotten_op_does_not_compile(path: str, tmp_path: Path):
    whole = (ROOT / path).read_text()
    done = compile_text(whole, COMMANDS[path], tmp_path)
    assert done.returncode == 0, done.stderr
    line = "    .quantize = quantize,\n"
    assert line in whole
    done = compile_text(whole.replace(line, ""), COMMANDS[path], tmp_path)
    assert done.returncode != 0
    assert re.search(r"error: missing.*quantize", done.stderr)
