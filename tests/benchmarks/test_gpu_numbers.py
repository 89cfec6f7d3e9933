"""The timing stages of the GPU check as far as they go without a GPU: what they run, on the processor, and print."""

import errno
import json
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.baselines.arm_cuda_torch import GraphedArm
from benchmarks.gpu import kernels, rig, stage_numbers, stage_rivals, weights
from benchmarks.gpu.bench import Bench, measure_answers, measure_steps
from benchmarks.gpu.flight import Flight, read_results
from benchmarks.gpu.kernels import Event, activity_of, short_name
from benchmarks.gpu.rig import Rig
from benchmarks.gpu.roofs import Roofs
from benchmarks.gpu.steps import SMALL, Sizes, Steps, answer, num_steps, tokens_per_step
from benchmarks.gpu.table import summary
from benchmarks.shapes import Shape
from llada_rt import _core
from llada_rt.runtime import device
from training.model import LLaDA

TINY = Shape("tiny", d_model=64, n_layers=2, mlp_hidden_size=96, vocab_size=160)


@pytest.fixture
def flight(tmp_path, monkeypatch):
    """A dry one of TINY, on the table of the processor."""
    monkeypatch.setattr(Flight, "shape", TINY)
    monkeypatch.setattr(stage_numbers, "table_of", lambda flight: device.cpu_tables()[0])
    for name in ("output", "scratch"):
        (tmp_path / name).mkdir()
    return Flight("numbers", tmp_path / "output", tmp_path / "scratch", dry=True)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return _core.Runtime(str(TINY.write(tmp_path_factory.mktemp("tiny"))), num_threads=2)


# ---------------------------------------------------------------- weights


def test_the_folder_has_the_weights_of_the_shape(flight, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "PIECE_BYTES", 1000)  # several of a matrix, an odd rest
    folder = weights.model_folder(flight)
    expected = load_file(TINY.write(tmp_path / "expected") / "model.safetensors")
    written = load_file(folder / "model.safetensors")
    assert set(written) == set(expected)
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    names = list(json.loads((folder / "model.safetensors").read_bytes()[8:].split(b"}}")[0] + b"}}"))
    assert names == [f"model.{name}" for name in TINY.model().state_dict()]
    assert _core.Runtime(str(folder), num_threads=1).num_parameters == sum(each.numel() for each in expected.values())


def test_the_folder_is_made_once(flight, monkeypatch):
    folder = weights.model_folder(flight)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert weights.model_folder(flight) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    (folder / "model.safetensors").rename(folder / weights.UNFINISHED)  # as a stage leaves it that was cut short
    weights.model_folder(flight)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    (folder / "config.json").write_text("{}")  # of another shape by that name
    monkeypatch.setattr(weights, "_write", lambda *arguments: pytest.fail("made anew, as expected"))
    with pytest.raises(pytest.fail.Exception, match="as expected"):
        weights.model_folder(flight)


def test_weights_that_do_not_fit(flight, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: usage(2 * 10**6, 10**6, 10**6))
    with pytest.raises(OSError, match=r"tiny need 0.07 GB, 0.00 are free") as raised:
        weights.model_folder(flight)
    assert raised.value.errno == errno.ENOSPC


# ---------------------------------------------------------------- steps and answers


def test_steps_are_those_of_a_block(runtime):
    steps = Steps(runtime, TINY, batch=3, sizes=Sizes(canvas=512, block=32, steps=16))
    start, stop = steps.block
    assert (start, stop) == (256, 288)
    masked = lambda slot: int((runtime.canvas(slot)[start:stop] == TINY.config.mask_token_id).sum())  # noqa: E731
    for _ in range(2):
        steps.reset()
        assert [masked(slot) for slot in steps.slots] == [32] * 3
        steps.refresh()
        assert [masked(slot) for slot in steps.slots] == [31] * 3
        steps.refine()
        assert [masked(slot) for slot in steps.slots] == [31 - 16] * 3
    steps.close()
    assert runtime.num_open_slots == 0


def test_steps_that_were_not_run_are_not_timed(runtime):
    steps = Steps(runtime, TINY, batch=1, sizes=SMALL)
    steps.refresh()
    with pytest.raises(AssertionError, match="masks left"):
        steps.refresh()  # not reset
    steps.close()


@pytest.mark.parametrize(("k", "steps"), [(1, 32), (3, 11), (4.2, 8), (8, 4), (32, 1), (100, 1)])
def test_tokens_a_step_in_the_mean(k, steps):
    assert num_steps(32, k) == steps
    assert tokens_per_step(32, k) == 32 / steps


