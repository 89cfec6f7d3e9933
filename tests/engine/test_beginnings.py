"""What stands before a plain prompt: what the tokenizer's post-processor says, as transformers has it."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from llada_rt import Engine, SamplingParams
from llada_rt.text.tokenizer import Tokenizer as OurTokenizer
from tests.data.make_goldens import IDS
from tests.engine.models import BOS, write_folder

BOS_TOKEN, EOS_TOKEN, EOT_TOKEN = "<|startoftext|>", "<|endoftext|>", "<|eot_id|>"
TOKENS = [(BOS_TOKEN, BOS), (EOS_TOKEN, IDS.eos), (EOT_TOKEN, IDS.eot)]
TEXTS = ["abc", " a", "a ", "床前明月光", "x" * 90, "a\n\nb", f"a{EOT_TOKEN}b", f"{EOS_TOKEN}a"]


def template(single: str) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=single, pair="$A $B", special_tokens=TOKENS)


# (post-processor, ids before a text, ids after it)
CASES = {
    "none": (None, [], []),
    "byte level": (processors.ByteLevel(), [], []),
    "nothing added": (template("$A"), [], []),
    "bos": (template(f"{BOS_TOKEN} $A"), [BOS], []),
    "bos and eos": (template(f"{BOS_TOKEN} $A {EOS_TOKEN}"), [BOS], [IDS.eos]),
    "eos only": (template(f"$A {EOS_TOKEN}"), [], [IDS.eos]),
    "two before": (template(f"{EOT_TOKEN} {BOS_TOKEN} $A"), [IDS.eot, BOS], []),
    "as BERT": (processors.BertProcessing((EOS_TOKEN, IDS.eos), (BOS_TOKEN, BOS)), [BOS], [IDS.eos]),
    "in a row": (processors.Sequence([processors.ByteLevel(), template(f"{BOS_TOKEN} $A")]), [BOS], []),
}


def write(folder: Path, post_processor: object, **settings: object) -> Path:
    write_folder(folder)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if post_processor is not None:
        backend.post_processor = post_processor
    backend.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    known = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(known | {"eos_token": EOS_TOKEN} | settings))
    return folder


@pytest.mark.parametrize("add_bos_token", [None, True, False])
@pytest.mark.parametrize("name", CASES)
def test_a_prompt_has_the_ids_of_transformers_but_for_what_comes_after(tmp_path, name, add_bos_token):
    transformers = pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    post_processor, before, after = CASES[name]
    settings = {} if add_bos_token is None else {"add_bos_token": add_bos_token}
    folder = write(tmp_path / "model", post_processor, **settings)
    theirs, ours = transformers.PreTrainedTokenizerFast.from_pretrained(folder), OurTokenizer.load(folder)
    assert ours.beginning == tuple(before)
    for text in TEXTS:
        expected = theirs(text).input_ids
        assert [*ours.encode_prompt(text), *after] == expected
        assert ours.encode(text) == theirs(text, add_special_tokens=False).input_ids
    assert ours.encode_prompt("") == before


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory) -> Engine:
    folder = write(tmp_path_factory.mktemp("bos"), CASES["bos and eos"][0])
    with Engine(folder, threads=1, compute_type="float32") as engine:
        yield engine


PARAMS = SamplingParams(gen_length=4)


def test_every_plain_prompt_begins_so(with_bos: Engine):
    ids = with_bos.tokenizer.encode("abc")
    want = [BOS, *ids]
    for prompt in ("abc", {"prompt": "abc"}, {"prompt": "abc", "pinned": {1: 5}}, {"prompt": "abc", "suffix": "d"}):
        assert with_bos.generate(prompt, PARAMS)[0].prompt_token_ids == want
    assert with_bos.generate({"prompt": "abc", "segments": ["x", 2]}, PARAMS)[0].prompt_token_ids == want
    # The answer is that of the same ids, given as ids.
    assert with_bos.generate("abc", PARAMS)[0].outputs[0].token_ids == (
        with_bos.generate(want, PARAMS)[0].outputs[0].token_ids
    )


def test_ids_segments_and_answers_stay_as_they_are(with_bos: Engine):
    ids = with_bos.tokenizer.encode("abc")
    assert with_bos.generate(ids, PARAMS)[0].prompt_token_ids == ids
    assert with_bos.generate({"segments": ["abc", 2]}, PARAMS)[0].prompt_token_ids == []
    score = with_bos.score("abc", "de", mc_num=8, seed=1)
    assert (
        score.log_likelihood
        == with_bos.score([BOS, *ids], with_bos.tokenizer.encode("de"), mc_num=8, seed=1).log_likelihood
    )


def test_no_second_bos(with_bos: Engine):
    ids = with_bos.tokenizer.encode("abc")
    assert with_bos.generate(BOS_TOKEN + "abc", PARAMS)[0].prompt_token_ids == [BOS, *ids]
    messages = [{"role": "user", "content": "abc"}]
    chat = with_bos.chat(messages, PARAMS).prompt_token_ids
    assert chat[0] == BOS
    assert chat.count(BOS) == 1
    rendered = with_bos.tokenizer.render_chat(messages)
    assert with_bos.generate(rendered, PARAMS)[0].prompt_token_ids == chat
