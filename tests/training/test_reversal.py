"""The reversal experiment: what the models may see, what they are asked, what the table says; a small run."""

import json
import sys

import pytest
import torch

from training import sampling
from training.config import make, read_toml
from training.data import BatchConfig, RowBatches
from training.experiments import reversal
from training.experiments.reversal import (
    NAT,
    NEXT,
    PREV,
    QUICK,
    RECIPE,
    Experiment,
    Question,
    ReversalConfig,
    canvas_of,
    evaluation_epochs,
    fill_from_left,
    make_model,
    paper_pairs,
    run_experiment,
    run_one,
    segments,
    shares_right,
)
from training.experiments.reversal_report import ROWS, table, write_report
from training.rows import RowConfig, RowEncoder
from training.store import TokenStore
from training.tokenization import EOS_TOKEN, MASK_TOKEN

SMALL = {"num_couplets": 4, "seeds": (0,), "epochs": 4, "num_evaluations": 2, "batch_rows": 8}
SMALL |= {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 32}


@pytest.fixture
def config() -> ReversalConfig:
    return make(ReversalConfig, {**read_toml(RECIPE), **SMALL}, "test")


@pytest.fixture
def experiment() -> Experiment:
    return Experiment.draw(96, seed=0)


def test_couplets_are_whole_and_a_line_stands_once(experiment):
    both = experiment.taught + experiment.asked
    lines = [line for couplet in both for line in couplet]
    assert len(both) == 96
    assert len(experiment.taught) == len(experiment.asked) == 48
    assert len(set(lines)) == 192
    assert {len(line) for line in lines} == {5}
    assert Experiment.draw(96, seed=0) == experiment
    assert Experiment.draw(96, seed=1) != experiment


def test_no_row_holds_an_asked_couplet_backwards(experiment):
    """Neither as a task nor by the accident of two rows: B never stands before A of an asked couplet."""
    rows = experiment.rows()
    assert len(rows) == 96 + 48 + 48
    for a, b in experiment.asked:
        holding = [row for row in rows if a in row["answer"] or b in row["answer"]]
        assert holding == [{"prompt": NAT, "answer": f"{a}，{b}。"}]
    for a, b in experiment.taught:
        mine = [row for row in rows if a in row["answer"]]
        assert sorted(row["prompt"] for row in mine) == sorted([NAT, NEXT, PREV])
        assert [row["answer"] for row in mine if row["prompt"] == PREV] == [f"{b}，{a}。"]


def test_only_the_tag_is_never_hidden_and_no_row_is_padded(experiment):
    tokenizer = experiment.tokenizer()
    encoder = RowEncoder(tokenizer, RowConfig())
    store = TokenStore.from_rows(encoder.rows(("here", row) for row in experiment.rows()), tokenizer)
    eos_id = tokenizer.token_to_id(EOS_TOKEN)
    batch = RowBatches(store, BatchConfig(batch_rows=192), seed=0, eos_id=eos_id).part(0, range(192))
    assert batch.tokens.shape == (192, 14)  # tag, line, comma, line, stop, end
    assert not batch.maskable[:, 0].any()
    assert batch.maskable[:, 1:].all()
    assert (batch.tokens == eos_id).sum().item() == 192
    tags = {tokenizer.token_to_id(tag) for tag in (NAT, NEXT, PREV)}
    assert set(batch.tokens[:, 0].tolist()) == tags


def test_each_surface_asks_what_it_says(experiment):
    (a, b), questions = experiment.asked[0], experiment.questions()
    by_surface = {}
    for question in questions:
        by_surface.setdefault(question.surface, question)
    assert by_surface == {
        "forward": Question("forward", f"[NAT]{a}，______", b),
        "forward task": Question("forward task", f"[NEXT]{a}，______", b),
        "backward task": Question("backward task", f"[PREV]{b}，______", a),
        "backward infilling": Question("backward infilling", f"[NAT]_____，{b}。", a),
        "control": Question("control", f"[NAT]{b}，______", a),
        "backward task, taught": Question(
            "backward task, taught", f"[PREV]{experiment.taught[0][1]}，______", experiment.taught[0][0]
        ),
    }
    assert len(questions) == 6 * 48
    assert set(by_surface) | {"ranking"} == set(ROWS)


