"""The pool's stress program (tests/cpp/test_parallel.cc), under the thread sanitizer where the compiler has it."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ["tests/cpp/test_parallel.cc", "csrc/core/parallel.cc", "csrc/core/tensor.cc", "csrc/core/pages.cc"]
COMPILER = shutil.which("c++")


def build(program: Path, *options: str) -> bool:
    command = [COMPILER, "-std=c++20", "-O1", "-pthread", "-I", "csrc", *options, *SOURCES, "-o", str(program)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def run(program: Path) -> subprocess.CompletedProcess:
    return subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
def test_each_index_once_and_no_race(tmp_path):
    program = tmp_path / "test_parallel"
    # The sanitizer may be missing, or not know how the system lays out memory.
    if not build(program, "-fsanitize=thread") or "unexpected memory mapping" in run(program).stderr:
        assert build(program)
    for _ in range(5):  # whom the machine holds up, and when, is chance
        ran = run(program)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert ran.stdout == "0 failures\n"