@pytest.mark.parametrize("k", [1, 3, 4.2, 8])
@pytest.mark.parametrize("batch", [1, 3])
def test_answers_fill_their_canvases(runtime, k, batch):
    sizes = Sizes(canvas=128, block=32)
    ran = answer(runtime, TINY, k, gen_length=64, batch=batch, sizes=sizes)
    assert ran == 2 * num_steps(32, k)
    assert runtime.num_open_slots == 0


def test_larger_batches_answer_fewer_blocks():
    assert [Sizes().gen_length(batch) for batch in (1, 2, 8, 32)] == [256, 128, 64, 64]


# ---------------------------------------------------------------- the stages


def test_numbers(flight):
    stage_numbers.run(flight)
    assert flight.failed == []
    results = read_results(flight.output)
    tiers = ["default", "default", "late launch"]
    steps = [each for each in results if each["what"] == "step"]
    at_one = [each for each in steps if each["batch"] == 1 and each["compute_type"] == "bfloat16"]
    timed = [each["tier"] for each in at_one if each["phase"] == "refine"]
    assert timed[:3] == tiers
    assert (len(timed), timed[-1]) == (5, "plain")  # beside the better of the first two
    assert {(each["compute_type"], each["batch"]) for each in steps} == {("bfloat16", 1), ("bfloat16", 2), ("int8", 1)}
    assert all(each["ms"] > 0 and each["device_ms"] is None for each in steps)
    answers = {(r["compute_type"], r["batch"], r["k"]): r for r in results if r["what"] == "answer"}
    one, two = ({("bfloat16", batch, k) for k in ks} for batch, ks in ((1, (1, 3, 4.2)), (2, (3, 4.2))))
    assert set(answers) == one | two | {("int8", 1, 4.2)}
    assert answers["bfloat16", 1, 3]["tokens_per_step"] == 8 / 3
    assert {each["what"] for each in results if each.get("skipped")} == {"roof", "kernels"}
    (same,) = (each for each in results if each["what"] == "logits: late launch against default")
    assert (same["difference"], same["equal_tokens"]) == (0, 1)
    calls = {(r["phase"], r["op"]): r["calls_per_step"] for r in results if r["what"] == "op"}
    for phase in ("refresh", "refine"):
        assert calls[phase, "candidates"] == calls[phase, "commit"] == calls[phase, "embed"] == 1
        assert calls[phase, "attention"] == TINY.n_layers
    (memory,) = (each for each in results if each["what"] == "memory")
    assert memory["formula_bytes"] == sum(memory["terms"].values())
    assert "| refine | llada_rt | bfloat16 | late launch, in turn | 1 |" in summary(results)


def test_a_part_that_fails_leaves_the_others(flight, monkeypatch):
    def fail(*arguments: object) -> None:
        raise RuntimeError("no trace here")

    monkeypatch.setattr(stage_numbers, "record_ops", fail)
    monkeypatch.setattr(stage_numbers, "logits_difference", lambda *arguments: 0.5)
    stage_numbers.run(flight)
    assert flight.failed == [f"logits: {tier} against default" for tier in ("late launch", "plain")] + [
        "ops one by one"
    ]
    results = read_results(flight.output)
    # What gives other logits isn't timed any further, however fast it is.
    assert {each["tier"] for each in results if each["what"] == "answer"} == {"default"}
    assert [each["what"] for each in results if each["what"] == "memory"] == ["memory"]


@pytest.mark.parametrize("wrong", [np.nan, 1e-6])
def test_logits_that_differ_are_told(flight, monkeypatch, wrong):
    some_logits = stage_numbers.some_logits

    def other_logits(bench, rig, length):
        return some_logits(bench, rig, length) + (wrong if rig.tier == "late launch" else 0)

    monkeypatch.setattr(stage_numbers, "some_logits", other_logits)
    stage_numbers.run(flight)
    assert flight.failed == ["logits: late launch against default"]


def test_shares_of_the_roofs(flight):
    bench = Bench(flight, device.cpu_tables()[0], weights.model_folder(flight), SMALL, Roofs(1e9, 1e12))
    rig = bench.open("bfloat16")
    measure_steps(bench, [rig], 1)
    measure_answers(bench, rig, 1, [4])
    rig.close()
    load, *timed = read_results(flight.output)
    assert load["what"] == "load"
    # All weights but the embedding, once; K and V of the canvas, read, and of the block, written.
    matrices = 2 * (4 * 64**2 + 3 * 64 * 96) + 64 * 160
    step_bytes = 2 * matrices + (32 + 8) * 2 * 2 * 64 * 2
    refine = timed[0]
    assert refine["phase"] == "refine"
    assert refine["roof_ms"] == pytest.approx(step_bytes / 1e9 * 1e3)
    for each in timed:
        assert each["share_of_roof"] == pytest.approx(each["roof_ms"] / each["ms"])


