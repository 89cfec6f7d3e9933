"""Fine-tuning in a checkpoint's own chat form: which tokens are learnt, and what the exported folder says."""

import json
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llada_rt import Engine, SamplingParams
from tests.training.conftest import small_model
from training import export, sft
from training.chat_form import ChatForm, ChatFormError, find_template
from training.evaluation import load_items
from training.model_folder import CHAT_TEMPLATE, DTYPES
from training.rows import DataError, RowConfig, RowEncoder
from training.tokenization import EOT_TOKEN, SPECIAL_TOKENS
from training.vocabulary import open_vocabulary
from training.weights import save_weights

LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
    "+ '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# LLaDA's own: the header of the next answer is always there.
PUBLISHED = LLAMA3.split("{% if add_generation_prompt %}")[0] + (
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
CHATML = (
    "{%- for message in messages %}\n"
    "{%- if message.role == 'assistant' %}\n{{- '<|im_start|>assistant\n' }}{% generation %}"
    "{{- message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}\n"
    "{%- else %}\n{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n{%- endif %}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\n' }}\n{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
NO_ENDS = (
    "{% for message in messages %}{{ '### ' + message.role + ':\n' + message.content + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template, the names of special tokens, and what a reply ends in."""

    template: str
    tokens: tuple[str, ...]
    bos: str | None
    eos: str
    mask: str
    end: str  # of a reply
    strips: bool = True  # white space around a reply
    has_system: bool = True


FAMILIES = {
    "llama 3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|hole|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|hole|>",
        "<|eot_id|>",
    ),
    "llada as published": Family(
        PUBLISHED, SPECIAL_TOKENS, "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>", "<|eot_id|>"
    ),
    "chatml with generation": Family(
        CHATML,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "[MASK]"),
        None,
        "<|im_end|>",
        "[MASK]",
        "<|im_end|>",
        strips=False,
    ),
    "gemma": Family(
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<mask>"),
        "<bos>",
        "<eos>",
        "<mask>",
        "<end_of_turn>",
        has_system=False,
    ),
    "no special tokens": Family(NO_ENDS, ("</s>", "<mask>"), None, "</s>", "<mask>", "</s>", strips=False),
}


def make_tokenizer(family: Family) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = ["user\n\nassistant\n\nmodel\nsystem\nwhat is it? it is this, and that is all.\n\nhello there"] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.tokens])
    if family.bos is not None:
        bos = (family.bos, backend.token_to_id(family.bos))
        backend.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[bos])
    return backend


def write_checkpoint(
    folder: Path, family: Family, *, template: str | None = "the family's", jinja: bool = False
) -> Path:
    """A small model folder as somebody else would have written it."""
    backend = make_tokenizer(family)
    eos, mask = backend.token_to_id(family.eos), backend.token_to_id(family.mask)
    rows = -(-(backend.get_vocab_size() + 8) // 16) * 16
    model = small_model(
        vocab_size=rows, mask_token_id=mask, eos_token_id=eos, pad_token_id=eos, max_sequence_length=128
    )
    folder.mkdir(parents=True)
    config = json.loads(model.config.to_json("float32")) | {"eos_token_id": [eos, eos]}
    (folder / "config.json").write_text(json.dumps(config))
    save_weights(model.state_dict(), folder, DTYPES["float32"])
    backend.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": family.eos, "tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"}
    if family.bos is not None:
        settings["bos_token"] = {"content": family.bos, "lstrip": False}
    source = family.template if template == "the family's" else template
    if source is not None and jinja:
        (folder / "chat_template.jinja").write_text(source)
    elif source is not None:
        settings["chat_template"] = source
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=3))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": family.eos}))
    end = backend.token_to_id(family.end)
    generation = {"eos_token_id": [eos, end], "temperature": 0.7}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


WORDS = ["what", " is", " it", "?", " hello", "\n", "\n\n", " 1+1=2", "assistant", "model", "  ", "é", "的", " all."]


def random_text(draw: random.Random) -> str:
    return "".join(draw.choices(WORDS, k=draw.randint(1, 6))) or "a"


