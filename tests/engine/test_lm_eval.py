"""The lm-evaluation-harness adapter: LLaDA's pair encoding, scores that do not depend on order, whole tasks offline."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llada_rt import ContextLengthError, SamplingParams

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from llada_rt.tools.lm_eval_adapter import LladaRtLM


def ask(*args, kind="loglikelihood"):
    return Instance(request_type=kind, doc={}, arguments=args, idx=0)


class Upstream:
    """What upstream's pair encoding asks of a model."""

    backend = "causal"

    def __init__(self, encode):
        self.tok_encode = encode


@pytest.fixture(scope="module")
def lm(text_folder: Path):
    adapter = LladaRtLM(str(text_folder), mc_num=16, compute_type="float32", threads=1)
    with adapter.engine:
        yield adapter


@pytest.fixture(scope="module")
def demo():
    adapter = LladaRtLM(mc_num=32, compute_type="float32", threads=1)
    with adapter.engine:
        yield adapter


def test_trailing_spaces_go_to_the_continuation(lm: LladaRtLM):
    encode = lm.engine.tokenizer.encode
    assert lm.encode_pair("ab  ", "cd") == (encode("ab"), encode("  cd"))
    assert lm.encode_pair("ab\n", " c") == (encode("ab"), encode("\n c"))
    assert lm.encode_pair("", "cd") == ([], encode("cd"))
    assert lm.encode_pair("  ", "cd") == ([], encode("  cd"))


def test_both_are_encoded_together(demo: LladaRtLM):
    """The demo's tokenizer has phrases of many characters as one token: what crosses the seam stays whole."""
    context, continuation = demo.encode_pair("背诵李白", "的《静夜思》。")
    whole = demo.engine.tokenizer.encode("背诵李白的《静夜思》。")
    assert context + continuation == whole
    assert len(context) == len(demo.engine.tokenizer.encode("背诵李白"))


def test_what_merges_is_split_as_upstream_does(demo: LladaRtLM):
    """`whole[len(context ids):]`, upstream's rule, wherever that leaves something."""
    encode = demo.engine.tokenizer.encode
    pairs = [("a背", "诵b"), ("背诵李白", "的《静夜思》。"), ("a ", "b"), ("床前", "明月"), ("a背", "诵")]
    upstream = [TemplateLM._encode_pair(Upstream(encode), *pair) for pair in pairs]
    assert [demo.encode_pair(*pair) for pair in pairs[:4]] == upstream[:4]
    assert upstream[4][1] == []
    # Where it leaves nothing, the token that both share is the continuation's.
    assert demo.encode_pair("a背", "诵") == (encode("a"), encode("背诵"))
    assert demo.encode_pair("背", "诵") == ([], encode("背诵"))
    assert demo.encode_pair("背诵", "") == (encode("背诵"), [])


def test_what_merges_is_counted_and_named_and_the_run_goes_on(demo: LladaRtLM, caplog):
    requests = [ask("床前", "明月"), ask("背", "诵"), ask("a背", "诵b"), ask("背诵", "")]
    for number, request in enumerate(requests):
        request.task_name, request.doc_id = "poems", 30 + number
    before = demo.num_merged
    results = demo.loglikelihood(requests)
    assert len(results) == 4
    assert all(math.isfinite(score) for score, _ in results)
    assert results[3] == (0.0, True)
    assert demo.num_merged - before == 2
    (record,) = caplog.records
    assert "2 of 4 continuations share a token" in record.message
    assert "poems, document 31; poems, document 32" in record.message
    caplog.clear()
    demo.loglikelihood(requests[:1])
    assert not caplog.records