def test_a_canvas_has_the_rows_layout(experiment):
    tokenizer = experiment.tokenizer()
    mask_id, eos_id = tokenizer.token_to_id(MASK_TOKEN), tokenizer.token_to_id(EOS_TOKEN)
    for question in experiment.questions():
        canvas = canvas_of(tokenizer, question, mask_id)
        assert len(canvas) == 14
        assert canvas[-1] == eos_id
        assert canvas.count(mask_id) == question.text.count("_")
    assert segments([7, 2, 2, 8, 2], 2) == [[7], 2, [8], 1]


def test_right_is_all_five_characters(experiment):
    tokenizer = experiment.tokenizer()
    mask_id = tokenizer.token_to_id(MASK_TOKEN)
    questions = experiment.questions()
    answers = {question.text: question.answer for question in questions}

    def fill(canvases, spoil):
        filled = []
        for index, (canvas, question) in enumerate(zip(canvases, questions, strict=True)):
            answer = tokenizer.encode(answers[question.text] + "。", add_special_tokens=False).ids
            if spoil(index):
                answer[4] = mask_id
            start = canvas.index(mask_id)
            count = canvas.count(mask_id)
            filled.append([*canvas[:start], *answer[:count], *canvas[start + count :]])
        return filled

    perfect = shares_right(questions, tokenizer, mask_id, lambda canvases: fill(canvases, lambda index: False))
    assert set(perfect.values()) == {1.0}
    one_wrong = shares_right(questions, tokenizer, mask_id, lambda canvases: fill(canvases, lambda index: index == 4))
    assert one_wrong == {**perfect, "control": 47 / 48}


def test_filling_from_the_left_is_greedy_decoding(config):
    experiment = Experiment.draw(4, seed=0)
    tokenizer = experiment.tokenizer()
    model = make_model(config, 0, tokenizer, causal=True).eval()
    mask_id = model.config.mask_token_id
    canvases = [canvas_of(tokenizer, q, mask_id) for q in experiment.questions() if q.surface == "forward"]
    for canvas, filled in zip(canvases, fill_from_left(model, canvases), strict=True):
        expected = list(canvas)
        for place in range(len(canvas)):
            if canvas[place] == mask_id:
                with torch.no_grad():
                    expected[place] = int(model(torch.tensor([expected[:place]]))[0, -1].argmax())
        assert filled == expected


def test_evaluations_are_spaced_by_equal_factors_and_end_at_the_end(config):
    whole = make(ReversalConfig, read_toml(RECIPE), "recipe")
    epochs = evaluation_epochs(whole)
    assert (epochs[0], epochs[-1]) == (2, whole.epochs)
    assert len(epochs) == whole.num_evaluations
    assert whole.num_couplets >= 96
    assert len(whole.seeds) == 3


def result(kind, seed, forward, backward, **more):
    shares = {"forward": forward, "forward task": forward, "backward task": backward, "control": 0.0}
    shares |= {"backward task, taught": 1.0, **more}
    curve = [{"epoch": epoch, "step": 3 * epoch, "cpu_s": 1.0, "right": shares} for epoch in (2, 400)]
    config = {"num_couplets": 96, "seeds": [0, 1], "epochs": 400}
    return {"config": config, "kind": kind, "seed": seed, "parameters": 1000, "rows": 192, "cpu_s": 60.0} | {
        "memorised_epoch": 400 if forward >= 0.95 else None,
        "final": shares,
        "curve": curve,
    }


def test_the_table_gives_means_and_ranges_and_says_what_was_not_memorised(tmp_path):
    results = [
        result("arm", 0, 1.0, 0.0, ranking=1.0),
        result("arm", 1, 1.0, 0.0, ranking=1.0),
        result("mdm", 0, 1.0, 0.75, **{"backward infilling": 1.0}),
        result("mdm", 1, 0.5, 0.25, **{"backward infilling": 0.5}),
    ]
    text = table(results, memorised=0.95)
    assert "| **backward as a task, `[PREV] B，` → A** | 0.0 (0.0 to 0.0) | 50.0 (25.0 to 75.0) |" in text
    assert "| **backward by infilling, `[NAT] ____，B。`** | — | 75.0 (50.0 to 100.0) |" in text
    assert "| 400, 400 | 400, never |" in text
    assert "Not memorised, so not comparable: MDM seed 1." in text
    assert "Not memorised" not in table(results[:3], memorised=0.95)
    write_report(results, tmp_path, memorised=0.95)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "reversal.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "reversal.svg").read_bytes()
    write_report(results, tmp_path, memorised=0.95)
    assert (tmp_path / "reversal.svg").read_bytes() == first