def random_dialogue(draw: random.Random, family: Family) -> list[dict[str, str]]:
    messages = []
    if family.has_system and draw.random() < 0.5:
        messages.append({"role": "system", "content": random_text(draw)})
    for _ in range(draw.randint(1, 4)):
        messages.append({"role": "user", "content": random_text(draw)})
        reply = random_text(draw)
        messages.append({"role": "assistant", "content": reply if reply.strip() else "x"})
    return messages


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda name: name.replace(" ", "_"))
def family(request) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", family)


def test_exactly_the_replies_are_learnt(family: Family, folder: Path):
    """Prompts have the ids that the runtime serves, answers the reply's text and its end, and nothing more."""
    encoder = RowEncoder(open_vocabulary(folder), RowConfig())
    backend = encoder.tokenizer
    draw, num_replies = random.Random(5), 0
    with Engine(folder, compute_type="float32", threads=1) as engine:
        for _ in range(120):
            messages = random_dialogue(draw, family)
            row = encoder.encode({"messages": messages}, "here")
            replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
            assert len(row.examples) == len(replies)
            for place, example in zip(replies, row.examples, strict=True):
                text = messages[place]["content"]
                assert list(example.prompt) == engine.apply_chat_template(messages[:place])
                shown = backend.decode(list(example.answer), skip_special_tokens=False)
                assert shown == (text.strip() if family.strips else text) + family.end
                assert example.answer[-1] == backend.token_to_id(family.end)
                assert example.holes is None
                num_replies += 1
    assert num_replies > 200


def test_masks_are_those_of_transformers(tmp_path):
    """Where the template marks the replies."""
    transformers = pytest.importorskip("transformers", reason="the extra `bench` is not installed")
    family = FAMILIES["chatml with generation"]
    folder = write_checkpoint(tmp_path / "model", family)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    encoder = RowEncoder(open_vocabulary(folder), RowConfig())
    draw, num_equal = random.Random(6), 0
    for _ in range(100):
        messages = random_dialogue(draw, family)
        for index, example in enumerate(encoder.encode({"messages": messages}, "here").examples):
            place = [i for i, message in enumerate(messages) if message["role"] == "assistant"][index]
            made = theirs.apply_chat_template(
                messages[: place + 1], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
            )
            ids, mask = made["input_ids"], made["assistant_masks"]
            ours = [*example.prompt, *example.answer]
            assert theirs.decode(ids).startswith(theirs.decode(ours))
            if ids[: len(ours)] != ours:
                continue  # a token reaches over the seam: ours splits there, as the prompt is served
            num_equal += 1
            last = len(mask) - mask[::-1].index(1)
            first = last - mask[:last][::-1].index(0)
            assert (first, last) == (len(example.prompt), len(ours))
    assert num_equal > 150


def test_questions_preferences_and_plain_rows(family: Family, folder: Path):
    vocabulary = open_vocabulary(folder)
    chat, plain = (RowEncoder(vocabulary, RowConfig(chat=is_chat)) for is_chat in (True, False))
    backend, end = vocabulary.tokenizer, vocabulary.tokenizer.token_to_id(family.end)
    (example,) = chat.encode({"prompt": "1+1?", "answer": "two"}, "here").examples
    better, worse = chat.encode({"prompt": "1+1?", "chosen": "two", "rejected": "three"}, "here").examples
    with Engine(folder, threads=1) as engine:
        assert list(example.prompt) == engine.apply_chat_template([{"role": "user", "content": "1+1?"}])
        assert engine.generate("1+1?", SamplingParams(gen_length=1))[0].prompt_token_ids == (
            list(plain.encode({"prompt": "1+1?", "answer": "two"}, "here").examples[0].prompt)
        )
    assert better == example
    assert worse.prompt == example.prompt
    assert worse.answer[-1] == end
    eos = backend.token_to_id(family.eos)
    assert plain.encode({"prompt": "1+1?", "answer": "two"}, "here").examples[0].answer[-1] == eos
    assert plain.encode({"text": "two"}, "here").examples[0].answer[-1] == eos
    with pytest.raises(DataError, match=re.escape(family.mask)):
        chat.encode({"prompt": f"a{family.mask}", "answer": "b"}, "here")


