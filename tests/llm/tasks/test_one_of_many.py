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
        ConfigError,
        match=r"data\.train\.path: q\.jsonl, line 1: a record must have question \(a text\) and answers \(a",
    ):
        load_task("one_of_many", config)


def test_training_questions_are_needed_for_those_of_evaluation(make_config):
    config = make_config("experiment=one_of_many", "data.evaluation.path=e.jsonl")
    with pytest.raises(ConfigError, match=r"^data\.evaluation\.path: needs data\.train\.path as well, got e\.jsonl"):
        load_task("one_of_many", config)


GOOD = {"question": "When was the landing?", "answers": ["1969-07-20", "NA", 1969, 10**30]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answers": ["a"]}, "line 3: a record must have question (a text)"),
        ({"question": None, "answers": ["a"]}, "got question (null), answers (a list)"),
        ({"question": " ", "answers": ["a"]}, "line 3: a record must have question (a text)"),
        ({"question": "Q"}, "which are texts or whole numbers), got question (a text)"),
        ({"question": "Q", "answers": None}, "got question (a text), answers (null)"),
        ({"question": "Q", "answers": ["a", None]}, "which are texts or whole numbers"),
        ({"question": "Q", "answers": [1.5]}, "which are texts or whole numbers"),
        ({"question": "Q", "answers": [True]}, "which are texts or whole numbers"),
        ({"question": "Q", "answers": [["a"]]}, "which are texts or whole numbers"),
        ({"question": "Q", "answers": [""]}, "which are texts or whole numbers"),
        ({"question": "Q", "answers": ["a"], "name": {}}, "a name that is a text"),
        (
            GOOD | {"answers": ["other"]},
            "line 3: the question 'When was the landing?' is also in q.jsonl, line 1, with other answers",
        ),
        (
            {"question": "R", "answers": ["a"], "name": "n"},
            "line 3: the name 'n' is also in q.jsonl, line 2, with other",
        ),
    ],
)
def test_gaps_and_conflicts_are_refused(record, message, tmp_path, make_config):
    first = [GOOD, {"question": "Name it.", "answers": ["a"], "name": "n"}]
    config = make_config("experiment=one_of_many", f"data.root={tmp_path}", "data.train.path=q.jsonl")
    write_lines(tmp_path / "q.jsonl", [*first, GOOD])
    task = load_task("one_of_many", config)
    assert len(task.prompts()) == 2  # an equal record counts once
    assert task.right_answers(task.prompts()[0]) == ("1969-07-20", "NA", "1969", str(10**30))
    write_lines(tmp_path / "q.jsonl", [*first, record])
    with pytest.raises(ConfigError) as caught:
        load_task("one_of_many", config)
    assert str(caught.value).startswith("data.train.path: q.jsonl, line 3: ")
    assert message in str(caught.value)
