"""Small English stories made by a grammar, with questions whose answers can be checked.

Several people own things of one kind and keep them to the end, so a question is answered by *binding* (which name goes
with which thing), not by spotting the one color in the text. `guess` is what spotting alone would earn.

Four tasks, in the order in which they are learnt (training/recipes/STORIES.md says why):

    facts_infill     a few facts, told twice in another order, then questions. One word of each fact is hidden in one of
                     its two places; of the answers all that matters
    stories_infill   a whole story, then questions. Words that were said before are hidden where they come again
    stories          a whole story and one question
    stories_lessons  the last two, half and half: what a model is trained on to answer questions

A word is one token (`PHRASES`), and the same token in a story and in an answer: answers begin with a space. All four
hold out the same stories.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from training.rows import HOLE
from training.tasks import Record, Task

NAMES = ("Lily", "Tom", "Mia", "Ben", "Anna", "Sam", "Zoe", "Max", "Rosa", "Leo", "Nina", "Jack")
COLORS = ("red", "blue", "green", "yellow", "white", "black", "brown", "golden")
THINGS = ("ball", "kite", "book", "boat", "drum", "hat", "box", "key", "cup", "lamp", "doll", "coin")
SIZES = ("big", "small", "tiny", "brave", "young", "fat")
ANIMALS = ("dog", "cat", "bird", "rabbit", "duck", "frog", "horse", "mouse", "fox", "bear")
FOODS = ("soup", "bread", "pie", "honey", "rice", "cake", "fruit", "cheese")
PLACES = ("park", "garden", "forest", "beach", "kitchen", "school", "river", "hill", "barn", "market")
SPOTS = ("tree", "rock", "bench", "bridge", "table", "wall")
SIDES = ("under", "behind", "near")
WEATHERS = ("sunny", "rainy", "windy", "cold", "warm", "snowy")
KINDS = (NAMES, COLORS, THINGS, SIZES, ANIMALS, FOODS, PLACES, SPOTS, SIDES, WEATHERS)
ENTITIES = frozenset(word for kind in KINDS for word in kind)
ENDINGS = ("Then they all went home.", "It was a very good day.", "They were good friends after that.")

Sentence = tuple[str, list[tuple[str, str]]]  # text, questions with their answers


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    color: str
    thing: str
    size: str
    animal: str
    food: str


@dataclass(frozen=True, slots=True)
class World:
    """Who and what one story is about. No two people share anything."""

    people: tuple[Person, ...]
    place: str
    weather: str
    spot: str
    side: str

    @classmethod
    def draw(cls, rng: random.Random, num_people: int) -> "World":
        owned = [rng.sample(kind, num_people) for kind in (NAMES, COLORS, THINGS, SIZES, ANIMALS, FOODS)]
        people = tuple(Person(*fields) for fields in zip(*owned, strict=True))
        return cls(people, rng.choice(PLACES), rng.choice(WEATHERS), rng.choice(SPOTS), rng.choice(SIDES))

    @property
    def where(self) -> str:
        return f"{self.side} the {self.spot}"


@dataclass(frozen=True, slots=True)
class Story:
    sentences: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @classmethod
    def of(cls, told: Sequence[Sentence]) -> "Story":
        return cls(tuple(text for text, _ in told), tuple(question for _, asked in told for question in asked))


# ------------------------------------------------------------------------------------------------------ the grammar


def has_thing(p: Person) -> Sentence:
    return f"{p.name} had a {p.color} {p.thing}.", [
        (f"Who had the {p.thing}?", p.name),
        (f"What color was the {p.thing}?", p.color),
        (f"What did {p.name} have?", f"a {p.color} {p.thing}"),
    ]


def has_animal(p: Person) -> Sentence:
    return f"{p.name} came with a {p.size} {p.animal}.", [
        (f"Who came with the {p.animal}?", p.name),
        (f"Which animal came with {p.name}?", f"the {p.animal}"),
    ]


def has_food(p: Person) -> Sentence:
    return f"{p.name} had some {p.food} to eat.", [
        (f"Who had the {p.food}?", p.name),
        (f"What could {p.name} eat?", f"some {p.food}"),
    ]


def opening(world: World) -> Sentence:
    names = " and ".join(person.name for person in world.people)
    return f"One {world.weather} day {names} went to the {world.place}.", [
        ("Where did they go?", f"to the {world.place}"),
        ("How was the weather?", world.weather),
    ]


def lost_and_found(world: World, owner: Person, other: Person) -> list[Sentence]:
    lost = [("Who was sad?", owner.name), ("What was lost?", f"the {owner.thing}")]
    found = [(f"Who found the {owner.thing}?", other.name), (f"Where was the {owner.thing}?", world.where)]
    return [
        (f"{owner.name} lost the {owner.thing} and was sad.", lost),
        (f"{other.name} found the {owner.color} {owner.thing} {world.where}.", found),
    ]


def ran_away(world: World, owner: Person, other: Person) -> list[Sentence]:
    seen = [(f"Who saw the {owner.animal}?", other.name), (f"Where was the {owner.animal}?", world.where)]
    return [
        (f"Suddenly the {owner.size} {owner.animal} ran away.", [("Which animal ran away?", f"the {owner.animal}")]),
        (f"{other.name} saw the {owner.animal} {world.where}.", seen),
    ]


def gift(world: World, owner: Person, other: Person) -> list[Sentence]:
    given = [(f"Who got the {owner.thing}?", other.name), (f"Who gave the {owner.thing} away?", owner.name)]
    return [
        (f"{owner.name} gave the {owner.color} {owner.thing} to {other.name}.", given),
        (f"{other.name} was happy and said thank you.", [("Who was happy?", other.name)]),
    ]


def shared_meal(world: World, owner: Person, other: Person) -> list[Sentence]:
    shared = [
        (f"Who shared the {owner.food}?", owner.name),
        (f"What did {other.name} get?", f"half of the {owner.food}"),
    ]
    return [
        (f"{other.name} was hungry and sat {world.where}.", [("Who was hungry?", other.name)]),
        (f"{owner.name} gave half of the {owner.food} to {other.name}.", shared),
    ]


EVENTS = {lost_and_found: has_thing, ran_away: has_animal, gift: has_thing, shared_meal: has_food}


def tell_facts(rng: random.Random, num: int) -> Story:
    """`num` facts of one kind, each about another person: the smallest text that needs binding."""
    fact = rng.choice((has_thing, has_animal, has_food))
    return Story.of([fact(person) for person in World.draw(rng, num).people])


def tell_story(rng: random.Random, num_people: int, num_events: int) -> Story:
    """Opening, facts about each person as the events need them, events with their actors drawn anew, an ending."""
    world = World.draw(rng, num_people)
    events = rng.sample(list(EVENTS), num_events)
    facts = dict.fromkeys(EVENTS[event] for event in events)
    told = [fact(person) for fact in facts for person in world.people]
    rng.shuffle(told)
    for event in events:
        told += event(world, *rng.sample(world.people, 2))
    return Story.of([opening(world), *told, (rng.choice(ENDINGS), [])])


# ------------------------------------------------------------------------------------------------------- rows


def draw_facts_infill(rng: random.Random, belongs: Callable[[str], bool]) -> Record | None:
    story = tell_facts(rng, rng.randint(2, 3))
    if not belongs(story.text):
        return None
    again = rng.sample(story.sentences, len(story.sentences))
    hidden = {sentence: (rng.randrange(2), rng.choice(places(sentence))) for sentence in story.sentences}
    shown, whole = [], []
    for telling, sentences in enumerate((story.sentences, again)):
        title = ("First:", "Again:")[telling]
        whole += [title, *sentences]
        shown += [title, *(hide(s, [hidden[s][1]] if hidden[s][0] == telling else []) for s in sentences)]
    return template([*zip(shown, whole, strict=True), *ask_some(rng, story)])


def draw_stories_infill(rng: random.Random, belongs: Callable[[str], bool]) -> Record | None:
    """Each of the words that come again is hidden with one chance in two; at least one is."""
    story = draw_story(rng)
    if not belongs(story.text):
        return None
    seen: set[str] = set()
    repeated = []
    for span in places(story.text):
        word = story.text[span[0] : span[1]]
        repeated += [span] if word in seen else []
        seen.add(word)
    chosen = [span for span in repeated if rng.random() < 0.5] or [rng.choice(repeated)]
    return template([(hide(story.text, chosen), story.text), *ask_some(rng, story)])


def ask_some(rng: random.Random, story: Story) -> list[tuple[str, str]]:
    """Up to three questions with their answers, as (answer hidden, answer shown)."""
    asked = rng.sample(story.questions, min(3, len(story.questions)))
    return [(f"{question} {hide(answer, places(answer))}", f"{question} {answer}") for question, answer in asked]


def template(pieces: Sequence[tuple[str, str]]) -> Record:
    return {"template": " ".join(shown for shown, _ in pieces), "answer": " ".join(whole for _, whole in pieces)}


def draw_story(rng: random.Random) -> Story:
    return tell_story(rng, num_people=rng.randint(2, 3), num_events=rng.randint(1, 2))


def draw_question(rng: random.Random, belongs: Callable[[str], bool]) -> Record | None:
    story = draw_story(rng)
    if not belongs(story.text):
        return None
    question, answer = rng.choice(story.questions)
    return {"prompt": f"{story.text} {question}", "answer": f" {answer}"}


def draw_lesson(rng: random.Random, belongs: Callable[[str], bool]) -> Record | None:
    return rng.choice((draw_question, draw_stories_infill))(rng, belongs)


def places(text: str) -> list[tuple[int, int]]:
    """(begin, end) of each word that names someone or something."""
    return [found.span() for found in re.finditer(r"\w+", text) if found[0] in ENTITIES]


def hide(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text with the characters of these spans as holes."""
    characters = list(text)
    for begin, end in spans:
        characters[begin:end] = HOLE * (end - begin)
    return "".join(characters)


