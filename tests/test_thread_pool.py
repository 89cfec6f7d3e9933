"""The pool's stress program (tests/cpp/test_parallel.cc), under the thread sanitizer where the compiler has it."""

import resource
import shutil
import subprocess
import sys
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


def test_threads_that_cannot_start_are_a_typed_error():
    """In a process whose address space has no room for the stacks of a thousand threads."""
    code = """
from llada_rt import Engine
from llada_rt.errors import DeviceError
try:
    Engine(threads=1000).close()
except DeviceError as error:
    print(error)
with Engine(threads=1) as engine:
    print(engine.info()["threads"])
"""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    first, *rest = ran.stdout.splitlines()
    assert first.startswith("threads: expected to start 1000, the system let ")
    assert rest == ["1"]
