"""The corpus, its questions, what counts as right, and the tokenizer of the demo."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from training.evaluation import segments
from training.tasks.items import Tally, answer_text, ask
from training.tasks.verse import (
    PHRASES,
    QUESTIONS,
    SONNETS_FILE,
    STOPS,
    Poem,
    VerseBook,
    acrostic_items,
    data_hash,
    hole_items,
    line_items,
    read_poems,
    split_lines,
    verse_items,
)
from training.tokenization import CHAT_TEMPLATE, MASK_TOKEN, SPECIAL_TOKENS, build_tokenizer, encode_chat, render_chat

MASK = SPECIAL_TOKENS.index(MASK_TOKEN)
TWINS = VerseBook(
    (
        Poem("甲", "某", "词", ("春来，", "花开。", "春来，", "鸟鸣。"), ""),
        Poem("乙", "某", "词", ("春来，", "雨落。"), ""),
    )
)


@pytest.fixture(scope="module")
def whole():
    """The demo's book and tokenizer."""
    book = VerseBook.select(max_chars=64)
    return book, build_tokenizer((poem.text + poem.title + poem.author for poem in book.poems), PHRASES)


def right_answers(items, tokenizer):
    """A sampler that knows everything."""

    def fill(items):
        for item in items:
            ids = tokenizer.encode(min(item.accepted), add_special_tokens=False).ids
            yield [*item.canvas[: item.start], *ids] if not item.start else [*item.canvas[: item.start], *ids, 5, 1, 1]

    return list(fill(items))


def test_the_committed_corpus_is_the_one_of_the_recipe():
    assert data_hash() == "4765df5f492fa18f0be64a046311d2afbaf232f89ee6c921a7bc0068b82c9d94"
    poems = read_poems()
    assert len(poems) == 594
    assert len(VerseBook.select(max_chars=64).poems) == 322
    for poem in poems:
        assert poem.title
        assert poem.author
        assert all(line.strip(STOPS) and line[-1] in STOPS for line in poem.lines)
        assert not set("()（）[]一作") <= set(poem.text)


def test_the_sonnets_are_whole():
    assert data_hash(SONNETS_FILE) == "ddafa5f460b80e2f14b43ae24c732044c69c1774cba6c10e86a144dee7a7015a"
    sonnets = read_poems(SONNETS_FILE)
    assert len(sonnets) == 154
    # XCIX has a line more, CXXVI is in six couplets; in the package's text too.
    assert {p.title: len(p.lines) for p in sonnets if len(p.lines) != 14} == {"Sonnet XCIX": 15, "Sonnet CXXVI": 12}
    book = VerseBook(tuple(sonnets))
    assert book.next_lines["Shall I compare thee to a summer's day?"] == {"Thou art more lovely and more temperate:"}


def test_split_lines_keeps_every_character():
    text = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少？惟是有、一波湘水"
    assert split_lines(text) == ["春眠不觉晓，", "处处闻啼鸟。", "夜来风雨声，", "花落知多少？", "惟是有、一波湘水"]
    assert "".join(split_lines(text)) == text


def test_any_true_neighbour_is_right():
    assert TWINS.next_lines["春来"] == {"花开", "鸟鸣", "雨落"}
    assert TWINS.previous_lines["春来"] == {"花开"}
    assert "鸟鸣" not in TWINS.next_lines  # a last line has no next one


def test_question_wording_is_the_papers():
    assert QUESTIONS["next_line"][0].format(line="甲") == "甲的下一句是什么？ 直接输出句子即可。"
    assert QUESTIONS["previous_line"][0].format(line="甲") == "甲的上一句是什么？ 直接输出句子即可。"


def test_perfect_answers_score_one_and_each_task_is_there(whole):
    book, tokenizer = whole
    items = verse_items(book, tokenizer, gen_length=16)
    scores = ask(items, tokenizer, lambda items: right_answers(items, tokenizer))
    tasks = [
        "next_line",
        "previous_line",
        "holes",
        "acrostic",
        "recite",
        "next_line, English",
        "previous_line, English",
    ]
    assert list(scores) == tasks
    assert all(tally.right == tally.asked for tally in scores.values())
    assert sum(tally.asked for tally in scores.values()) == len(items)
    wrong = ask(items[:5], tokenizer, lambda items: [list(item.canvas) for item in items])
    assert wrong == {"next_line": Tally(0, 5)}


def test_hole_items_hide_the_stated_share_of_single_characters(whole):
    book, tokenizer = whole
    for poem, item in zip(book.poems, hole_items(book, tokenizer), strict=True):
        assert len(item.canvas) == len(poem.text)
        assert item.canvas.count(MASK) == round(0.3 * len(poem.text))
    assert hole_items(book, tokenizer) == hole_items(book, tokenizer)
    assert hole_items(book, tokenizer, seed=1) != hole_items(book, tokenizer)


def test_acrostic_items_give_first_characters_and_stops():
    tokenizer = build_tokenizer(poem.text for poem in TWINS.poems)
    item = acrostic_items(TWINS, tokenizer)[1]
    shown = [None if token == MASK else tokenizer.id_to_token(token) for token in item.canvas]
    assert shown == ["春", None, "，", "雨", None, "。"]


def test_an_answer_ends_at_the_first_end_token(whole):
    book, tokenizer = whole
    item = line_items(book, tokenizer, "next_line", gen_length=4)[0]
    ids = tokenizer.encode("花开", add_special_tokens=False).ids
    for end in (1, 5):
        assert answer_text(tokenizer, item, [*item.canvas[: item.start], *ids, end, ids[0]]) == "花开"


def test_segments_are_alternating_runs():
    assert segments([7, 2, 2, 8, 9, 2], 2) == [[7], 2, [8, 9], 1]
    assert segments([2], 2) == [1]


def test_verse_is_one_token_a_character_and_fixed_words_are_one_token(whole):
    book, tokenizer = whole
    for poem in book.poems:
        assert len(tokenizer.encode(poem.text, add_special_tokens=False).ids) == len(poem.text)
    for phrase in PHRASES:
        assert len(tokenizer.encode(phrase, add_special_tokens=False).ids) == 1
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(6))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives_the_round_trip(text):
    tokenizer = build_tokenizer(["春眠不觉晓，"], PHRASES)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("ask", [False, True])
def test_the_chat_template_is_what_training_uses(whole, ask):
    _, tokenizer = whole
    messages = [
        {"role": "user", "content": "  白日依山尽的下一句是什么？\n"},
        {"role": "assistant", "content": "黄河入海流"},
        {"role": "user", "content": "谢谢"},
    ]
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(CHAT_TEMPLATE)
    rendered = template.render(messages=messages, add_generation_prompt=ask)
    assert rendered == render_chat(messages, add_generation_prompt=ask)
    assert tokenizer.decode(encode_chat(tokenizer, messages, add_generation_prompt=ask), skip_special_tokens=False) == (
        rendered
    )