def test_rivals(flight):
    stage_rivals.run(flight)
    assert flight.failed == []
    results = read_results(flight.output)
    answers = [(each["who"], each["k"]) for each in results if each["what"] == "answer"]
    fast_dllm, arm = stage_rivals.FAST_DLLM, stage_rivals.ARM
    assert answers == [(fast_dllm, 3), (fast_dllm, 4.2), (arm, 1)]
    steps = [(each["who"], each["phase"]) for each in results if each["what"] == "step"]
    assert steps == [(arm, "token"), (fast_dllm, "refine"), (fast_dllm, "refresh")]
    assert all(each["ms"] > 0 for each in results)


def test_a_gpu_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(rig.device, "missing_cuda", lambda: "no NVIDIA driver on this machine")
    with pytest.raises(RuntimeError, match="no GPU: no NVIDIA driver"):
        stage_numbers.run(Flight("numbers", tmp_path, tmp_path))


def test_a_dry_run_without_the_imitation(tmp_path, monkeypatch):
    from tests import cuda_host

    monkeypatch.setattr(cuda_host, "add_table", lambda: pytest.skip("no C++ compiler"))
    assert rig.table_of(Flight("numbers", tmp_path, tmp_path, dry=True)) == device.cpu_tables()[0]
    assert read_results(tmp_path)[0]["why"] == "no C++ compiler"


def test_a_tier_is_chosen_while_a_runtime_is_opened(flight, monkeypatch):
    names = ("LLADA_CUDA_PRODUCTS", "LLADA_CUDA_EARLY_LAUNCH")
    monkeypatch.setenv(names[1], "1")
    monkeypatch.delenv(names[0], raising=False)
    seen = []

    def open_runtime(*arguments: object, **options: object) -> None:
        seen.append([rig.os.environ.get(name) for name in names])

    monkeypatch.setattr(rig._core, "Runtime", open_runtime)
    for tier in ("default", "late launch", "plain"):
        Rig(flight, flight.scratch, "", "bfloat16", tier)
    assert seen == [[None, "1"], [None, "0"], ["plain", "1"]]
    assert [rig.os.environ.get(name) for name in names] == [None, "1"]


def test_the_arm_writes_what_its_model_says(tmp_path):
    """Through its cache, as the whole text in one causal forward; the graph itself needs a GPU."""
    model = LLaDA.from_folder(TINY.write(tmp_path), dtype=torch.float32)
    prompt = TINY.text(9)
    tokens = stage_rivals.eager_answer(GraphedArm(model, length=24), prompt, 8)
    causal = LLaDA(replace(model.config, causal=True))
    causal.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = causal(torch.tensor([prompt + tokens]))[0]  # (17, vocabulary)
    assert tokens == logits[8:-1].argmax(-1).tolist()


# ---------------------------------------------------------------- kernels


def test_overlapping_kernels_are_busy_once():
    events = [Event("b", 10, 14), Event("a", 0, 6), Event("a", 4, 8), Event("c", 5, 7)]
    activity = activity_of(events)
    assert activity.kernels == {"a": (2, 10), "b": (1, 4), "c": (1, 2)}
    assert list(activity.kernels) == ["a", "b", "c"]
    assert (activity.sum_us, activity.busy_us, activity.span_us) == (16, 12, 14)
    assert activity_of([]).span_us == 0


def test_short_names():
    ours = "void llada::cuda::(anonymous namespace)::matmul_kernel<llada::cuda::Tile<32, 64>, false>(llada::cuda::In)"
    assert short_name(ours) == "matmul_kernel<Tile<32, 64>, false>"
    assert short_name("Memcpy HtoD (Pinned -> Device)") == "Memcpy HtoD (Pinned -> Device)"
    cutlass = (
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int, int, int>, "
        "cutlass::gemm::collective::CollectiveMma<cutlass::gemm::MainloopSm90TmaGmmaWarpSpecialized<4, "
        "cute::tuple<cute::C<2>, cute::C<1>, cute::C<1> >, X>, cute::tuple<cute::C<{}>, cute::C<256>, cute::C<64> > > "
        "> >(cutlass::Params<cute::C<1>, (int)3>)"
    )
    names = [short_name(cutlass.format(rows)) for rows in (64, 128)]
    assert [name.split()[-2] for name in names] == ["64x256x64", "128x256x64"]
    assert all(len(name) <= kernels.MOST_LETTERS for name in names)
    assert names[0] != names[1]


