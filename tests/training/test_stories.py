"""Stories: facts hold to the end, answers follow from the text, holes hide what can be known, words are tokens."""

import random
import re

import pytest

from training.rows import HOLE, RowConfig, RowEncoder
from training.tasks import find_task, is_held_out
from training.tasks.stories import (
    COLORS,
    ENTITIES,
    KINDS,
    NAMES,
    PHRASES,
    TEXTS,
    THINGS,
    World,
    check,
    guess,
    hide,
    tell_facts,
    tell_story,
)
from training.tokenization import build_tokenizer

TASKS = ("facts_infill", "stories_infill", "stories", "stories_lessons")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS, PHRASES)


@pytest.fixture(scope="module")
def stories():
    rng = random.Random(1)
    return [tell_story(rng, rng.randint(2, 3), rng.randint(1, 2)) for _ in range(500)]


def test_nobody_shares_anything():
    for seed in range(50):
        people = World.draw(random.Random(seed), 3).people
        for field in ("name", "color", "thing", "size", "animal", "food"):
            assert len({getattr(person, field) for person in people}) == 3


def test_a_word_is_of_one_kind_only():
    words = [word for kind in KINDS for word in kind]
    assert len(words) == len(set(words)) == len(ENTITIES)


def test_a_thing_keeps_its_owner_and_its_color(stories):
    """Read again from the text alone: wherever color and thing stand together, it is the color of the first time."""
    checked = 0
    for story in stories:
        owned = {thing: (name, color) for name, color, thing in re.findall(r"(\w+) had a (\w+) (\w+)\.", story.text)}
        for color, thing in re.findall(rf"({'|'.join(COLORS)}) ({'|'.join(THINGS)})", story.text):
            assert owned[thing][1] == color
        for name, thing in re.findall(r"(\w+) lost the (\w+)", story.text):
            assert owned[thing][0] == name
            checked += 1
        for name, color, thing, other in re.findall(r"(\w+) gave the (\w+) (\w+) to (\w+)", story.text):
            assert owned[thing] == (name, color)
            assert other != name
            checked += 1
        names = set(re.findall("|".join(NAMES), story.sentences[0]))
        assert set(re.findall("|".join(NAMES), story.text)) == names
    assert checked > 300


def test_answers_follow_from_the_text(stories):
    """A second reader: patterns over the text answer the questions that one pattern can answer."""
    readers = {
        r"Who had the (\w+)\?": r"(\w+) had (?:a \w+|some) {}",
        r"What color was the (\w+)\?": r"had a (\w+) {}",
        r"Who found the (\w+)\?": r"(\w+) found the \w+ {}",
        r"Who saw the (\w+)\?": r"(\w+) saw the {}",
        r"Who got the (\w+)\?": r"gave the \w+ {} to (\w+)",
        r"Which animal came with (\w+)\?": r"{} came with a \w+ (\w+)",
        r"Who shared the (\w+)\?": r"(\w+) gave half of the {}",
    }
    asked = 0
    for story in stories:
        for question, answer in story.questions:
            for form, pattern in readers.items():
                if found := re.fullmatch(form, question):
                    read = re.findall(pattern.format(found[1]), story.text)
                    assert read == [answer.split()[-1]], (story.text, question)
                    asked += 1
        assert len(dict(story.questions)) == len(story.questions)  # a question has one answer
    assert asked > 2000


def test_spotting_the_right_kind_of_word_is_not_enough():
    rng = random.Random(0)
    rows = find_task("stories").generate(0, 1000, "test")
    assert all(check(row, row["answer"]) for row in rows)
    assert all(check(row, row["answer"].strip()) for row in rows)
    share = sum(check(row, guess(row, rng)) for row in rows) / len(rows)
    assert 0.3 < share < 0.6  # what a model must be well above


@pytest.mark.parametrize("name", TASKS)
def test_training_never_sees_a_story_of_the_tests(name):
    def key(row):
        text = row.get("prompt", row["answer"])
        return re.sub(r"^First: | Again: .*$", "", re.sub(r"[^.]*\?.*$", "", text).strip())

    train, test = (find_task(name).generate(3, 400, split) for split in ("train", "test"))
    assert not any(is_held_out(key(row)) for row in train)
    assert all(is_held_out(key(row)) for row in test)
    assert find_task(name).generate(3, 400) == train
    assert find_task(name).generate(4, 400) != train


def test_facts_are_told_twice_and_each_is_hidden_once():
    for row in find_task("facts_infill").generate(0, 200):
        first, again = re.match(r"First: (.+) Again: (.+\.) ", row["answer"]).groups()
        shown = re.match(r"First: (.+) Again: (.+\.) ", row["template"]).groups()
        facts = re.findall(r"[^.]+\.", " " + first)
        assert sorted(facts) == sorted(re.findall(r"[^.]+\.", " " + again))
        assert sum(len(re.findall(f"{HOLE}+", telling)) for telling in shown) == len(facts)
        for fact in facts:  # one whole telling of each is left
            assert any(fact in " " + telling for telling in shown)


def test_only_words_that_were_said_before_are_hidden_in_a_story():
    for row in find_task("stories_infill").generate(0, 200):
        assert HOLE in row["template"]
        spans = [found.span() for found in re.finditer(f"{HOLE}+", row["template"])]
        assert hide(row["answer"], spans) == row["template"]
        for begin, end in spans:
            assert row["answer"][begin:end] in ENTITIES
            assert re.search(rf"\b{row['answer'][begin:end]}\b", row["answer"][:begin])


def test_of_an_answer_in_a_template_all_that_matters_is_hidden():
    for name in ("facts_infill", "stories_infill"):
        for row in find_task(name).generate(0, 100):
            answers = re.findall(r"\? ([^?]+?)(?= [A-Z]|$)", row["template"])
            assert 1 <= len(answers) <= 3
            assert not any(set(re.findall(r"\w+", answer)) & ENTITIES for answer in answers)
            assert all(HOLE in answer for answer in answers)


@pytest.mark.parametrize("name", TASKS)
def test_a_word_is_one_token_wherever_it_stands(name, tokenizer):
    """Copying is copying one token: in the story, in the question and in the answer it is the same."""
    encoder = RowEncoder(tokenizer, RowConfig())
    for row in find_task(name).generate(0, 200):
        (example,) = encoder.encode(row, "here").examples
        text = row.get("prompt", "") + row["answer"]
        tokens = [tokenizer.id_to_token(token) for token in (*example.prompt, *example.answer)]
        assert [token.strip() for token in tokens if token not in ("<|endoftext|>",)] == re.findall(
            r"First:|Again:|\w+|[.?]", text
        )
        if "template" in row:
            holes = [row["answer"][a:b] for a, b in (f.span() for f in re.finditer(f"{HOLE}+", row["template"]))]
            assert [tokenizer.id_to_token(example.answer[hole]).strip() for hole in example.holes] == holes


def test_facts_are_of_one_kind():
    for num in (1, 2, 4):
        story = tell_facts(random.Random(num), num)
        assert len(story.sentences) == num
        assert len({re.sub("|".join(sorted(ENTITIES)), "x", sentence) for sentence in story.sentences}) == 1
