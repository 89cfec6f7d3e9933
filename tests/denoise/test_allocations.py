"""No allocation inside a step: a call of many steps asks for memory as often as a call of few.

Counted by a small library that is loaded before libc and passes every request on.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_counter = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler for the counter"),
    pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="the counter hooks into glibc"),
]
pytestmark = needs_counter

COUNTER = """
#include <errno.h>
#include <stddef.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
static long count;
static void one_more(void) { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); }
long allocation_count(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }
void *malloc(size_t n) { one_more(); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { one_more(); return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { one_more(); return __libc_realloc(p, n); }
void *memalign(size_t alignment, size_t n) { one_more(); return __libc_memalign(alignment, n); }
void *aligned_alloc(size_t alignment, size_t n) { one_more(); return __libc_memalign(alignment, n); }
int posix_memalign(void **p, size_t alignment, size_t n) {
  one_more();
  *p = __libc_memalign(alignment, n);
  return *p ? 0 : ENOMEM;
}
"""

# Prints the allocations of a call of 16 steps and of one of 32, after a warm-up that has seen the same rows. Both give
# arrays beyond the size that numpy keeps a store of.
SCRIPT = """
import ctypes, sys
import numpy as np
from llada_rt import _core
from llada_rt.runtime import records
from tests.data.make_goldens import CHECKPOINT, IDS
compute_type, threads, compact, guided = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
count = ctypes.CDLL(None).allocation_count
count.restype = ctypes.c_long
runtime = _core.Runtime(str(CHECKPOINT), compute_type=compute_type, num_threads=threads)
length, start = 100, 36
canvas = np.array([7] * start + [IDS.mask] * (length - start), np.int32)
plan = records.blank(2)
records.put(plan, block_start=start, block_stop=length, commit_start=start, num_masked=64, num_steps=64,
            mask_id=IDS.mask, compact=compact, guidance_scale=0.5, num_alternatives=[20, 0])
spans = np.array([(0, length, length), (start, length, length)], np.int32).view(_core.SPAN_DTYPE)[:, 0]

def fresh():
    plan["slot"] = [runtime.open_slot(canvas) for _ in plan]
    plan["guide_slot"] = [runtime.open_slot(canvas) for _ in plan] if guided else -1
    plan["first_begin"], plan["first_end"], plan["next_begin"], plan["next_end"] = 0, 1, 1, 2
    plan["select"]["next_step"] = 0
    runtime.denoise(plan, spans, 2)
    plan["first_begin"], plan["first_end"] = 1, 2

def steps(num_steps):
    plan["select"]["next_step"] += 2
    before = count()
    outcomes, _ = runtime.denoise(plan, spans, num_steps)
    after = count()
    assert (outcomes["num_steps"] == num_steps).all()
    return after - before

fresh()
steps(32)
fresh()
few = steps(16)
many = steps(32)
print(few, many)
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("counter")
    (folder / "counter.c").write_text(COUNTER)
    library = folder / "counter.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", library, folder / "counter.c"], check=True)
    return library


def run(code: str, counter: Path, *arguments: object) -> list[int]:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"LD_PRELOAD": str(counter), "PYTHONPATH": paths}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_the_counter_counts(counter):
    code = """
import ctypes
count = ctypes.CDLL(None).allocation_count
count.restype = ctypes.c_long
before = count()
kept = [ctypes.create_string_buffer(100_000) for _ in range(10)]
print(count() - before)
"""
    assert run(code, counter)[0] >= 10


@pytest.mark.parametrize("guided", [0, 1], ids=["plain", "guided"])
@pytest.mark.parametrize("compact", [0, 1], ids=["block", "compact"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("compute_type", ["float32", "bfloat16"])
def test_a_step_allocates_nothing(counter, compute_type, threads, compact, guided):
    few, many = run(SCRIPT, counter, compute_type, threads, compact, guided)
    assert many == few
