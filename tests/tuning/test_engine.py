"""Tuning a real engine: the record is taken up, folders stay whole, bad input is refused before any work."""

import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree

import pytest

from llada_rt import Engine, InvalidRequestError, SamplingParams
from llada_rt.config import DEMO_DIR
from llada_rt.errors import ConfigError
from llada_rt.folder.model_files import check_folder
from llada_rt.tools.convert import convert_model
from llada_rt.tools.verification import verify_folder
from llada_rt.tuning.figure import ticks
from tests.engine.models import write_folder

OPTIONS = {"threads": 1, "max_num_seqs": 4}
SETTINGS = [
    {"threshold": 1e-4, "cache": "dual", "block_length": 8},
    {"threshold": 2e-4, "cache": "prefix", "block_length": 16},
]
PROMPTS = ["abc", "def", "ghi", "jkl", "mno"]
OWN = {"gen_length": 24, "steps": 12, "remasking": "entropy", "stop": ["zz"]}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", generation={"llada_rt": OWN, "bos_token_id": 159})


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    generation = {"llada_rt": {"gen_length": 24}}
    with Engine(write_folder(tmp_path_factory.mktemp("tune") / "model", generation=generation), **OPTIONS) as engine:
        yield engine


def test_a_new_engine_takes_the_record_up(folder):
    with Engine(folder, **OPTIONS) as engine:
        old = engine.default_params
        report = engine.tune(PROMPTS, PROMPTS, judge=lambda answer, text: True, settings=SETTINGS, budget_s=60)
        assert engine.default_params == old
    assert report.chosen.name != "exact"
    options = report.chosen.options
    with Engine(folder, **OPTIONS) as engine:
        now = engine.default_params
        assert {name: getattr(now, name) for name in ("threshold", "cache", "block_length")} == {
            name: options[name] for name in ("threshold", "cache", "block_length")
        }
        assert (now.gen_length, now.stop, now.steps, now.remasking) == (24, ("zz",), None, "low_confidence")
        assert now == SamplingParams(**options).over(old)
        asked = SamplingParams(**options, gen_length=24)
        assert [each.outputs[0].token_ids for each in engine.generate(PROMPTS)] == [
            each.outputs[0].token_ids for each in engine.generate(PROMPTS, asked)
        ]
    written = json.loads((folder / "generation_config.json").read_text())
    assert written["bos_token_id"] == 159
    assert written["llada_rt_tuning"]["before"] == OWN
    assert written["llada_rt_tuning"]["right"] == report.chosen.right


def test_a_block_longer_than_the_models_answers_brings_its_length(tmp_path):
    folder = write_folder(tmp_path / "model", generation={"llada_rt": {"gen_length": 8}})
    with Engine(folder, **OPTIONS) as engine:
        settings = [{"threshold": 1e-4, "block_length": 16}]
        params = SamplingParams(gen_length=32)
        report = engine.tune(PROMPTS, PROMPTS, judge=lambda answer, text: True, settings=settings, params=params)
    assert report.record["gen_length"] == 32
    with Engine(folder, **OPTIONS) as engine:
        assert (engine.default_params.gen_length, engine.default_params.block_length) == (32, 16)


def test_a_block_longer_than_what_was_asked_is_written_as_it_was_asked(tmp_path):
    """Answers of 8 positions were judged: a model that then wrote blocks of 32 would decode as nobody has tried."""
    folder = write_folder(tmp_path / "model", generation={"llada_rt": {"gen_length": 8}})
    setting = {"threshold": 1e-4, "block_length": 32}
    with Engine(folder, **OPTIONS) as engine:
        report = engine.tune(PROMPTS, PROMPTS, judge=lambda answer, text: True, settings=[setting])
        asked = engine.generate(PROMPTS, SamplingParams(**{**report.chosen.options, "block_length": 8}))
    assert report.chosen.name != "exact"
    assert report.record["block_length"] == 8
    with Engine(folder, **OPTIONS) as engine:
        assert (engine.default_params.gen_length, engine.default_params.block_length) == (8, 8)
        now = engine.generate(PROMPTS)
    assert [each.outputs[0].token_ids for each in now] == [each.outputs[0].token_ids for each in asked]


