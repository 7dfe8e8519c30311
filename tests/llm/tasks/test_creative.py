"""Prompts of WildChat and NoveltyBench."""

import os
from pathlib import Path

import pytest

from conf.schema.llm import SourceConfig
from llm.data import load_records
from llm.tasks.creative import MAX_PROMPT_CHARACTERS, parse_prompt

DATA = os.environ.get("MARA_DATA", "")


def source(path, count=None):
    return SourceConfig(path=path, subset=None, split="train", count=count)


def test_a_prompt_is_the_first_turn_of_an_english_conversation():
    turns = [{"role": "user", "content": " Tell me. "}, {"role": "assistant", "content": "No."}]
    wild = {"conversation": turns, "language": "English", "toxic": False, "redacted": False}
    assert parse_prompt(wild) == "Tell me." == parse_prompt({"prompt": "Tell me.", "id": "1"})
    for change in ({"language": "French"}, {"toxic": True}, {"redacted": True}):
        assert parse_prompt(wild | change) is None
    assert parse_prompt({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}) is None is parse_prompt({"prompt": " "})
    with pytest.raises(ValueError, match="prompt: text"):
        parse_prompt({"text": "x"})


@pytest.mark.parametrize("name", ["noveltybench_curated", "noveltybench_wildchat"])
def test_novelty_benchs_own_files_are_read(name, monkeypatch):
    if not Path(DATA, f"{name}.jsonl").exists():
        pytest.skip(f"needs MARA_DATA with {name}.jsonl")
    monkeypatch.setenv("MARA_DATA", DATA)
    found = load_records("data.evaluation", source(f"{name}.jsonl"), None, 0, parse_prompt)
    assert found.origin == f"{name}.jsonl"
    assert len(found.items) == {"curated": 100, "wildchat": 1000}[name[13:]]
