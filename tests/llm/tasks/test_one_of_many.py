"""Questions with several right answers: what is rewarded, and questions from a file."""

import pytest

from conf.schema.base import ConfigError
from llm.tasks.base import load_task
from llm.tasks.one_of_many import OneOfMany
from llm.tasks.texts import HELD_OUT, QUESTIONS

from ..helpers import user_chat, write_lines


def test_every_question_has_several_answers_each_with_one_spelling():
    task = OneOfMany()
    assert len(task.prompts()) == 12
    assert len(task.evaluation_prompts()["held_out/"]) == 4
    questions = [chat[0]["content"] for chats in task.evaluation_prompts().values() for chat in chats]
    assert len(set(questions)) == 16
    assert len({question.name for question in (*QUESTIONS, *HELD_OUT)}) == 16
    for question in (*QUESTIONS, *HELD_OUT):
        assert len(set(question.answers)) == len(question.answers) >= 2
        assert task.right_answers(user_chat(question.text)) == question.answers
        for answer in question.answers:
            assert task.reward(user_chat(question.text), answer) == 1
            for other in (f"{answer}.", f" {answer}", answer.swapcase(), f"{answer} {answer}"):
                assert other in question.answers or task.reward(user_chat(question.text), other) == 0
    assert task.reward(user_chat(QUESTIONS[0].text), QUESTIONS[1].answers[0]) == 0
    assert task.prompt_name(user_chat(QUESTIONS[0].text)) == "planet"


def test_questions_can_come_from_files(tmp_path, make_config):
    write_lines(tmp_path / "q.jsonl", [{"question": "Say a or b.", "answers": ["a", "b"], "name": "ab"}])
    write_lines(tmp_path / "e.jsonl", [{"question": "Say c.", "answers": ["c"]}])
    config = make_config(
        "experiment=one_of_many",
        f"data.root={tmp_path}",
        "data.train.path=q.jsonl",
        "data.evaluation.path=e.jsonl",
    )
    task = load_task("one_of_many", config)
    assert [chat[0]["content"] for chat in task.prompts()] == ["Say a or b."]
    assert task.reward(user_chat("Say a or b."), "b") == 1
    assert task.prompt_name(user_chat("Say a or b.")) == "ab"
    assert list(task.evaluation_prompts()) == ["", "held_out/"]
    assert task.data["train"].origin == "q.jsonl"
    write_lines(tmp_path / "q.jsonl", [{"question": "Say a.", "answers": "a"}])
    with pytest.raises(
        ConfigError, match=r"data\.train\.path: records must have question \(a text\) and answers \(a list"
    ):
        load_task("one_of_many", config)


def test_training_questions_are_needed_for_those_of_evaluation(make_config):
    config = make_config("experiment=one_of_many", "data.evaluation.path=e.jsonl")
    with pytest.raises(ConfigError, match=r"^data\.evaluation\.path: needs data\.train\.path as well, got e\.jsonl"):
        load_task("one_of_many", config)
