"""The GPU check as a script: stages that fail or take too long, what is left behind, proofs on the imitation."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.gpu import check as gpu_check
from benchmarks.gpu import record
from benchmarks.gpu.check import Check, Stage
from benchmarks.gpu.flight import Flight, read_results
from benchmarks.gpu.sources_hash import sources_hash
from llada_rt import _core

ROOT = Path(__file__).resolve().parents[2]


def run_check(root: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "benchmarks/gpu/check.py", *options, "--output", output, "--scratch", output]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, timeout=500)


def test_the_modules_know_their_sources():
    """By the hash that says whether a kit's wheel is of a tree: CMake and Python take the same one."""
    assert _core.build_info()["sources"] == sources_hash(ROOT), "the installed modules are not of this tree"


def test_first_stages_on_the_imitation(tmp_path):
    done = run_check(ROOT, tmp_path, "proof", "--dry", "--only", "facts,attention")
    assert done.returncode == 0, done.stdout + done.stderr
    results = read_results(tmp_path)
    assert {each["name"]: each["status"] for each in results if each["what"] == "stage"} == {
        "facts": "passed",
        "attention": "passed",
    }
    assert sum(each["what"] == "attention" and each["holds"] for each in results) >= 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["proof-logs.tar.gz", "results.jsonl", "summary.md"]
    assert "claims hold" in (tmp_path / "summary.md").read_text()
    assert "attention: passed" in done.stdout


def test_without_a_gpu_nothing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["check.py", "proof", "--output", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        gpu_check.main()
    assert left.value.code == 4
    assert "no GPU" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_stage_that_is_not_there_is_refused(tmp_path):
    done = run_check(ROOT, tmp_path, "proof", "--dry", "--only", "prodcts")
    assert done.returncode == 2
    assert "got prodcts" in done.stderr


class Scripted(Check):
    """Stages that are lines of Python."""

    def command(self, stage: Stage) -> list[str]:
        return [sys.executable, "-c", stage.module]


def scripted(tmp_path: Path, monkeypatch, groups: tuple, budget: float = 60) -> Scripted:
    monkeypatch.setitem(gpu_check.CALLS, "proof", groups)
    check = Scripted("proof", tmp_path, tmp_path, budget, dry=False)
    check.run()
    return check


def statuses(folder: Path) -> dict[str, str]:
    return {each["name"]: each["status"] for each in read_results(folder) if each["what"] == "stage"}


def test_a_stage_ends_only_itself(tmp_path, monkeypatch):
    groups = (
        (
            Stage("hangs", 1, module="print('begun', flush=True); import time; time.sleep(60)"),
            Stage("crashes", 30, module="import os; os.abort()"),
            Stage("fails", 30, module="raise SystemExit(1)"),
        ),
        (Stage("works", 30, module="print('fine')"),),
    )
    check = scripted(tmp_path, monkeypatch, groups)
    assert statuses(tmp_path) == {
        "hangs": "out of time",
        "crashes": "failed (-6)",
        "fails": "failed (1)",
        "works": "passed",
    }
    assert not check.all_passed
    with tarfile.open(tmp_path / "proof-logs.tar.gz") as archive:
        assert archive.extractfile("logs/hangs.log").read() == b"begun\n"  # what was said until then


def test_what_no_time_is_left_for_is_told(tmp_path, monkeypatch):
    groups = ((Stage("long", 30, module="import time; time.sleep(60)"),), (Stage("later", 30, module=""),))
    scripted(tmp_path, monkeypatch, groups, budget=1)
    assert statuses(tmp_path) == {"long": "out of time", "later": "no time left"}


def test_a_result_is_on_disk_at_once_and_a_cut_line_is_left_out(tmp_path):
    flight = Flight("products", tmp_path, tmp_path, dry=True)
    flight.record("first", value=1)
    flight.claim("second", False, value=2)
    with flight.attempt("third"):
        raise ValueError("wrong")
    assert flight.failed == ["second", "third"]
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"what": "four')
    whats = [each["what"] for each in read_results(tmp_path)]
    assert whats == ["first", "second", "third"]
    assert "ValueError: wrong" in read_results(tmp_path)[2]["error"]
    (tmp_path / "results.jsonl").write_text('{"what": \n{"what": "next"}\n')
    with pytest.raises(json.JSONDecodeError):  # only the last line may be cut
        read_results(tmp_path)


MUTATIONS = {
    "a tile that takes its neighbour's outputs": (
        "csrc/cuda/matmul/kernel.cuh",
        "/ num_row_tiles * Tile::kOutputs;",
        "/ num_row_tiles * (Tile::kOutputs / 2);",
    ),
    "a kernel that does not wait for the ones before": (
        "csrc/cuda/matmul/tile.cuh",
        "    wait_for_previous_kernels();\n",
        "",
    ),
    "a stage that is read before its copies have come": (
        "csrc/cuda/matmul/tile.cuh",
        "copy_async_wait<kStages - 2>();",
        "copy_async_wait<kStages - 1>();",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_kernel_fails_the_proof_and_the_numbers_still_come(tmp_path, name):
    """In a copy of the tree, whose imitation is built from the broken source."""
    tree = tmp_path / "tree"
    for folder in ("csrc", "cmake", "tests", "benchmarks", "training"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "results", "pair"))
    for file in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, tree / file)
    path, right, wrong = MUTATIONS[name]
    source = (tree / path).read_text()
    assert right in source
    (tree / path).write_text(source.replace(right, wrong))
    done = run_check(tree, tmp_path / "out", "proof", "numbers", "--dry", "--only", "products,rivals,numbers")
    assert done.returncode == 1
    results = read_results(tmp_path / "out")
    assert statuses(tmp_path / "out")["products"].startswith("failed")
    told = [each for each in results if each["stage"] == "products" and each.get("holds") is False]
    assert any(each["what"].startswith("product") for each in told)
    assert statuses(tmp_path / "out")["rivals"] == "passed"
    assert any(each["stage"] == "numbers" for each in results)


def test_a_run_is_told_in_one_row():
    results = [
        {"stage": "facts", "what": "device", "name": "NVIDIA H200"},
        {"stage": "products", "what": "product", "holds": True},
        {"stage": "products", "what": "product", "holds": False},
        {"stage": "check", "what": "stage", "name": "products", "status": "failed (1)", "s": 1},
        {"stage": "check", "what": "stage", "name": "model", "status": "passed", "s": 1},
    ]
    run = record.run_of(results, "2026-11-27", "abcdef12")
    assert run["device"] == "NVIDIA H200"
    assert run["what"] == "products, model"
    assert run["result"] == "1 of 2 claims hold; products failed (1)"
    with pytest.raises(ValueError, match="names the device"):
        record.run_of(results[1:], "2026-11-27", "abcdef12")