def test_a_score_is_the_engines_and_does_not_depend_on_the_order(lm: LladaRtLM):
    pairs = [("abc", " d"), ("", "xyz"), ("床前明月", "光"), ("abc", " e"), ("abc", " d")]
    requests = [ask(*pair) for pair in pairs]
    forwards = lm.loglikelihood(requests)
    assert forwards == lm.loglikelihood(requests[::-1])[::-1]
    assert forwards == [lm.loglikelihood([request])[0] for request in requests]
    assert forwards[0] == forwards[4]
    assert len({score for score, _ in forwards}) == 4
    # Near the engine's own estimate by another seed, with many draws.
    context, continuation = lm.encode_pair(*pairs[1])
    other = lm.engine.score(context, continuation, mc_num=2048, seed=99)
    few = lm.engine.score(context, continuation, mc_num=16, seed=98)
    assert abs(forwards[1][0] - other.log_likelihood) < 6 * (few.standard_error + other.standard_error)


def test_the_greedy_check(text_folder: Path):
    with LladaRtLM(str(text_folder), mc_num=1, check_greedy=True, compute_type="float32", threads=1).engine as engine:
        lm = LladaRtLM.__new__(LladaRtLM)
        lm.__dict__ |= {"engine": engine, "check_greedy": True, "cfg_scale": 0.0}
        greedy = engine.generate([[1, 2, 3]], SamplingParams(gen_length=4))[0].outputs[0].token_ids
        assert lm._is_greedy([1, 2, 3], greedy)
        assert not lm._is_greedy([1, 2, 3], [*greedy[:3], (greedy[3] + 1) % 100])
        assert not lm._is_greedy([], [5, 6, 7])


def test_what_is_too_long_is_refused_before_any_work(lm: LladaRtLM, monkeypatch):
    monkeypatch.setattr(lm.engine, "score", None)
    with pytest.raises(ContextLengthError, match="127 tokens of context"):
        lm.loglikelihood([ask("a", "b"), ask("a" * 127, "bc")])


def test_a_rolling_score_covers_every_token_once(lm: LladaRtLM, monkeypatch):
    seen = []
    monkeypatch.setattr(lm, "_log_likelihood", lambda context, answer: seen.append((context, answer)) or -len(answer))
    text = "".join(chr(32 + i % 95) for i in range(300))
    ids = lm.engine.tokenizer.encode(text)
    assert lm.loglikelihood_rolling([ask(text), ask("abc"), ask("")]) == [-300, -3, 0]
    windows = seen[:-1]
    assert [token for _, answer in windows for token in answer] == ids
    assert all(len(context) + len(answer) <= lm.engine.max_length for context, answer in windows)
    assert all(len(context) == 64 for context, _ in windows[1:])


def test_generation_is_cut_at_stop_strings_and_keeps_to_the_limit(lm: LladaRtLM):
    (whole,) = lm.generate_until([ask("abc", {"until": [], "max_gen_toks": 12})])
    expected = lm.engine.generate("abc", SamplingParams(gen_length=12))[0].outputs[0].token_ids
    ends = {lm.engine.eos_token_id, lm.engine.eot_token_id}
    cut = next((i for i, token in enumerate(expected) if token in ends), 12)
    assert whole == lm.engine.tokenizer.decode(expected[:cut])
    assert len(whole) > 3
    stop = whole[2]
    assert lm.generate_until([ask("abc", {"until": ["§", stop], "max_gen_toks": 12})]) == [whole[: whole.index(stop)]]
    assert lm.generate_until([ask("abc", {"until": stop, "max_gen_toks": 12})]) == [whole[: whole.index(stop)]]


def test_samples_differ_between_repeats_and_not_between_runs(lm: LladaRtLM):
    hot = {"until": [], "max_gen_toks": 24, "do_sample": True, "temperature": 1.5}
    requests = [ask("abc", hot), ask("x", hot), ask("abc", hot)]
    first = lm.generate_until(requests)
    assert first == lm.generate_until(requests)
    assert first[0] != first[2]
    assert sorted(first) == sorted(lm.generate_until(requests[::-1]))


