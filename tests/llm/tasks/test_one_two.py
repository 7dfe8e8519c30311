"""The reward of the 1-2 task accepts exactly two completions."""

import pytest

from llm.tasks.one_two import OneTwo


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("<answer>1</answer>", 1),
        ("<answer>2</answer>", 1),
        ("<answer>3</answer>", 0),
        ("<answer>12</answer>", 0),
        (" <answer>1</answer>", 0),
        ("<answer>1</answer>\n", 0),
        ("<answer>1", 0),
        ("1", 0),
        ("", 0),
    ],
)
def test_the_one_two_reward_is_strict(completion, reward):
    assert OneTwo().reward([], completion) == reward


def test_the_answer_is_the_text_between_the_tags():
    task = OneTwo()
    assert [task.answer(f"<answer>{answer}</answer>") for answer in task.answers] == ["1", "2"]
    assert task.right_answers(task.prompts()[0]) == ("1", "2")
