"""The benchmark uses prompts and completions of the lengths that its settings give."""

import pytest

from benchmarks import llm_step
from llm.inference.prompts import encode_chats


@pytest.mark.parametrize("name", llm_step.SETTINGS)
def test_prompts_have_exactly_the_length_that_the_setting_says(tokenizer, name):
    setting = llm_step.SETTINGS[name]
    chats = llm_step.chats(name)
    prompts = encode_chats(tokenizer, chats)
    assert prompts.ids.shape == (setting["P"], setting["prompt"])
    assert prompts.mask.all()
    assert len({chat[0]["content"] for chat in chats}) == setting["P"]
    lengths = llm_step.lengths(name)
    assert len(lengths) == setting["P"] * setting["G"]
    assert setting["least"] <= lengths.min()
    assert lengths.max() == setting["most"]
    assert (lengths == setting["most"]).all() == (setting["least"] == setting["most"])


def test_our_side_runs(tmp_path, monkeypatch):
    from llm import train
    from llm.inference import sampling

    small = {"P": 2, "G": 2, "prompt": 26, "least": 2, "most": 5, "steps": 2}
    monkeypatch.setitem(llm_step.SETTINGS, "long", small)
    monkeypatch.setattr(sampling, "inverse_cdf", sampling.inverse_cdf)  # both are replaced in there
    monkeypatch.setattr(train, "sample", train.sample)
    llm_step.build("long", str(tmp_path))
    told, waited = [], []
    result = llm_step.ours(
        "long", str(tmp_path), lambda: llm_step.Meter("long", 2, told.append, lambda: waited.append(len(told)))
    )
    assert result["tokens"] == llm_step.lengths("long").sum() > 4
    assert waited == [1, 2]
    assert len(told) == 3
    for turn in told[1:]:
        assert 0 < turn["objective"] < turn["seconds"]
        assert 0 < turn["sampling"] < turn["seconds"]
