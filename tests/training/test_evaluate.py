"""Evaluation: estimates of the bound against its exact value, and the same answers from runtime and torch."""

import itertools
import json
import math

import pytest
import torch
from tokenizers import Tokenizer

from tests.tolerance import ROUNDING
from tests.training.conftest import small_config, small_model
from training import evaluate as command
from training import sampling
from training.arm import generate
from training.evaluate import parse_options
from training.evaluation import EngineSampler, evaluate, evaluate_likelihood, load_items
from training.likelihood import bound, hidden_losses, hidden_sets
from training.model import LLaDA
from training.model_folder import ExportConfig, export_model
from training.rows import DataError, RowConfig
from training.tasks import find_task
from training.tasks.items import Item, Tally, make_items
from training.tasks.verse import Poem, VerseBook, verse_items
from training.tasks.verse_evaluation import line_rows
from training.tokenization import EOS_TOKEN, EOT_TOKEN, MASK_TOKEN, build_tokenizer

TOKENIZER = build_tokenizer(find_task("addition").texts)
EOS, EOT, MASK = (TOKENIZER.token_to_id(token) for token in (EOS_TOKEN, EOT_TOKEN, MASK_TOKEN))


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An untrained model of each kind in the published layout; large weights, so that answers differ."""
    made = {}
    for kind, causal in (("mdm", False), ("arm", True)):
        model = LLaDA(small_config(vocab_size=-(-TOKENIZER.get_vocab_size() // 16) * 16, causal=causal))
        model.initialize(torch.Generator().manual_seed(11))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(4)
        made[kind] = tmp_path_factory.mktemp(kind) / "model"
        export_model(model, TOKENIZER, made[kind], ExportConfig(name=kind, dtype="float32"))
    return made


# ---------------------------------------------------------------------------------------------------------- likelihood


def exact_bound(model, prompt, answer) -> float:
    """Every set of hidden tokens with its chance: l uniform in 1..L, then any set of that size."""
    length, total = len(answer), 0.0
    for count in range(1, length + 1):
        sets = list(itertools.combinations(range(length), count))
        hidden = torch.zeros(len(sets), length, dtype=torch.bool)
        for row, chosen in enumerate(sets):
            hidden[row, list(chosen)] = True
        total += hidden_losses(model, prompt, answer, hidden).mean().item() * (length / count) / length
    return total


@pytest.fixture(scope="module")
def sharp():
    model = small_model(seed=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model.eval()


def test_hidden_losses_are_cross_entropies_by_hand(sharp):
    prompt, answer = [5, 6], [7, 8, 9]
    found = hidden_losses(sharp, prompt, answer, torch.tensor([[True, False, True], [False, False, False]]))
    with torch.no_grad():
        table = sharp(torch.tensor([[5, 6, 2, 8, 2]])).double().log_softmax(-1)[0]
    by_hand = -(table[2, 7] + table[4, 9]).item()
    assert found.tolist() == pytest.approx([by_hand, 0.0], rel=64 * ROUNDING["float32"])


def test_both_weights_integrate_to_the_same_chances():
    """Eq. 12 and eq. 14 weigh a set of l hidden of L tokens alike: 1 / (l C(L, l)) both ways."""
    length = 5
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for count in range(1, length + 1):
        integral = (t ** (count - 1) * (1 - t) ** (length - count)).mean().item()
        assert integral == pytest.approx(1 / (count * math.comb(length, count)), rel=1e-9)


@pytest.mark.parametrize("estimator", ["counted", "times"])
def test_the_estimate_is_the_exact_bound(sharp, estimator):
    rows = [([5, 6], [7, 8, 9, 1]), ([], [10, 11, 1]), ([12], [13])]
    exact = sum(exact_bound(sharp, prompt, answer) for prompt, answer in rows) / 8
    found = bound(sharp, rows, num_draws=8192, estimator=estimator)
    assert (found.num_tokens, found.num_rows, found.num_draws) == (8, 3, 8192)
    assert 0 < found.draw_error < 0.05 * exact
    # Draws are spread evenly, so four of the stated errors are ample; two estimators that agreed by chance would not.
    assert abs(found.nats_per_token - exact) < 4 * found.draw_error
    assert found.perplexity == pytest.approx(math.exp(found.nats_per_token))


def test_the_count_estimator_needs_fewer_draws(sharp):
    errors = [
        bound(sharp, [([5], [7, 8, 9, 10, 1])], num_draws=512, estimator=e).draw_error for e in ("counted", "times")
    ]
    assert errors[0] < errors[1]


def test_the_bound_is_above_the_likelihood_of_every_order(sharp):
    """The bound is the mean over orders of -log p along that order; no order's chain can be above its own mean."""
    prompt, answer = [5], [7, 8, 1]
    chains = []
    for order in itertools.permutations(range(3)):
        total = 0.0
        for done in range(3):
            hidden = torch.tensor([[place in order[done:] for place in range(3)]])
            before = hidden_losses(sharp, prompt, answer, hidden)
            others = hidden.clone()
            others[0, order[done]] = False
            # The loss at one hidden place, the other hidden ones still hidden.
            clean = torch.tensor([[*prompt, *answer]])
            masked = torch.cat([torch.zeros(1, 1, dtype=torch.bool), hidden], 1)
            with torch.no_grad():
                logits = sharp(clean.masked_fill(masked, 2)).double().log_softmax(-1)
            total -= logits[0, 1 + order[done], answer[order[done]]].item()
            assert before.item() > 0
        chains.append(total)
    assert exact_bound(sharp, prompt, answer) == pytest.approx(sum(chains) / 6, rel=64 * ROUNDING["float32"])


