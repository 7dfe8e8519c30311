"""Answers with many spellings: every spelling is rewarded, and counts as its answer."""

from llm.evaluation.equivalence import make_labels
from llm.tasks.base import load_task
from llm.tasks.spellings import Spellings
from llm.tasks.texts import SPELT_QUESTIONS, SpeltQuestion

from ..helpers import user_chat

AB = SpeltQuestion("ab", "Say a or b.", {"a": ("a", "a.", "the a"), "b": ("b",)})


def test_every_spelling_is_rewarded_and_nothing_else():
    task = Spellings((AB, SpeltQuestion("c", "Say c.", {"c": ("c",)})))
    chat = user_chat("Say a or b.")
    for text in ("a", "a.", "the a", "b"):
        assert task.reward(chat, text) == 1
    for text in ("c", "a!", " a", "A", "b.", "", "the", "a b"):
        assert task.reward(chat, text) == 0
    assert task.reward(user_chat("Say c."), "c") == 1
    assert task.reward(user_chat("Say c."), "a") == 0


def test_spellings_count_as_their_answer():
    task = Spellings((AB,))
    assert [task.answer(text) for text in ("a", "a.", "the a", "b", "else")] == ["a", "a", "a", "b", "else"]
    assert task.right_answers(user_chat("Say a or b.")) == ("a", "b")
    assert task.prompt_name(user_chat("Say a or b.")) == "ab"


def test_the_built_in_questions_and_the_classes_that_mara_is_given(make_config):
    config = make_config("experiment=spellings", "transform=mara", "transform.level=answer")
    task = load_task("spellings", config)
    assert [chat[0]["content"] for chat in task.prompts()] == [question.text for question in SPELT_QUESTIONS]
    labels = make_labels(config.transform, task, None)
    assert labels is not None
    for question in SPELT_QUESTIONS:
        chat = user_chat(question.text)
        assert task.right_answers(chat) == tuple(question.spellings)
        for answer, texts in question.spellings.items():
            assert labels(task.prompts()[0], [], texts) == [answer] * len(texts)
            assert all(task.reward(chat, text) == 1 for text in texts)
    assert config.max_new_tokens == 16
