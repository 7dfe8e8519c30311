"""Prompts of WildChat and NoveltyBench."""

import os
from pathlib import Path

import pytest

from llm.data import load_records
from llm.tasks.base import load_task
from llm.tasks.creative import MAX_PROMPT_CHARACTERS, parse_prompt

from ..helpers import source, user_chat, write_lines

DATA = os.environ.get("MARA_DATA", "")


def test_a_prompt_is_the_first_turn_of_an_english_conversation():
    turns = [{"role": "user", "content": " Tell me. "}, {"role": "assistant", "content": "No."}]
    wild = {"conversation": turns, "language": "English", "toxic": False, "redacted": False}
    assert parse_prompt(wild) == "Tell me." == parse_prompt({"prompt": "Tell me.", "id": "1"})
    for change in ({"language": "French"}, {"toxic": True}, {"redacted": True}):
        assert parse_prompt(wild | change) is None
    assert parse_prompt({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}) is None is parse_prompt({"prompt": " "})
    with pytest.raises(ValueError, match=r"prompt \(a text\) or conversation"):
        parse_prompt({"text": "x"})
    broken: tuple[object, ...] = ("text", ["text"], [{"role": "user"}], {})
    for conversation in broken:
        with pytest.raises(ValueError, match=r"prompt \(a text\) or conversation"):
            parse_prompt({"conversation": conversation})
    with pytest.raises(ValueError, match="toxic and redacted that are true or false"):
        parse_prompt({"prompt": "x", "toxic": "False"})  # of a CSV file


@pytest.mark.parametrize("name", ["noveltybench_curated", "noveltybench_wildchat"])
def test_novelty_benchs_own_files_are_read(name, monkeypatch):
    if not Path(DATA, f"{name}.jsonl").exists():
        pytest.skip(f"needs MARA_DATA with {name}.jsonl")
    monkeypatch.setenv("MARA_DATA", DATA)
    records = load_records("data.evaluation", source(f"{name}.jsonl"), None, 0, parse_prompt)
    assert records.origin == f"{name}.jsonl"
    assert len(records.items) == {"curated": 100, "wildchat": 1000}[name[13:]]


def test_repeated_prompts_are_used_once_and_nothing_is_incorrect(tmp_path, make_config):
    write_lines(tmp_path / "t.jsonl", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a "}])
    write_lines(tmp_path / "e.jsonl", [{"prompt": "c"}])
    paths = (f"data.root={tmp_path}", "data.train.path=t.jsonl", "data.evaluation.path=e.jsonl")
    task = load_task("creative", make_config("task.name=creative", *paths))
    assert task.prompts() == [user_chat("a"), user_chat("b")]
    assert task.evaluation_prompts() == {"": [user_chat("c")]}
    assert not task.has_reward()
    assert task.correct([-5.0, float("nan"), 0.0]) == [True, False, True]
