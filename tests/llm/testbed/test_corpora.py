"""The synthetic corpora are distributions, and their answers are right in a second way."""

import itertools
import random

import pytest

from llm.tasks.base import load_task
from llm.tasks.maths import last_number
from llm.tasks.one_of_many import OneOfMany
from llm.tasks.spellings import Spellings
from llm.tasks.texts import HELD_OUT, QUESTIONS, SPELT_QUESTIONS
from llm.testbed import corpora

from ..helpers import user_chat


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_a_corpus_is_a_distribution_for_each_prompt(name):
    corpus = corpora.CORPORA[name]()
    for completions in corpus.values():
        assert sum(completions.values()) == pytest.approx(1)
        assert min(completions.values()) > 0
        assert max(len(text.encode()) for text in completions) < 40


def test_all_answers_of_one_of_many_occur_and_the_first_is_preferred():
    corpus, task = corpora.one_of_many(), OneOfMany()
    for question in (*QUESTIONS, *HELD_OUT):
        completions = corpus[question.text]
        right = [completions[answer] for answer in question.answers]
        assert (
            0.75
            < sum(share for text, share in completions.items() if task.reward(user_chat(question.text), text))
            < 0.9
        )
        assert right == sorted(right, reverse=True)
        assert right[0] / right[1] == pytest.approx(1 / 0.6)


def test_answers_and_their_spellings_are_skewed():
    corpus, task = corpora.spellings(), Spellings()
    for question in SPELT_QUESTIONS:
        chat, completions = user_chat(question.text), corpus[question.text]
        mass = dict.fromkeys(task.right_answers(chat), 0.0)
        for text, share in completions.items():
            if task.reward(chat, text):
                mass[task.answer(text)] += share
        assert list(mass.values()) == pytest.approx([0.45, 0.2, 0.1, 0.05])
        for texts in question.spellings.values():
            shares = [completions[text] for text in texts]
            assert [b / a for a, b in itertools.pairwise(shares)] == pytest.approx([0.8] * (len(texts) - 1))
        wrong = [text for text in completions if not task.reward(chat, text)]
        assert len(wrong) == 2  # an answer to another question, and none


def test_the_sums_are_right(make_config):
    task = load_task("maths", make_config("experiment=maths_tiny"))
    corpus = corpora.maths()
    for chat in itertools.chain(task.prompts(), task.evaluation_prompts()[""]):
        words = chat[0]["content"].split()
        right = str(int(words[2]) + int(words[6]))
        shares = {text: share for text, share in corpus[chat[0]["content"]].items() if task.reward(chat, text)}
        assert {last_number(text) for text in shares} == {right}
        assert 0.4 < sum(shares.values()) < 0.5
    questions = [{chat[0]["content"] for chat in chats} for chats in (task.prompts(), task.evaluation_prompts()[""])]
    assert len(questions[0]) == 108
    assert len(questions[1]) == 36
    assert not questions[0] & questions[1]


def test_raters_like_different_lines_on_the_topic(make_config):
    task = load_task("creative", make_config("experiment=creative_tiny"))
    assert len(task.prompts()) == 8
    assert len(task.evaluation_prompts()[""]) == 3
    assert task.correct_reward is None
    assert not task.has_reward()
    first, other = corpora.RATERS.values()
    assert first.quality("sea", "wild gull sings in rain") == 3 == other.quality("sea", "wild gull burns in rain")
    assert first.quality("city", "wild gull sings in rain") == 1
    for broken in ("wild gull sings", "wild sings gull in rain", "gull in rain", "wild gull sings  in rain", ""):
        assert first.quality("sea", broken) == -3
    qualities = [[rater.quality("sea", str(line)) for line in corpora.lines("sea")] for rater in (first, other)]
    best = [{i for i, value in enumerate(values) if value == max(values)} for values in qualities]
    assert min(map(len, best)) >= 30
    assert 0 < len(best[0] & best[1]) < len(best[0])
    comparisons = corpora.comparisons(random.Random(0), 500)
    assert len({first.quality(topic, text) for topic, *pair in comparisons for text in pair}) >= 6
