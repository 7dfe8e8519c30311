"""Log-probabilities of texts under a model, against transformers' own logits."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf.schema.base import ConfigError
from llm.diagnosis.columns import Rollout
from llm.diagnosis.reference_scores import Reference, score_rollouts
from llm.tasks.one_two import OneTwo
from llm.testbed.tiny_models import tiny_model

pytestmark = pytest.mark.slow  # the tiny model is trained first


@pytest.fixture(scope="module")
def reference():
    return Reference("tiny", "cpu")


def by_hand(prompt_ids, text):
    """Summed over the tokens of the text and its end, one text after the other."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    whole = torch.tensor([[*prompt_ids, *ids]])
    logp = model(whole).logits[0, :-1].double().log_softmax(-1)
    start = len(prompt_ids) - 1
    return float(sum(logp[start + i, token] for i, token in enumerate(ids)))


def test_a_chat_is_scored_by_its_template(reference):
    chat = OneTwo().prompts()[0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    texts = ["<answer>1</answer>", "<answer>2</answer>", "2"] * 7  # more than one batch
    values = reference.seq_logp(chat, True, texts)
    assert values[:3] == pytest.approx([by_hand(ids, text) for text in texts[:3]], abs=1e-3)
    assert values[:3] == pytest.approx(values[18:], abs=1e-4)
    as_text = reference.seq_logp(chat[0]["content"], True, texts[:1])
    assert as_text == pytest.approx(values[:1], abs=1e-4)
    plain = reference.seq_logp(chat[0]["content"], False, texts[:1])  # control: a text without a template
    assert abs(plain[0] - values[0]) > 0.1


def test_each_distinct_completion_is_scored_once(reference, monkeypatch):
    chat, calls = OneTwo().prompts()[0], []
    original = reference.seq_logp

    def seq_logp(prompt, as_chat, texts):
        calls.append(texts)
        return original(prompt, as_chat, texts)

    monkeypatch.setattr(reference, "seq_logp", seq_logp)
    rollouts = [Rollout(0, chat, text, 1.0) for text in ("a", "b", "a")] + [Rollout(0, "", "a", 1.0)]
    scored = score_rollouts(rollouts, reference)
    assert calls == [["a", "b"], ["a"]]
    assert scored[0].ref_logp == scored[2].ref_logp != scored[1].ref_logp
    assert [rollout.completion for rollout in scored] == ["a", "b", "a", "a"]


def test_what_is_no_model_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="reference: must be a folder or hub name of a causal language model"):
        Reference(str(tmp_path), "cpu")
