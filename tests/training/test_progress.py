"""What a run tells, beside what the trainer's own tests see."""

import json

import pytest

from training.progress import Progress, draw_curves, read_metrics

RECORD = {"loss": 1.5, "lr": 1e-3, "tokens": 8, "tokens_per_s": 2.0, "step_s": 3600.0}


def records(*steps: int) -> list[dict[str, float]]:
    return [{"step": step, **RECORD, "tokens": 8 * step} for step in steps]


def test_records_after_the_checkpoint_are_dropped_and_a_cut_line_too(tmp_path):
    lines = [json.dumps(record) for record in records(1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n" + lines[0][:9])
    progress = Progress(tmp_path, total=5)
    progress.start(2)
    for record in records(3):
        progress.record(record)
    progress.stop()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_line_cut_behind_the_checkpoint_does_not_spoil_the_next(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps(records(1)[0]) + '\n{"step": 2, "lo')
    progress = Progress(tmp_path, total=5)
    progress.start(1)
    progress.record(records(2)[0])
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


def test_the_line_for_people_tells_loss_rate_speed_and_time_left(tmp_path, capsys):
    Progress(tmp_path, total=31).record({**records(1)[0], "held_out": 2.5})
    line = capsys.readouterr().err
    assert line == "step 1/31  loss 1.5000  held out 2.5000  lr 1.00e-03  2 tokens/s  left 1 day, 6:00:00\n"


def test_one_record_is_no_curve(tmp_path):
    assert draw_curves(tmp_path) is None
    Progress(tmp_path, total=5).record(records(1)[0])
    assert draw_curves(tmp_path) is None


def test_tensorboard_if_it_is_there(tmp_path):
    pytest.importorskip("tensorboard")
    progress = Progress(tmp_path, total=5, tensorboard=True)
    progress.record(records(1)[0])
    progress.stop()
    assert list((tmp_path / "tensorboard").iterdir())


def test_tensorboard_that_is_not_there_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        Progress(tmp_path, total=5, tensorboard=True)
