"""Names of columns, and rows as rollouts."""

import pytest

from conf.schema.base import ConfigError
from llm.diagnosis.columns import ALIASES, Columns, as_number, as_text


@pytest.mark.parametrize("what", [what for what in ALIASES if what != "answer"])
def test_every_alias_is_found(what):
    for alias in ALIASES[what]:
        columns = Columns({"completion", alias}, {}, "file")
        assert columns.column[what] == [alias] or (what == "completion" and alias != "completion")


def test_what_the_user_says_wins():
    columns = Columns(["completion", "reward", "a", "b", "answer"], {"reward": "a,b"}, "file")
    row = {"completion": "x", "reward": 5, "a": 1, "b": 0.5, "answer": "no answer of the completion"}
    rollout = columns.rollout(row, "file, row 1")
    assert rollout.reward == 1.5
    assert rollout.answer is None  # a column of this name is often that of the right answer
    assert Columns(row, {"answer": "answer"}, "file").rollout(row, "file").answer == row["answer"]
    with pytest.raises(ConfigError, match="reward: file has no column c; it has completion, reward, a, b, answer"):
        Columns(row, {"reward": "a,c"}, "file")


def test_missing_values_are_none_and_wrong_ones_an_error():
    columns = Columns(["completion", "reward", "prompt"], {}, "file")
    rollout = columns.rollout({"completion": "x", "reward": float("nan"), "prompt": None}, "file, row 1")
    assert (rollout.reward, rollout.prompt) == (None, "")
    with pytest.raises(ConfigError, match="file, row 2: completion must be a text"):
        columns.rollout({"completion": None}, "file, row 2")
    with pytest.raises(ConfigError, match="a prompt must be a text or a list of chat turns"):
        columns.rollout({"completion": "x", "prompt": {"a": 1}}, "file, row 3")
    assert as_number([-1.0, -2.0], "x") == -3.0
    assert as_number("2.5", "x") == 2.5
    with pytest.raises(ConfigError, match="must be finite"):
        as_number(float("inf"), "x")
    assert as_text([{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]) == "a\nb"


def test_a_chat_is_named_by_its_turns():
    columns = Columns(["completion", "prompt"], {}, "file")
    user = {"role": "user", "content": "q"}
    single = columns.rollout({"completion": "x", "prompt": [user]}, "file")
    assert single.prompt_name == "q"
    system = {"role": "system", "content": "s"}
    assert columns.rollout({"completion": "x", "prompt": [system, user]}, "file").prompt_name == "system: s\nuser: q"
