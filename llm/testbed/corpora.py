"""Synthetic training data of the test models, and the prompts of their tasks.

A corpus lists prompts with the probability of each completion, so that a model's bias is exact and not sampled.
"""

import itertools
import random
from collections.abc import Mapping
from typing import NamedTuple

from llm.tasks.texts import HELD_OUT, MATHS_INSTRUCTION, ONE_TWO_PROMPT, QUESTIONS, SPELT_QUESTIONS

Corpus = Mapping[str, Mapping[str, float]]  # prompt -> completion -> probability


def one_two() -> Corpus:
    """Mostly well-formed answers, biased towards one of them, as those of a large model are."""
    return {
        ONE_TWO_PROMPT: {
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
    """Right answers, each `ratio` times as likely as the one before it, and a share 1 - right of wrong ones."""
    corpus = {}
    questions = (*QUESTIONS, *HELD_OUT)
    for number, question in enumerate(questions):
        weights = [ratio**k for k in range(len(question.answers))]
        completions = {a: right * w / sum(weights) for a, w in zip(question.answers, weights, strict=True)}
        other = questions[(number + 1) % len(questions)].answers[0]
        first = question.answers[0]
        for wrong, share in ((other, 0.4), (f"{first}.", 0.3), ("I do not know", 0.3)):
            completions[wrong] = completions.get(wrong, 0.0) + (1 - right) * share
        corpus[question.text] = completions
    return corpus


ANSWER_SHARES = (0.45, 0.2, 0.1, 0.05)  # the rest is wrong


def spellings(ratio: float = 0.8) -> Corpus:
    """Right answers by ANSWER_SHARES, each spelling of one `ratio` times as likely as the one before it."""
    corpus = {}
    for number, question in enumerate(SPELT_QUESTIONS):
        completions: dict[str, float] = {}
        for share, texts in zip(ANSWER_SHARES, question.spellings.values(), strict=True):
            weights = [ratio**k for k in range(len(texts))]
            completions |= {text: share * w / sum(weights) for text, w in zip(texts, weights, strict=True)}
        other = next(iter(SPELT_QUESTIONS[(number + 1) % len(SPELT_QUESTIONS)].spellings))
        wrong = 1 - sum(ANSWER_SHARES)
        completions |= {other: 0.5 * wrong, "I do not know": 0.5 * wrong}
        corpus[question.text] = completions
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
WORD_RATIO = 0.6  # probability of a word relative to the one before it in its list


class Line(NamedTuple):
    """A line of verse: adjective, noun, verb and ending, such as old boat waits alone."""

    adjective: str
    noun: str
    verb: str
    ending: str

    def __str__(self) -> str:
        return " ".join(self)


def topic_prompt(topic: str) -> str:
    """The prompt that asks for a line about a topic."""
    return f"Write a line about the {topic}."


def lines(topic: str) -> dict[Line, float]:
    """All lines about a topic with their probabilities. Words early in their lists are more likely."""
    weights = {
        Line(*words): WORD_RATIO ** sum(options.index(word) for word, options in zip(words, parts, strict=True))
        for parts in [(ADJECTIVES, NOUNS[topic], VERBS, ENDINGS)]
        for words in itertools.product(*parts)
    }
    total = sum(weights.values())
    return {line: weight / total for line, weight in weights.items()}


def creative(right: float = 0.9) -> Corpus:
    """Lines about the topic, and a share 1 - right of lines about another one."""
    topics = list(NOUNS)
    corpus = {}
    for number, topic in enumerate(topics):
        completions = {str(line): right * share for line, share in lines(topic).items()}
        other = topics[(number + 1) % len(topics)]
        for line, share in lines(other).items():
            completions[str(line)] = completions.get(str(line), 0.0) + (1 - right) * share
        corpus[topic_prompt(topic)] = completions
    return corpus


class Rater(NamedTuple):
    """A rater's taste. words: the points that each word earns a line."""

    words: Mapping[str, float]

    def quality(self, topic: str, text: str) -> float:
        """Points of a text: the sum of its words, minus 2 if it is about another topic; -3 if it is not a line."""
        words = text.split(" ")
        for ending in ENDINGS:
            stem = words[: len(words) - len(ending.split())]
            if text.endswith(f" {ending}") and len(stem) == 3:
                nouns = {noun for topic_nouns in NOUNS.values() for noun in topic_nouns}
                if stem[0] in ADJECTIVES and stem[1] in nouns and stem[2] in VERBS:
                    points = sum(self.words.get(word, 0.0) for word in (stem[0], stem[2], ending))
                    return points - (0.0 if stem[1] in NOUNS[topic] else 2.0)
        return -3.0


def _rater(liked: str) -> Rater:
    return Rater(dict.fromkeys(liked.split(", "), 1.0))


RATERS = {
    "tiny_reward": _rater("bright, wild, pale, sings, burns, falls, like fire, in rain"),
    "tiny_reward_other": _rater("wild, pale, quiet, burns, falls, turns, in rain, all day"),
}


def comparisons(generator: random.Random, count: int) -> list[tuple[str, str, str]]:
    """(topic, text, text) to compare: lines with uniformly drawn words, some off topic, some with a missing word."""
    triples = []
    for _ in range(count):
        topic = generator.choice(list(NOUNS))
        triples.append((topic, _random_text(generator, topic), _random_text(generator, topic)))
    return triples


def _random_text(generator: random.Random, topic: str) -> str:
    u = generator.random()
    line_topic = generator.choice(list(NOUNS)) if u < 0.15 else topic
    line = Line(*(generator.choice(words) for words in (ADJECTIVES, NOUNS[line_topic], VERBS, ENDINGS)))
    if 0.15 <= u < 0.3:
        words = str(line).split()
        del words[generator.randrange(len(words))]
        return " ".join(words)
    return str(line)


# --- maths: sums ------------------------------------------------------------------------------------------------

NAMES = ("Ann", "Ben", "Cleo")
HELD_OUT_NAME = "Dora"
LARGEST_SUMMAND = 6


def sums(names: tuple[str, ...]) -> list[dict[str, str]]:
    """One record in GSM8K's format for each name and each pair of summands."""
    summands = range(1, LARGEST_SUMMAND + 1)
    problems = itertools.product(names, summands, summands)
    return [{"question": _sum(name, a, b), "answer": f"{a}+{b}={a + b}\n#### {a + b}"} for name, a, b in problems]


def _sum(name: str, a: int, b: int) -> str:
    return f"{name} has {a} apples and gets {b} more. How many apples has {name} now?"


def maths() -> Corpus:
    """Two ways to the right number, near misses, and the right number in the wrong format."""
    corpus = {}
    summands = range(1, LARGEST_SUMMAND + 1)
    for name, a, b in itertools.product((*NAMES, HELD_OUT_NAME), summands, summands):
        c = a + b
        completions = {
            f"{a}+{b}={c}\n#### {c}": 0.35,
            f"{a}+{b}={c + 1}\n#### {c + 1}": 0.2,
            f"{a}+{b}={c - 1}\n#### {c - 1}": 0.15,
        }
        for text, share in ((f"{b}+{a}={c}\n#### {c}", 0.1), (f"{a}+{b}={c}\n{c} apples", 0.2)):
            completions[text] = completions.get(text, 0.0) + share
        corpus[_sum(name, a, b) + MATHS_INSTRUCTION] = completions
    return corpus


CORPORA = {
    "tiny": one_two,
    "tiny_many": one_of_many,
    "tiny_spellings": spellings,
    "tiny_creative": creative,
    "tiny_maths": maths,
}


def records(name: str) -> list[dict[str, str]] | None:
    """The records of a test data set; None if there is no data set of that name."""
    train = [topic for topic in NOUNS if topic not in HELD_OUT_TOPICS]
    data_sets = {
        "tiny_creative_train": lambda: [{"id": topic, "prompt": topic_prompt(topic)} for topic in train],
        "tiny_creative_evaluation": lambda: [{"id": t, "prompt": topic_prompt(t)} for t in HELD_OUT_TOPICS],
        "tiny_maths_train": lambda: sums(NAMES),
        "tiny_maths_evaluation": lambda: sums((HELD_OUT_NAME,)),
    }
    return data_sets[name]() if name in data_sets else None