def test_kernels_are_recorded_per_step(flight, monkeypatch):
    def profiled(run):
        run()
        return [Event("product", 0, 30), Event("product", 30, 60), Event("rope", 70, 73)]

    monkeypatch.setattr(kernels, "profiled", profiled)
    rig = Rig(flight, weights.model_folder(flight), device.cpu_tables()[0], "bfloat16")
    kernels.record_kernels(flight, rig, {"refine": 0.030}, SMALL)
    assert rig.runtime.num_open_slots == 0
    refine, product, rope, refresh, *_ = read_results(flight.output)
    assert [(r["what"], r["phase"]) for r in (refine, refresh)] == [("kernels", "refine"), ("kernels", "refresh")]
    assert refine["busy_us_per_step"] == 21
    assert refine["idle_ms"] == pytest.approx(0.009)
    assert refresh["busy_us_per_step"] == 63
    assert refresh["idle_ms"] is None
    assert (product["calls"], product["us_per_step"]) == (0.67, 20)
    assert rope["name"] == "rope"
    monkeypatch.setattr(kernels, "profiled", lambda run: run() or [])
    with pytest.raises(RuntimeError, match="no kernel"):
        kernels.record_kernels(flight, rig, {}, SMALL)
    rig.close()


# ---------------------------------------------------------------- the table


def test_the_table_has_every_result():
    step = {"what": "step", "compute_type": "bfloat16", "tier": "default", "batch": 1, "ms": 5.0, "spread": 0.02}
    answer = {"what": "answer", "compute_type": "bfloat16", "batch": 1, "gen_length": 256}
    names = {"phase": "refine", "compute_type": "bfloat16", "tier": "default"}
    results = [
        {"what": "stage", "name": "build", "status": "done", "s": 40.25},
        {"what": "logits", "holds": True},
        {"what": "a race", "stage": "races", "at_s": 1.5, "holds": False, "error": "it raced"},
        {"what": "roof", "of": "read, GB/s", "value": 3012.34},
        {"what": "roof", "of": "copy", "skipped": True},
        {"what": "load", "compute_type": "float8", "tier": "default", "seconds": 3.5, "weight_bytes": 9 * 10**9}
        | {"free_bytes_before": 80 * 10**9, "free_bytes_after": 70 * 10**9},
        step
        | {"phase": "refine", "device_ms": 4.99, "roof_ms": 4.0, "share_of_roof": 0.8, "gb_per_s": 3e3, "tflops": 99.6},
        {"what": "step", "phase": "token", "who": "torch ARM", "compute_type": "bfloat16", "batch": 1, "ms": 6.0},
        answer | {"who": "llada_rt", "k": 3, "tokens_per_step": 32 / 11, "tokens_per_s": 400.0},
        answer | {"who": "llada_rt", "k": 1, "tokens_per_step": 1.0, "tokens_per_s": 180.0},
        answer | {"who": "llada_rt", "k": 3, "tokens_per_step": 32 / 11, "tokens_per_s": 2000.0, "batch": 8},
        answer | {"who": "torch Fast-dLLM", "k": 3, "tokens_per_step": 32 / 11, "tokens_per_s": 50.0},
        answer | {"who": "torch ARM", "k": 1, "tokens_per_step": 1.0, "tokens_per_s": 90.0},
        {"what": "kernels", **names, "sum_us_per_step": 4600.0, "busy_us_per_step": 4500.0, "step_ms": 5.0},
        *({"what": "kernel", **names, "name": f"k|{i}", "calls": 1.0, "us_per_step": 230.0} for i in range(20)),
        {"what": "op", "phase": "refine", "op": "matmul", "calls_per_step": 5.0, "us_per_step": 100.0},
        {"what": "memory", "compute_type": "bfloat16", "batch": 32, "taken_bytes": 27e9, "formula_bytes": 26e9}
        | {"ratio": 1.038},
    ]
    shown = summary(results)
    for words in (
        "1 of 2 claims hold.\n- **does not hold** (races): a race. error: it raced\nSkipped: roof.",
        "| build | done | 40.2 |",
        "| read, GB/s | 3012.3 |",
        "| float8 | default | 3.50 | 9.00 | 10.00 |",
        "| 1 | 5.000 | 4.990 | 4.500 | 0.500 | 4.000 | 80% | 3000 | 100 | 2% |",
        "| token | torch ARM | bfloat16 |  | 1 | 6.000 | - |",
        "| torch Fast-dLLM | bfloat16 |  | 1 | 3 | 2.91 | 50.0 | - | 8.00 |",
        "| torch ARM | bfloat16 |  | 1 | 1 | 1.00 | 90.0 | - | k = 3: 4.44, k = 1: 2.00 |",
        "## Kernels of a refine step, bfloat16, default",
        "| k\\|0 | 1.00 | 230.0 | 5% |",
        "| 5 others |  | 1150.0 | 25% |",
        "| refine | matmul | 5.0 | 100.0 |",
        "| bfloat16, batch 32 | 27.00 | 26.00 | 1.038 |",
    ):
        assert words in shown
    assert shown.index("does not hold") < shown.index("## Stages") < shown.index("## Steps")
    assert summary([]) == "\n"
