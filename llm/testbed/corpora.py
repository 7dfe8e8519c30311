"""What the small models made here learn to say, and what their tasks ask: made up, small, and the same for everyone.

A corpus lists prompts with the probability of each completion, so that a model's bias is chosen and not sampled.
"""

import itertools
import random
from collections.abc import Mapping
from typing import NamedTuple

from llm.tasks.texts import HELD_OUT, MATHS_INSTRUCTION, ONE_OR_TWO, QUESTIONS

Corpus = Mapping[str, Mapping[str, float]]  # prompt -> completion -> probability


def one_two() -> Corpus:
    """Well formed most of the time, and biased towards one answer, as a large model is."""
    return {
        ONE_OR_TWO: {
            "<answer>1</answer>": 0.70,
            "<answer>2</answer>": 0.10,
            "<answer>3</answer>": 0.05,
            "<answer>1": 0.04,
            "1": 0.05,
            "2": 0.03,
            "one or two": 0.03,
        }
    }


def one_of_many(ratio: float = 0.6, right: float = 0.8) -> Corpus:
    """Each right answer `ratio` times as likely as the one before; else one to another question, or a sentence."""
    corpus = {}
    questions = (*QUESTIONS, *HELD_OUT)
    for number, question in enumerate(questions):
        weights = [ratio**k for k in range(len(question.answers))]
        said = {answer: right * w / sum(weights) for answer, w in zip(question.answers, weights, strict=True)}
        other = questions[(number + 1) % len(questions)].answers[0]
        first = question.answers[0]
        for wrong, share in ((other, 0.4), (f"{first}.", 0.3), ("I do not know", 0.3)):
            said[wrong] = said.get(wrong, 0.0) + (1 - right) * share
        corpus[question.text] = said
    return corpus


# --- creative: lines about a topic ---------------------------------------------------------------------------

NOUNS = {
    "sea": ("boat", "gull", "tide", "pier"),
    "night": ("moon", "owl", "star", "lamp"),
    "city": ("tower", "tram", "crowd", "street"),
    "forest": ("oak", "deer", "path", "fern"),
    "winter": ("snow", "sledge", "frost", "stove"),
    "garden": ("rose", "bee", "gate", "pond"),
    "railway": ("train", "bridge", "signal", "tunnel"),
    "music": ("song", "drum", "fiddle", "choir"),
    "river": ("ferry", "trout", "reed", "weir"),
    "market": ("stall", "baker", "coin", "basket"),
    "kitchen": ("kettle", "bread", "knife", "spoon"),
}
HELD_OUT_TOPICS = ("river", "market", "kitchen")
ADJECTIVES = ("old", "small", "quiet", "bright", "wild", "pale")
VERBS = ("waits", "sleeps", "turns", "sings", "burns", "falls")
ENDINGS = ("alone", "at dawn", "by night", "in rain", "like fire", "all day")
COMMON = 0.6  # how likely a word is beside the one before it in its list


class Line(NamedTuple):
    """adjective noun verb ending, e.g. old boat waits alone."""

    adjective: str
    noun: str
    verb: str
    ending: str

    def __str__(self) -> str:
        return " ".join(self)


def topic_prompt(topic: str) -> str:
    return f"Write a line about the {topic}."


def lines(topic: str) -> dict[Line, float]:
    """All lines about a topic, with their probabilities: words early in their lists are the usual ones."""
    weights = {
        Line(*words): COMMON ** sum(options.index(word) for word, options in zip(words, parts, strict=True))
        for parts in [(ADJECTIVES, NOUNS[topic], VERBS, ENDINGS)]
        for words in itertools.product(*parts)
    }
    total = sum(weights.values())
    return {line: weight / total for line, weight in weights.items()}


def creative(right: float = 0.9) -> Corpus:
    """Lines about the topic, and some about another one."""
    topics = list(NOUNS)
    corpus = {}
    for number, topic in enumerate(topics):
        said = {str(line): right * share for line, share in lines(topic).items()}
        other = topics[(number + 1) % len(topics)]
        for line, share in lines(other).items():
            said[str(line)] = said.get(str(line), 0.0) + (1 - right) * share
        corpus[topic_prompt(topic)] = said
    return corpus


