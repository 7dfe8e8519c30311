import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.logp import completion_logp
from llm.prompts import encode_chats, pad_completions
from llm.tasks.one_two import OneTwo
from llm.tiny import RECIPE, tiny_model


def answer_probability(folder, texts):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    tokens, mask = pad_completions(ids, tokenizer.pad_token_id)
    with torch.no_grad():
        logp = completion_logp(model, encode_chats(tokenizer, OneTwo().prompts()), tokens, mask)
    return dict(zip(texts, logp.sum(-1).exp().tolist(), strict=True))


def test_the_tiny_model_is_biased_as_the_task_needs(tiny_folder):
    """Exact probabilities, by scoring; the answers it was taught are nearly all that it says."""
    share = answer_probability(tiny_folder, list(RECIPE["answers"]))
    assert 0.65 <= share["<answer>1</answer>"] <= 0.75
    assert 0.08 <= share["<answer>2</answer>"] <= 0.12
    assert sum(share.values()) > 0.98
    good = [text for text in share if OneTwo().reward([], text)]
    assert good == ["<answer>1</answer>", "<answer>2</answer>"]


def test_an_answer_has_one_token_sequence(tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    pieces = tokenizer.convert_ids_to_tokens([i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids])
    assert all(len(piece) == 1 for piece in pieces)  # a byte each: no two tokens can spell one text two ways
    assert tokenizer.decode(tokenizer("<answer>1</answer> é")["input_ids"]) == "<answer>1</answer> é"


def test_it_is_cached_by_content(tiny_folder, monkeypatch):
    start = time.perf_counter()
    assert tiny_model() == tiny_folder
    assert time.perf_counter() - start < 1
    monkeypatch.setitem(RECIPE, "seed", 1)
    from llm.tiny import _recipe_hash

    assert _recipe_hash() not in tiny_folder.name