def test_model_arguments(text_folder: Path):
    with pytest.raises(ValueError, match="unknown model argument 'mcnum'"):
        LladaRtLM(str(text_folder), mcnum=3)
    lm = LladaRtLM.create_from_arg_string(
        f"model_dir={text_folder},mc_num=4,gen_length=8,cache=dual,threads=1,cfg_scale=0.5", {"batch_size": "auto"}
    )
    with lm.engine:
        params = lm._params_of({"until": [], "max_gen_toks": 99}, 1)
        assert (params.gen_length, params.cache, params.cfg_scale, params.temperature) == (8, "dual", 0.5, 0.0)
        assert lm.generate_until([ask("abc", {"until": []})])


def test_the_instruction_set_and_its_old_name(text_folder: Path):
    with LladaRtLM(str(text_folder), threads=1, cpu_isa="generic").engine as engine:
        assert engine.config.cpu_isa == "generic"
    with pytest.warns(DeprecationWarning, match="table is now called cpu_isa"):
        adapter = LladaRtLM(str(text_folder), threads=1, table="generic")
    with adapter.engine as engine:
        assert engine.config.cpu_isa == "generic"


def test_chat(lm: LladaRtLM):
    history = [{"role": "user", "content": "hi"}]
    text = lm.apply_chat_template(history)
    assert lm.engine.tokenizer.encode(text) == lm.engine.apply_chat_template(history)
    begun = lm.apply_chat_template([*history, {"role": "assistant", "content": "So"}], add_generation_prompt=False)
    assert begun == text + "So"
    assert "messages" in lm.chat_template(True)
    assert lm.tokenizer_name.endswith("tiny-text")


QUESTION = "{line}的下一句是什么？ 直接输出句子即可。"
LINES = {"白日依山尽": "黄河入海流", "床前明月光": "疑是地上霜", "春眠不觉晓": "处处闻啼鸟", "举头望明月": "低头思故乡"}


def write_tasks(folder: Path) -> None:
    rows = []
    for index, (line, answer) in enumerate(LINES.items()):
        choices = [answer, *(other for other in LINES.values() if other != answer)]
        choices = choices[index:] + choices[:index]  # the right answer is not always the first
        row = {"q": QUESTION.format(line=line), "choices": choices, "label": choices.index(answer), "a": answer}
        rows.append(json.dumps(row, ensure_ascii=False))
    (folder / "verse.jsonl").write_text("\n".join(rows), encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "verse.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "target_delimiter": "",
    }
    choice = {"task": "verse_choice", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    choice |= {"doc_to_target": "{{label}}", "metric_list": [{"metric": "acc"}]}
    writing = {"task": "verse_write", "output_type": "generate_until", "doc_to_target": "{{a}}"}
    writing |= {"generation_kwargs": {"until": ["。", "，"]}, "metric_list": [{"metric": "exact_match"}]}
    for task in (choice, writing):
        (folder / f"{task['task']}.yaml").write_text(json.dumps(common | task))  # JSON is YAML


def test_whole_tasks_offline(demo: LladaRtLM, tmp_path: Path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    write_tasks(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    results = simple_evaluate(
        demo,
        tasks=["verse_choice", "verse_write"],
        task_manager=manager,
        apply_chat_template=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert results["results"]["verse_choice"]["acc,none"] == 1.0
    assert results["results"]["verse_write"]["exact_match,none"] == 1.0
    # The margin is not luck: the right line is nats ahead of the others.
    for sample in results["samples"]["verse_choice"]:
        scores = [response[0][0] for response in sample["resps"]]
        assert all(math.isfinite(score) for score in scores)
        right = scores.pop(sample["target"])
        assert right > max(scores) + 10


def test_the_command_line_knows_the_model(tmp_path: Path):
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    write_tasks(tmp_path)
    command = [sys.executable, "-m", "llada_rt.tools.lm_eval_adapter", "run", "--model", "llada_rt"]
    command += ["--model_args", "mc_num=8,threads=1,compute_type=float32", "--tasks", "verse_write"]
    command += ["--include_path", str(tmp_path), "--apply_chat_template", "--limit", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    row = next(line for line in done.stdout.splitlines() if "exact_match" in line)
    assert "1" in row.split("|")[7], row
