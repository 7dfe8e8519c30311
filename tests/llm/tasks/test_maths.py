"""Numbers on the last line, and GSM8K's format."""

import pytest

from conf.schema.base import ConfigError
from llm.tasks.base import load_task
from llm.tasks.maths import last_number
from llm.tasks.texts import MATHS_INSTRUCTION

from ..helpers import user_chat, write_lines


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3+4=7\n#### 7", "7"),
        ("#### 42", "42"),
        ("so\n#### 1,234,567", "1234567"),
        ("so\n#### -3", "-3"),
        ("so\n#### 042", "42"),
        ("so\n#### 2.50", "2.5"),
        ("so\n#### 42.0", "42"),
        ("so\n#### -0", "0"),
        ("#### 6\n#### 7", "7"),  # the last line counts
        ("so #### 7", None),
        ("so\n####7", None),
        ("so\n#### 7 apples", None),
        ("so\n#### $7", None),
        ("so\n#### 7\n", None),
        ("so\n#### 7.", None),
        ("so\n#### 1,23", None),
        ("so\n#### 1e3", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_answer_is_the_number_on_the_last_line(text, number):
    assert last_number(text) == number


def test_maths_reads_gsm8ks_format(tmp_path, make_config):
    problems = [
        {"question": "How many?", "answer": "She has <<1000+200=1200>>1200.\n#### 1,200"},
        {"question": "And now?", "answer": "None left.\n#### 0"},
    ]
    write_lines(tmp_path / "p.jsonl", problems)
    paths = (f"data.root={tmp_path}", "data.train.path=p.jsonl", "data.evaluation.path=p.jsonl")
    config = make_config("experiment=maths", *paths)
    task = load_task("maths", config)
    assert task.prompts()[0] == user_chat("How many?" + MATHS_INSTRUCTION)
    assert task.reward(task.prompts()[0], "1000 + 200\n#### 1200.0") == 1
    assert task.reward(task.prompts()[0], "#### 0") == 0 == task.reward(task.prompts()[1], "#### 1200")
    assert task.reward(task.prompts()[0], "1200") == 0
    assert [task.knows(prompt) for prompt in (task.prompts()[0], user_chat("How many?"), user_chat("Why?"))] == [
        True,
        True,
        False,
    ]
    assert task.answer("a\n#### 1,200") == task.answer("b\n#### 1200") != task.answer("1200?")
    write_lines(tmp_path / "p.jsonl", [{"question": "How many?", "answer": "12"}])
    with pytest.raises(
        ConfigError,
        match=r"data\.train\.path: p\.jsonl, line 1: a record must have .*, got question \(a text\), answer",
    ):
        load_task("maths", config)
    with pytest.raises(ConfigError, match=r"data\.train\.path: must be given for task\.name=maths, got null"):
        load_task("maths", make_config("task.name=maths"))


def test_a_problem_with_two_answers_is_refused_also_across_data_sets(tmp_path, make_config):
    write_lines(tmp_path / "a.jsonl", [{"question": "How many?", "answer": f"#### {n}"} for n in ("7", "7.0")])
    write_lines(tmp_path / "b.jsonl", [{"question": " How many?", "answer": "#### 8"}])
    paths = [f"data.root={tmp_path}", "data.train.path=a.jsonl", "data.evaluation.path=a.jsonl"]
    assert len(load_task("maths", make_config("experiment=maths", *paths)).prompts()) == 1
    paths[-1] = "data.evaluation.path=b.jsonl"
    message = r"data\.evaluation\.path: b\.jsonl, line 1: the question 'How many\?' is also in a\.jsonl, line 1, with"
    with pytest.raises(ConfigError, match=message):
        load_task("maths", make_config("experiment=maths", *paths))
