"""The benchmark's work is what it says: prompts and completions of the given lengths."""

import pytest

from benchmarks import llm_step
from llm.prompts import encode_chats


@pytest.mark.parametrize("name", llm_step.SETTINGS)
def test_prompts_have_exactly_the_length_that_the_setting_says(tokenizer, name):
    setting = llm_step.SETTINGS[name]
    chats = llm_step.chats(name)
    prompts = encode_chats(tokenizer, chats)
    assert prompts.ids.shape == (setting["P"], setting["prompt"]) and prompts.mask.all()
    assert len({chat[0]["content"] for chat in chats}) == setting["P"]
    lengths = llm_step.lengths(name)
    assert len(lengths) == setting["P"] * setting["G"]
    assert setting["least"] <= lengths.min() and lengths.max() == setting["most"]
    assert (lengths == setting["most"]).all() == (setting["least"] == setting["most"])