def test_what_is_written(engine, tmp_path):
    before = sorted(path.name for path in engine.config.model_dir.iterdir())
    report = engine.tune(PROMPTS, settings=SETTINGS, out=tmp_path / "out", budget_s=60)
    assert sorted(path.name for path in engine.config.model_dir.iterdir()) == before
    table = (tmp_path / "out" / "tuning" / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(report.rows) == 4
    assert all(row.name in table for row in report.rows)
    assert json.loads((tmp_path / "out" / "tuning" / "report.json").read_text()) == report.to_dict()
    drawing = ElementTree.fromstring((tmp_path / "out" / "tuning" / "front.svg").read_text())
    circles = drawing.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len([row for row in report.rows if row.tokens_per_s])
    width, height = float(drawing.get("width")), float(drawing.get("height"))
    assert all(0 <= float(c.get("cx")) <= width and 0 <= float(c.get("cy")) <= height for c in circles)
    titles = {circle.find("{http://www.w3.org/2000/svg}title").text.split(":")[0] for circle in circles}
    assert titles == {row.name for row in report.rows if row.tokens_per_s}
    assert report.machine["threads"] == 1


def test_answers_are_texts_without_the_white_space_around_them(engine, tmp_path):
    params = SamplingParams(preset="quality", gen_length=24, steps=None, cache="none")
    texts = [output.text for output in engine.generate(PROMPTS, params)]
    answers = [f" {texts[0]}\n", ["never", texts[1]], texts[2], "never", ["never"]]
    report = engine.tune(PROMPTS, answers, settings=SETTINGS, out=tmp_path)
    assert report.rows[0].right == 0.6
    assert (report.rows[0].same, report.rows[0].nats) == (None, None)


def test_a_judge_may_give_parts(engine, tmp_path):
    def judge(answer, text):
        return answer / 10

    report = engine.tune(PROMPTS, [0, 1, 2, 3, 4], judge=judge, settings=SETTINGS, out=tmp_path)
    assert [row.right for row in report.rows] == [pytest.approx(0.2)] * 3
    assert report.quality == "judge"


def test_the_exact_decoder_agrees_with_itself(engine, tmp_path):
    """A setting that commits one token a step without a cache, in the exact decoder's blocks, has the same tokens."""
    settings = [{"block_length": 32}, *SETTINGS]
    report = engine.tune(PROMPTS, settings=settings, out=tmp_path, params=SamplingParams(gen_length=40))
    row = next(row for row in report.rows if row.name == "block_length=32")
    assert (row.same, row.right, row.nats, row.asked) == (1.0, 1.0, 0.0, 5)
    assert report.chosen.right >= 0.99


def test_templates_are_tuned_too(engine, tmp_path):
    prompts = [{"segments": ["ab", 20, "cd", 3]}, {"segments": ["x", 7]}]
    settings = [{"threshold": 0.2, "block_length": 64}, {"threshold": 0.2, "block_length": 4}]
    report = engine.tune(prompts, settings=settings, out=tmp_path)
    assert report.rows[0].asked == 2
    assert report.rows[1].nats is None or report.rows[1].same == 1.0


def test_the_default_space_can_be_asked(engine, tmp_path):
    report = engine.tune(PROMPTS[:2], out=tmp_path, params=SamplingParams(gen_length=20), budget_s=60)
    assert len(report.rows) + len(report.untried) > 30
    assert report.spent_s < 60


def test_a_converted_folder_stays_whole(folder, tmp_path):
    converted = tmp_path / "converted"
    convert_model(folder, converted, compute_type="bfloat16")
    with Engine(converted, **OPTIONS) as engine:
        engine.tune(PROMPTS, settings=SETTINGS)
    check_folder(converted)
    assert all(check.is_good is not False for check in verify_folder(converted))
    listed = json.loads((converted / "llada_rt.json").read_text())["files"]["generation_config.json"]
    assert listed["sha256"] == hashlib.sha256((converted / "generation_config.json").read_bytes()).hexdigest()


def test_a_link_into_a_shared_store_is_replaced(folder, tmp_path):
    blobs = tmp_path / "hub" / "blobs"
    snapshot = tmp_path / "hub" / "snapshots" / "a1"
    shutil.copytree(folder, snapshot)
    blobs.mkdir()
    (snapshot / "generation_config.json").rename(blobs / "x")
    (snapshot / "generation_config.json").symlink_to(blobs / "x")
    before = (blobs / "x").read_bytes()
    with Engine(snapshot, **OPTIONS) as engine:
        engine.tune(PROMPTS, settings=SETTINGS)
    assert (blobs / "x").read_bytes() == before
    assert "llada_rt_tuning" in json.loads((snapshot / "generation_config.json").read_text())


def test_the_demo_model_stays_as_it_is(tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in DEMO_DIR.iterdir()}
    with Engine(threads=1) as demo:
        for out in (None, DEMO_DIR, str(DEMO_DIR) + "/."):
            with pytest.raises(ConfigError, match="demo model") as caught:
                demo.tune(["a"], out=out)
            assert "--out" in caught.value.hint
        demo.tune(["床前明月光的下一句是什么？"], settings=[{"threshold": 0.9}], out=tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in DEMO_DIR.iterdir()} == before
    assert json.loads((tmp_path / "generation_config.json").read_text())["mask_token_id"] == 2


def test_another_model_is_not_written(engine, folder):
    before = (folder / "generation_config.json").read_bytes()
    with pytest.raises(ConfigError, match="another model"):
        engine.tune(PROMPTS, out=folder)
    assert (folder / "generation_config.json").read_bytes() == before


def strict(answer, text):
    raise KeyError("no such answer")


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"prompts": []}, "prompts", "got none"),
        ({"prompts": "abc"}, "prompts", "list of prompts"),
        ({"prompts": [1, 2, 3]}, "prompts", "token ids"),
        ({"prompts": ["a", ""]}, "prompt", r"prompts\[1\]"),
        ({"prompts": ["a", {"promt": "b"}]}, None, r"prompts\[1\].*promt"),
        ({"answers": ["x", None, "y", None, "z"]}, "answers", r"got 3 for 5 prompts; prompts\[1\] has none"),
        ({"answers": ["x"]}, "answers", "each of 5 prompts, got 1"),
        ({"answers": "x"}, "answers", "a list"),
        ({"answers": [1, 2, 3, 4, 5]}, "answers", r"answers\[0\]: expected a text"),
        ({"answers": [[], [], [], [], []]}, "answers", r"answers\[0\]: expected a text"),
        ({"answers": ["never"] * 5}, "answers", "none right of"),
        ({"judge": len}, "judge", "expected answers beside it"),
        ({"judge": 3, "answers": PROMPTS}, "judge", "expected a function"),
        ({"judge": strict, "answers": PROMPTS}, "judge", "KeyError"),
        ({"judge": lambda answer, text: 7, "answers": PROMPTS}, "judge", "0 to 1, got 7"),
        ({"judge": lambda answer, text: "yes", "answers": PROMPTS}, "judge", "0 to 1, got 'yes'"),
        ({"keep": 0}, "keep", "above 0 and at most 1"),
        ({"keep": 1.01}, "keep", "above 0 and at most 1"),
        ({"keep": float("nan")}, "keep", "above 0 and at most 1"),
        ({"keep": True}, "keep", "above 0 and at most 1"),
        ({"budget_s": 0}, "budget_s", "above 0"),
        ({"budget_s": float("inf")}, "budget_s", "finite"),
        ({"budget_s": 1e-9}, "budget_s", "two settings"),
        ({"batch": 0}, "batch", "from 1"),
        ({"batch": 2.0}, "batch", "from 1"),
        ({"params": SamplingParams(threshold=0.9)}, "threshold", "got threshold"),
        ({"params": [SamplingParams()]}, "params", "got 1"),
        ({"params": {"gen_length": 3}}, "params", "expected SamplingParams"),
        ({"params": SamplingParams(gen_length=4096)}, None, r"prompts\[0\]"),
        ({"settings": [{"cache": "dual"}, {"colour": 3}]}, "colour", r"settings\[1\]"),
        (
            {"settings": [{"block_order": "confidence"}], "params": SamplingParams(regex="a*")},
            None,
            "block_order=confidence: .*regex",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input(engine, tmp_path, given, param, words):
    arguments = {"prompts": PROMPTS, "settings": SETTINGS, "out": tmp_path / "out", **given}
    with pytest.raises(InvalidRequestError, match=words) as caught:
        engine.tune(**arguments)
    if param is not None:
        assert caught.value.param == param
    assert not (tmp_path / "out" / "generation_config.json").exists()


@pytest.mark.parametrize("high", [0.3, 1.0, 7.0, 812.0, 2650.0, 40000.0])
def test_ticks_are_round_and_few(high):
    found = ticks(0, high)
    assert 4 <= len(found) <= 11
    assert found[0] == 0
    assert found[-1] <= high < found[-1] + found[1]