# --- what cannot be trained on


def form(template: str) -> ChatForm:
    return ChatForm(template, {"bos_token": "<s>", "eos_token": "</s>"}, ["<s>", "</s>"])


USER, REPLY = {"role": "user", "content": "ask"}, {"role": "assistant", "content": "say"}
PLAIN = "{% for m in messages %}<s>{{ m.role }}:{{ m.content }}</s>{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<s>assistant:{% endif %}"
REFUSED = {
    "prompt changes": ("{{ messages | length }}" + PLAIN + PROMPT, "writes the prompt in another way"),
    "other header": (PLAIN + "{% if add_generation_prompt %}<s>bot:{% endif %}", "writes the prompt in another way"),
    "reply changes": (
        PLAIN.replace("m.content", "m.content | upper") + PROMPT,
        "does not write the reply as it stands",
    ),
    "reply is left out": (
        "{% for m in messages if m.role == 'user' %}<s>{{ m.content }}</s>{% endfor %}",
        "does not write",
    ),
    "text behind": (PLAIN + "{% if not add_generation_prompt %}(end){% endif %}" + PROMPT, "behind the reply"),
    "marks nothing": (PLAIN + PROMPT + "{% if false %}{% generation %}{% endgeneration %}{% endif %}", "marks nothing"),
    "marks two pieces": (
        "{% for m in messages %}<s>{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}a{% endgeneration %} b "
        "{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
        + PROMPT,
        "in 2 pieces",
    ),
    "begins late": (
        "{% for m in messages %}<s>{{ m.role }}:{% if m.role == 'assistant' %}<think>{% generation %}{{ m.content }}"
        "</s>{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}" + PROMPT,
        "'<think>' between the prompt",
    ),
    "inside a macro": (
        "{% macro turn(m) %}<s>{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>"
        "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endmacro %}"
        "{% for m in messages %}{{ turn(m) }}{% endfor %}" + PROMPT,
        "inside a macro",
    ),
    "raises": ("{{ raise_exception('no such role') }}", "no such role"),
    "fails": ("{{ messages[7].content.x }}", "refuses the conversation"),
    "leaves the sandbox": ("{{ messages.__class__.__mro__ }}", "refuses the conversation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_conversation_that_cannot_be_learnt_is_refused_with_the_reason(name):
    template, reason = REFUSED[name]
    with pytest.raises(ChatFormError, match=re.escape(reason)):
        form(template).reply([USER, REPLY])


def test_the_refusal_names_the_row(tmp_path):
    folder = write_checkpoint(tmp_path / "model", FAMILIES["gemma"])
    encoder = RowEncoder(open_vocabulary(folder), RowConfig())
    system = {"role": "system", "content": "be short"}
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*System role not supported"):
        encoder.encode({"messages": [system, USER, REPLY]}, "rows.jsonl:7")


def test_a_template_that_cannot_be_read():
    with pytest.raises(ChatFormError, match="cannot be read"):
        form("{% for m in messages %}")


def test_a_block_that_holds_the_header_or_not_the_end():
    """What the prompt as served has already is given, and the end right behind the block is learnt."""
    block = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<s>assistant:{{ m.content }}"
    other = "{% else %}<s>user:{{ m.content }}</s>{% endif %}{% endfor %}" + PROMPT
    for template in (block + "</s>{% endgeneration %}" + other, block + "{% endgeneration %}</s>" + other):
        assert form(template).reply([USER, REPLY]) == ("<s>user:ask</s><s>assistant:", "say</s>", True)
    assert form(block + "{% endgeneration %}" + other).reply([USER, REPLY])[1:] == ("say", False)


def test_earlier_replies_may_be_written_in_another_way():
    """As templates do that drop the thoughts of earlier turns: each reply is learnt as the last one."""
    template = (
        "{% for m in messages %}<s>{{ m.role }}:{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}"
        "{{ m.content }}</s>{% endfor %}" + PROMPT
    )
    first, second = [USER, REPLY], [USER, REPLY, USER, {"role": "assistant", "content": "more"}]
    assert form(template).reply(first).answer == "<think></think>say</s>"
    assert form(template).reply(second).answer == "<think></think>more</s>"
    assert form(template).reply(second).prompt == "<s>user:ask</s><s>assistant:say</s><s>user:ask</s><s>assistant:"


def test_an_end_that_the_tokenizer_does_not_call_special(tmp_path):
    folder = write_checkpoint(tmp_path / "model", FAMILIES["gemma"])
    text = (folder / "tokenizer.json").read_text()
    content = json.loads(text)
    for token in content["added_tokens"]:
        token["special"] = token["special"] and "turn" not in token["content"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    vocabulary = open_vocabulary(folder)
    (example,) = RowEncoder(vocabulary, RowConfig()).encode({"messages": [USER, REPLY]}, "here").examples
    end = vocabulary.tokenizer.token_to_id("<end_of_turn>")
    assert vocabulary.tokenizer.decode(list(example.answer), skip_special_tokens=False) == "say<end_of_turn>"
    assert example.answer[-1] == end
    assert vocabulary.end_ids == (vocabulary.eos_id, end)


def test_a_template_that_writes_no_short_conversation_has_its_eos_only(tmp_path):
    template = "{{ raise_exception('a system message first') if messages[0].role != 'system' }}" + PLAIN + PROMPT
    folder = write_checkpoint(tmp_path / "model", FAMILIES["gemma"], template=template)
    vocabulary = open_vocabulary(folder)
    assert vocabulary.end_ids == (vocabulary.eos_id,)


# --- whole runs

RECIPE = """
[data]
files = ["{folder}/rows.jsonl"]
[data.batches]
batch_rows = 2
pads = [0, 6, 12]
[train]
seed = 1
steps = {steps}
lr = 0.01
matrix_lr = 0.02
bf16 = false
log_every = 50
[export]
name = "tuned"
dtype = "float32"
gen_length = 16
steps = 16
block_length = 16
"""
DIALOGUES = [
    [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "it is this."}],
    [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello there, all."}],
]


def fine_tune(monkeypatch, folder: Path, checkpoint: Path, *, steps: int) -> Path:
    rows = "".join(json.dumps({"messages": messages}) + "\n" for messages in DIALOGUES)
    (folder / "rows.jsonl").write_text(rows)
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder, steps=steps))
    arguments = [str(folder / "recipe.toml"), "--init", str(checkpoint), "--out", str(folder / "run")]
    monkeypatch.setattr(sys, "argv", ["sft", *arguments])
    sft.main()
    return folder / "run" / "model"


KEPT = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@pytest.mark.parametrize("jinja", [False, True], ids=["in settings", "in a file"])
def test_what_is_tuned_serves_in_the_form_of_its_source(family: Family, tmp_path, monkeypatch, capfd, jinja):
    source = write_checkpoint(tmp_path / "source", family, jinja=jinja)
    tuned = fine_tune(monkeypatch, tmp_path, source, steps=2)
    err = capfd.readouterr().err
    assert "chat form the checkpoint's own template" in err
    assert "tokens added" not in err
    for name in KEPT:
        paths = (source / name, tuned / name)
        assert [path.exists() for path in paths] in ([True, True], [False, False])
        assert not paths[0].exists() or paths[0].read_bytes() == paths[1].read_bytes()
    ours, theirs = (json.loads((at / "config.json").read_text()) for at in (tuned, source))
    assert {key: ours[key] for key in theirs} == theirs
    generation = json.loads((tuned / "generation_config.json").read_text())
    assert generation.pop("llada_rt")["gen_length"] == 16
    assert generation == json.loads((source / "generation_config.json").read_text())
    with Engine(tuned, threads=1) as engine, Engine(source, threads=1) as before:
        assert engine.end_token_ids == before.end_token_ids
        assert engine.tokenizer.vocab_size == before.tokenizer.vocab_size
        for question, _ in DIALOGUES:
            assert engine.apply_chat_template([question]) == before.apply_chat_template([question])
    # Written again in another form, and out of the run's checkpoint, it stays what it is.
    for number, place in enumerate((tuned, tmp_path / "run")):
        out = tmp_path / f"again-{number}"
        monkeypatch.setattr(sys, "argv", ["export", str(place), "--out", str(out), "--dtype", "bfloat16"])
        export.main()
        for name in (*KEPT, "generation_config.json"):
            assert (out / name).exists() == (tuned / name).exists()
            assert not (out / name).exists() or (out / name).read_bytes() == (tuned / name).read_bytes()


# What differs between the families, the form of a prompt and which tokens are learnt, is proven above for each. So two
# learn here, one whose replies end in the end of a text and one whose do not; the others are slow.
LEARN = ("llada as published", "chatml with generation")


@pytest.mark.parametrize(
    "name", [name if name in LEARN else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_what_was_learnt_is_answered(name, tmp_path, monkeypatch):
    tuned = fine_tune(monkeypatch, tmp_path, write_checkpoint(tmp_path / "source", FAMILIES[name]), steps=300)
    with Engine(tuned, threads=1) as engine:
        for question, answer in DIALOGUES:
            assert engine.chat([question]).text == answer["content"]


def test_a_checkpoint_without_a_template_gets_the_houses_form_and_the_log_says_so(tmp_path, monkeypatch, capfd):
    family = FAMILIES["no special tokens"]
    source = write_checkpoint(tmp_path / "source", family, template=None)
    tuned = fine_tune(monkeypatch, tmp_path, source, steps=2)
    err = capfd.readouterr().err
    assert "chat form LLaDA's, as the checkpoint has no chat template" in err
    added = re.search(r"tokens added to the tokenizer (.*?);", err)[1].split(", ")
    assert added == ["<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", EOT_TOKEN]
    settings = json.loads((tuned / "tokenizer_config.json").read_text())
    assert (settings["chat_template"], settings["eos_token"], settings["mask_token"]) == (
        CHAT_TEMPLATE,
        "</s>",
        "<mask>",
    )
    with Engine(tuned, threads=1) as engine:
        assert engine.has_chat_template
        assert engine.eot_token_id == engine.tokenizer.token_id(EOT_TOKEN)
        assert engine.mask_token_id == json.loads((source / "config.json").read_text())["mask_token_id"]


def test_without_conversations_nothing_is_added(tmp_path):
    source = write_checkpoint(tmp_path / "source", FAMILIES["no special tokens"], template=None)
    vocabulary = open_vocabulary(source)
    assert vocabulary.added == ()
    assert vocabulary.tokenizer.to_str() == Tokenizer.from_file(str(source / "tokenizer.json")).to_str()
    with pytest.raises(DataError, match="a dialogue needs"):
        RowEncoder(vocabulary, RowConfig()).encode({"messages": [USER, REPLY]}, "here")


def test_questions_of_an_evaluation_are_put_in_the_own_form(tmp_path):
    family = FAMILIES["chatml with generation"]
    folder = write_checkpoint(tmp_path / "model", family)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1+1?", "answer": "two"}) + "\n")
    vocabulary = open_vocabulary(folder)
    (item,), _ = load_items(str(tmp_path / "rows.jsonl"), vocabulary, num=1, seed=0, chat=True, gen_length=8)
    with Engine(folder, threads=1) as engine:
        prompt = engine.apply_chat_template([{"role": "user", "content": "1+1?"}])
        assert list(item.canvas) == [*prompt, *[engine.mask_token_id] * 8]
    assert vocabulary.end_ids == (vocabulary.tokenizer.token_to_id("<|im_end|>"),)


def test_of_several_templates_the_default(tmp_path):
    folder = write_checkpoint(tmp_path / "model", FAMILIES["gemma"], template=None)
    path = folder / "tokenizer_config.json"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    assert find_template(folder) == "y"
    (folder / "chat_template.jinja").write_text("z")
    assert find_template(folder) == "z"
