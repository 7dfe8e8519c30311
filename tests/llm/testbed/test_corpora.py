"""The synthetic corpora are distributions, and their answers are right in a second way."""

import itertools
import random

import pytest

from llm.tasks.base import load_task
from llm.tasks.maths import last_number
from llm.tasks.one_of_many import OneOfMany
from llm.tasks.texts import HELD_OUT, QUESTIONS
from llm.testbed import corpora


def ask(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_a_corpus_is_a_distribution_for_each_prompt(name):
    corpus = corpora.CORPORA[name]()
    for said in corpus.values():
        assert sum(said.values()) == pytest.approx(1)
        assert min(said.values()) > 0
        assert max(len(text.encode()) for text in said) < 40


def test_the_reference_of_one_of_many_knows_all_answers_and_prefers_one():
    corpus, task = corpora.one_of_many(), OneOfMany()
    for question in (*QUESTIONS, *HELD_OUT):
        said = corpus[question.text]
        right = [said[answer] for answer in question.answers]
        assert 0.75 < sum(share for text, share in said.items() if task.reward(ask(question.text), text)) < 0.9
        assert right == sorted(right, reverse=True)
        assert right[0] / right[1] == pytest.approx(1 / 0.6)


def test_the_sums_have_the_right_answer_by_another_way(make_config):
    task = load_task("maths", make_config("experiment=maths_tiny"))
    said = corpora.maths()
    for chat in itertools.chain(task.prompts(), task.evaluation_prompts()[""]):
        words = chat[0]["content"].split()
        right = str(int(words[2]) + int(words[6]))
        shares = {text: share for text, share in said[chat[0]["content"]].items() if task.reward(chat, text)}
        assert {last_number(text) for text in shares} == {right}
        assert 0.4 < sum(shares.values()) < 0.5
    asked = [{chat[0]["content"] for chat in chats} for chats in (task.prompts(), task.evaluation_prompts()[""])]
    assert len(asked[0]) == 108
    assert len(asked[1]) == 36
    assert not asked[0] & asked[1]


def test_raters_like_different_lines_about_the_topic(make_config):
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
    best = [{i for i, value in enumerate(some) if value == max(some)} for some in qualities]
    assert min(map(len, best)) >= 30
    assert 0 < len(best[0] & best[1]) < len(best[0])
    compared = corpora.comparisons(random.Random(0), 500)
    assert len({first.quality(topic, text) for topic, *pair in compared for text in pair}) >= 6
