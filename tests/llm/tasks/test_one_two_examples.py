from llm.tasks.one_two import OneTwo
from llm.tasks.one_two_examples import OneTwoExamples


def test_the_request_follows_two_examples():
    (chat,) = OneTwoExamples().prompts()
    assert [turn["role"] for turn in chat] == ["user", "assistant"] * 2 + ["user"]
    assert [chat[-1]] == OneTwo().prompts()[0]
    answers = [turn["content"] for turn in chat if turn["role"] == "assistant"]
    assert answers == ["<answer>3</answer>", "<answer>7</answer>"]
    task = OneTwoExamples()
    assert [task.reward(chat, answer) for answer in answers] == [0, 0]  # only the form is shown
    assert task.reward(chat, "<answer>2</answer>") == 1