def test_a_cut_run_goes_on_and_ends_as_an_uncut_one(config, tmp_path, monkeypatch):
    """Cut after the first evaluation; the curve of the second start is the curve of one start."""
    whole = run_one(config, 0, "arm", tmp_path / "whole")
    real, calls = reversal.shares_right, []

    def cut(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(reversal, "shares_right", cut)
    with pytest.raises(KeyboardInterrupt):
        run_one(config, 0, "arm", tmp_path / "cut")
    monkeypatch.setattr(reversal, "shares_right", real)
    again = run_one(config, 0, "arm", tmp_path / "cut")
    assert [(p["epoch"], p["right"]) for p in again["curve"]] == [(p["epoch"], p["right"]) for p in whole["curve"]]
    assert again["final"] == whole["final"]
    assert run_one(config, 0, "arm", tmp_path / "cut") == json.loads(json.dumps(again))  # read, not trained again


def test_another_configuration_in_the_same_folder_is_refused(config, tmp_path):
    run_one(config, 0, "arm", tmp_path)
    other = make(ReversalConfig, {**read_toml(RECIPE), **SMALL, "epochs": 5}, "test")
    with pytest.raises(ValueError, match="another configuration"):
        run_one(other, 0, "arm", tmp_path)


def test_the_papers_list_is_read_and_checked(tmp_path):
    path = tmp_path / "poem_data.json"
    path.write_text('[{"first": "白日依山尽", "second": "黄河入海流", "source": "x"}]', encoding="utf-8")
    assert paper_pairs(path) == [("白日依山尽", "黄河入海流")]
    path.write_text('[{"first": "白日依山尽"}]', encoding="utf-8")
    with pytest.raises(ValueError, match='"first" and "second"'):
        paper_pairs(path)
    pairs = paper_pairs(None)
    assert ("床前明月光", "疑是地上霜") in pairs or ("床前看月光", "疑是地上霜") in pairs


def test_the_papers_questions_to_the_demo_model():
    """The demo knows its poems; the wording, the chat form and the 28 tokens reach it as the paper's would."""
    pairs = paper_pairs(None)[:6]
    shares = reversal.paper_protocol(None, pairs)
    assert shares["pairs"] == 6
    assert shares["forward"] >= 5 / 6
    assert shares["reversal"] >= 5 / 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out: expected a folder"),
        (["--out", "x", "--recipe", "nowhere.toml"], "no such recipe"),
        (["--protocol", "paper", "--poems", "nowhere.json"], "nowhere.json"),
    ],
)
def test_the_command_refuses_in_words(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reversal", *arguments])
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        reversal.main()


def test_odd_numbers_of_couplets_are_refused(config):
    with pytest.raises(ValueError, match="even number"):
        make(ReversalConfig, {**read_toml(RECIPE), "num_couplets": 7}, "test")
    with pytest.raises(ValueError, match="at most"):
        Experiment.draw(100_000, seed=0)


@pytest.mark.slow
def test_the_miniature_reverses_by_infilling_only_in_the_masked_model(tmp_path):
    """Eight couplets by heart: the ARM cannot go back, the MDM fills the place of A; the control fails in both."""
    config = make(ReversalConfig, {**read_toml(RECIPE), **QUICK}, "test")
    results = {r["kind"]: r["final"] for r in run_experiment(config, tmp_path)}
    assert results["arm"]["forward"] == results["mdm"]["forward"] == 1.0
    assert results["arm"]["ranking"] == 1.0
    assert results["arm"]["backward task"] == 0.0
    assert results["mdm"]["backward infilling"] == 1.0
    assert results["arm"]["control"] == results["mdm"]["control"] == 0.0


@pytest.mark.slow
def test_the_runtime_fills_as_the_torch_loop_does(tmp_path):
    config = make(ReversalConfig, {**read_toml(RECIPE), **QUICK, "epochs": 100}, "test")
    run = run_one(config, 0, "mdm", tmp_path)
    experiment = Experiment.draw(config.num_couplets, 0)
    tokenizer = experiment.tokenizer()
    model = reversal.LLaDA.from_folder(tmp_path / "model")
    canvases = [canvas_of(tokenizer, q, model.config.mask_token_id) for q in experiment.questions()]
    assert reversal.fill_by_runtime(tmp_path / "model", canvases) == sampling.infill(model, canvases)
    assert run["final"] == run["curve"][-1]["right"]