class Rater(NamedTuple):
    """What somebody likes in a line: points for its words, beside those for being about the topic at all."""

    words: Mapping[str, float]

    def quality(self, topic: str, text: str) -> float:
        """Points of a text; one that is no line loses 3, one about something else 2."""
        words = text.split(" ")
        for ending in ENDINGS:
            stem = words[: len(words) - len(ending.split())]
            if text.endswith(f" {ending}") and len(stem) == 3:
                nouns = {noun for some in NOUNS.values() for noun in some}
                if stem[0] in ADJECTIVES and stem[1] in nouns and stem[2] in VERBS:
                    points = sum(self.words.get(word, 0.0) for word in (stem[0], stem[2], ending))
                    return points - (0.0 if stem[1] in NOUNS[topic] else 2.0)
        return -3.0


def _likes(text: str) -> Rater:
    return Rater(dict.fromkeys(text.split(", "), 1.0))


RATERS = {
    "tiny_reward": _likes("bright, wild, pale, sings, burns, falls, like fire, in rain"),
    "tiny_reward_other": _likes("wild, pale, quiet, burns, falls, turns, in rain, all day"),
}


def comparisons(generator: random.Random, count: int) -> list[tuple[str, str, str]]:
    """(topic, text, text) to be compared: lines of all words alike, some about something else, some broken."""
    found = []
    for _ in range(count):
        topic = generator.choice(list(NOUNS))
        found.append((topic, _some_text(generator, topic), _some_text(generator, topic)))
    return found


def _some_text(generator: random.Random, topic: str) -> str:
    kind = generator.random()
    about = generator.choice(list(NOUNS)) if kind < 0.15 else topic
    line = Line(*(generator.choice(words) for words in (ADJECTIVES, NOUNS[about], VERBS, ENDINGS)))
    if 0.15 <= kind < 0.3:
        words = str(line).split()
        del words[generator.randrange(len(words))]
        return " ".join(words)
    return str(line)


# --- maths: sums ------------------------------------------------------------------------------------------------

NAMES = ("Ann", "Ben", "Cleo")
HELD_OUT_NAME = "Dora"
LARGEST = 6


def sums(names: tuple[str, ...]) -> list[dict[str, str]]:
    """Records in GSM8K's format."""
    pairs = itertools.product(names, range(1, LARGEST + 1), range(1, LARGEST + 1))
    return [{"question": _sum(name, a, b), "answer": f"{a}+{b}={a + b}\n#### {a + b}"} for name, a, b in pairs]


def _sum(name: str, a: int, b: int) -> str:
    return f"{name} has {a} apples and gets {b} more. How many apples has {name} now?"


def maths() -> Corpus:
    """Two ways to the right number, near misses, and the right number without its mark."""
    corpus = {}
    for name, a, b in itertools.product((*NAMES, HELD_OUT_NAME), range(1, LARGEST + 1), range(1, LARGEST + 1)):
        c = a + b
        said = {
            f"{a}+{b}={c}\n#### {c}": 0.35,
            f"{a}+{b}={c + 1}\n#### {c + 1}": 0.2,
            f"{a}+{b}={c - 1}\n#### {c - 1}": 0.15,
        }
        for text, share in ((f"{b}+{a}={c}\n#### {c}", 0.1), (f"{a}+{b}={c}\n{c} apples", 0.2)):
            said[text] = said.get(text, 0.0) + share
        corpus[_sum(name, a, b) + MATHS_INSTRUCTION] = said
    return corpus


CORPORA = {"tiny": one_two, "tiny_many": one_of_many, "tiny_creative": creative, "tiny_maths": maths}


def records(name: str) -> list[dict[str, str]] | None:
    """The data set called `name`; None where there is none."""
    train = [topic for topic in NOUNS if topic not in HELD_OUT_TOPICS]
    made = {
        "tiny_creative_train": lambda: [{"id": topic, "prompt": topic_prompt(topic)} for topic in train],
        "tiny_creative_evaluation": lambda: [{"id": t, "prompt": topic_prompt(t)} for t in HELD_OUT_TOPICS],
        "tiny_maths_train": lambda: sums(NAMES),
        "tiny_maths_evaluation": lambda: sums((HELD_OUT_NAME,)),
    }
    return made[name]() if name in made else None
