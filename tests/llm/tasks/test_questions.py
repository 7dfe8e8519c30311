"""Questions from a file whose answers may be spelt in several ways."""

import pytest

from conf.schema.base import ConfigError
from llm.tasks.base import load_task

from ..helpers import write_lines


def test_spellings_of_an_answer_are_right_and_counted_as_the_answer(tmp_path, make_config):
    questions = [{"question": "Name a season.", "answers": ["Spring", "spring.", "late  Autumn", "!"]}]
    write_lines(tmp_path / "q.jsonl", questions)
    paths = (f"data.root={tmp_path}", "data.train.path=q.jsonl")
    task = load_task("questions", make_config("experiment=one_of_many", "task.name=questions", *paths))
    (chat,) = task.prompts()
    assert task.right_answers(chat) == ("spring", "late autumn", "!")
    strict = load_task("one_of_many", make_config("experiment=one_of_many", *paths))
    for text, answer in (
        ("spring", "spring"),
        (" SPRING!\n", "spring"),
        ("**Spring**", "spring"),
        ("Late\nautumn", "late autumn"),
        ("\uff53pring", "spring"),  # full width
        ("!", "!"),
    ):
        assert task.answer(text) == answer
        assert task.reward(chat, text) == 1
    for text in ("summer", "spring is best", "autumn", ""):
        assert task.reward(chat, text) == 0
    assert strict.reward(chat, " SPRING!\n") == 0  # control
    with pytest.raises(ConfigError, match=r"^data\.train\.path: must be given for task\.name=questions, got null$"):
        load_task("questions", make_config("task.name=questions"))