def test_an_estimate_depends_neither_on_batches_nor_on_neighbours(sharp):
    rows = [([5, 6], [7, 8, 9, 1]), ([10], [11, 1])]
    together = bound(sharp, rows, num_draws=32)
    small = bound(sharp, rows, num_draws=32, batch_tokens=8)
    assert small.nats_per_token == pytest.approx(together.nats_per_token, rel=64 * ROUNDING["float32"])
    hidden, weight = hidden_sets(4, 32, "counted", seed=0, row=1)
    assert (hidden.sum(1) * weight == 4).all()
    assert hidden.sum(1).min() >= 1
    longer, _ = hidden_sets(4, 48, "counted", seed=0, row=1)
    assert (longer[:32] == hidden).all()


def test_wrong_uses_of_the_bound_are_refused(sharp):
    with pytest.raises(ValueError, match="its likelihood is exact"):
        bound(small_model(causal=True), [([5], [6])])
    with pytest.raises(ValueError, match="row 1 has no answer"):
        bound(sharp, [([5], [6]), ([5], [])])
    with pytest.raises(ValueError, match="'counted' or 'times'"):
        bound(sharp, [([5], [6])], estimator="both")


# ----------------------------------------------------------------------------------------------------------- questions


def test_questions_of_rows():
    rows = [("a:1", {"prompt": "1+1=", "answer": "2"}), ("a:2", {"prompt": "9+9=", "answer": "18"})]
    items = make_items("sums", rows, TOKENIZER, RowConfig())
    assert items[0].canvas == (*ids("1+1="), MASK, MASK, MASK)  # the longest answer and its end
    assert (items[0].start, items[0].accepted) == (4, frozenset(["2"]))
    template = make_items("holes", [("a:1", {"template": "1_=_", "answer": "1+=2"})], TOKENIZER, RowConfig())[0]
    assert (template.canvas, template.start) == ((*ids("1"), MASK, *ids("="), MASK), 0)
    assert template.accepts("1+=2")
    dialogue = [("a:1", {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": " 2"}]})]
    assert make_items("talk", dialogue, TOKENIZER, RowConfig())[0].accepted == frozenset(["2"])
    checked = make_items("sums", rows, TOKENIZER, RowConfig(), check=lambda row, answer: answer == row["prompt"])
    assert [item.accepts("9+9=") for item in checked] == [False, True]


def test_answers_that_fill_the_canvas_are_refused():
    rows = [("a:1", {"prompt": "9+9=", "answer": "18"})]
    with pytest.raises(
        DataError, match="a:1: the answer fills the canvas: it and its end take 3 tokens, gen_length is 2"
    ):
        make_items("sums", rows, TOKENIZER, RowConfig(), gen_length=2)
    with pytest.raises(DataError, match="a text asks nothing"):
        make_items("texts", [("a:1", {"text": "18"})], TOKENIZER, RowConfig())


def own_rows(folder, kind) -> list[dict[str, str]]:
    """Questions whose right answers are what the model says by itself, without an engine and without a cache."""
    model = LLaDA.from_folder(folder)
    prompts = [ids(f"{i}+{7 * i}=") for i in range(12)]
    if kind == "arm":
        answers = generate(model, prompts, max_new_tokens=6, stop_ids=[EOS, EOT])
    else:
        answers = [c[-6:] for c in sampling.infill(model, [[*prompt, *[MASK] * 6] for prompt in prompts])]
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        stop = next((i for i, token in enumerate(answer) if token in (EOS, EOT)), len(answer))
        text = TOKENIZER.decode(answer[:stop], skip_special_tokens=False).strip()
        rows.append({"prompt": TOKENIZER.decode(prompt), "answer": text})
    return rows


@pytest.mark.parametrize(("kind", "torch_loop"), [("mdm", False), ("mdm", True), ("arm", False)])
def test_a_model_is_right_about_what_it_says_itself(folders, kind, torch_loop):
    rows = own_rows(folders[kind], kind)
    items = [
        Item("own", (*ids(row["prompt"]), *[MASK] * 6), len(ids(row["prompt"])), frozenset([row["answer"]]))
        for row in rows
    ]
    assert len({row["answer"] for row in rows}) > 3
    tallies, facts = evaluate(folders[kind], items, torch_loop=torch_loop)
    assert tallies == {"own": Tally(12, 12)}
    wrong = [Item("own", item.canvas, item.start, frozenset(["no"])) for item in items]
    assert evaluate(folders[kind], wrong, torch_loop=torch_loop)[0] == {"own": Tally(0, 12)}
    assert ("tokens_per_forward" in facts) == (kind == "mdm" and not torch_loop)


def test_infilling_through_the_runtime_is_that_of_the_torch_loop(folders):
    rows = [(f"a:{i}", {"template": f"{i}+_={i}__", "answer": f"{i}+1={i}23"}) for i in range(10)]
    items = make_items("holes", rows, TOKENIZER, RowConfig())
    model = LLaDA.from_folder(folders["mdm"])
    own = {item.canvas: sampling.infill(model, [item.canvas])[0] for item in items}
    from llada_rt import Engine

    with Engine(str(folders["mdm"]), compute_type="float32") as engine:
        filled = EngineSampler(engine, {})(items)
        assert filled == [own[item.canvas] for item in items]
        fast = EngineSampler(engine, {"threshold": 0.01})
        fast(items)
        assert fast.tokens_per_forward == 3.0  # every hole at once


def test_an_arm_leaves_templates_out_and_says_so(folders):
    question = make_items("sums", [("a:1", {"prompt": "1+1=", "answer": "2"})], TOKENIZER, RowConfig())
    template = make_items("holes", [("a:1", {"template": "1_", "answer": "12"})], TOKENIZER, RowConfig())
    tallies, facts = evaluate(folders["arm"], question + template)
    assert list(tallies) == ["sums"]
    assert facts["templates left out"] == 1
    with pytest.raises(ValueError, match="writes from left to right only"):
        evaluate(folders["arm"], template)
    with pytest.raises(ValueError, match="options: expected none, as they are the runtime's"):
        evaluate(folders["arm"], question, options={"cache": "dual"})


def test_likelihood_of_both_kinds(folders):
    rows = [(tuple(ids("1+1=")), (*ids("2"), EOS)), (tuple(ids("2+2=")), (*ids("4"), EOS))]
    found = {
        kind: evaluate_likelihood(folder, rows, num_draws=64, estimator="counted") for kind, folder in folders.items()
    }
    assert (found["mdm"]["kind"], found["arm"]["kind"]) == ("upper bound", "exact")
    assert all(result["num_tokens"] == 4 for result in found.values())
    assert all(result["nats_per_token"] > 0 for result in found.values())


def test_options_are_read_as_values():
    assert parse_options("cache=dual, threshold=0.9,eos_early_stop=true,steps=4") == {
        "cache": "dual",
        "threshold": 0.9,
        "eos_early_stop": True,
        "steps": 4,
    }
    assert parse_options("") == {}
    with pytest.raises(ValueError, match="name=value"):
        parse_options("dual")


def run_command(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr("sys.argv", ["evaluate", *map(str, arguments)])
    command.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["mdm", "arm"])
def test_the_command_asks_a_task(monkeypatch, capsys, folders, kind):
    arguments = (folders[kind], "--task", "addition", "--num", "5", "--bound", "--draws", "16")
    result = json.loads(run_command(monkeypatch, capsys, *arguments, "--json"))
    assert (result["task"], result["asked"]) == ("addition", 5)
    assert 0 <= result["right"] <= 5
    assert result["likelihood"]["num_rows"] == 5
    assert "of 5 right" in run_command(monkeypatch, capsys, *arguments)


def test_the_command_asks_a_file_and_says_what_is_wrong(monkeypatch, capsys, folders, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "1+1=", "answer": ""}\n')
    assert "1 right" in run_command(monkeypatch, capsys, folders["mdm"], "--task", path, "--num", "1").replace(
        "of 1", "1"
    )
    for arguments, message in (
        (("--task", path), r"mine\.jsonl:2: the row has no answer"),
        (("--task", "chess"), "task: expected a file"),
        (("--task", path, "--num", "1", "--options", "cash=dual"), "unknown option 'cash'"),
        (("--task", path, "--num", "1", "--gen-length", "1"), "fills the canvas"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_command(monkeypatch, capsys, folders["mdm"], *arguments)


def test_line_questions_have_a_likelihood():
    book = VerseBook((Poem("甲", "某", "词", ("春来，", "花开。"), ""),))
    tokenizer = build_tokenizer([poem.text for poem in book.poems])
    rows = line_rows(verse_items(book, tokenizer, gen_length=4), tokenizer)
    assert [tokenizer.decode(list(answer), skip_special_tokens=False) for _, answer in rows] == [
        f"花开{EOT_TOKEN}",
        f"春来{EOT_TOKEN}",
    ]
    assert all(tokenizer.token_to_id(MASK_TOKEN) not in prompt for prompt, _ in rows)


def test_task_questions_are_the_held_out_ones(folders):
    tokenizer = Tokenizer.from_file(str(folders["mdm"] / "tokenizer.json"))
    items, rows = load_items("addition", tokenizer, num=6, seed=3, chat=False, gen_length=None)
    expected = find_task("addition").generate(3, 6, "test")
    assert [min(item.accepted) for item in items] == [row["answer"] for row in expected]
    assert [tokenizer.decode(list(prompt)) for prompt, _ in rows] == [row["prompt"] for row in expected]
    shown, _ = load_items("addition", tokenizer, num=6, seed=3, chat=False, gen_length=None, split="train")
    assert [min(item.accepted) for item in shown] == [row["answer"] for row in find_task("addition").generate(3, 6)]