def check(row: Mapping[str, str], answer: str) -> bool:
    return answer.strip() == row["answer"].strip()


def guess(row: Mapping[str, str], rng: random.Random) -> str:
    """An answer by spotting alone: each name or thing of the right answer replaced by one of its kind in the story."""
    words = re.findall(r"\w+", row["prompt"])

    def other(word: str) -> str:
        kind = next((kind for kind in KINDS if word in kind), ())
        return rng.choice([seen for seen in dict.fromkeys(words) if seen in kind] or [word])

    return " ".join(other(word) for word in row["answer"].split())


def words_of(num: int = 400) -> tuple[str, ...]:
    """Every word of the grammar as it stands in a text: after a space, or at the very beginning."""
    rng = random.Random(0)
    texts = [*ENDINGS]
    for _ in range(num):
        story = tell_story(rng, 3, 2)
        texts += [story.text, *(text for question in story.questions for text in question)]
    spaced = {f" {word}" for text in texts for word in re.findall(r"\w+", text)} | {f" {word}" for word in ENTITIES}
    return tuple(sorted(spaced | {"One", "First:", " Again:"}))


PHRASES = words_of()
TEXTS = (".?:",)
STORIES = Task("stories", "a story and a question", draw_question, check, TEXTS, PHRASES)
STORIES_INFILL = Task("stories_infill", "a story with holes", draw_stories_infill, check, TEXTS, PHRASES)
STORIES_LESSONS = Task("stories_lessons", "questions and stories with holes", draw_lesson, check, TEXTS, PHRASES)
FACTS_INFILL = Task("facts_infill", "facts told twice, with holes", draw_facts_infill, check, TEXTS, PHRASES)
