"""The test models: their probabilities are those of the corpora, and they are cached by content."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.inference.logprobs import completion_logp
from llm.inference.prompts import encode_chats, pad_completions
from llm.rewards import ModelReward
from llm.tasks.one_two import OneTwo
from llm.tasks.texts import ONE_TWO_PROMPT
from llm.testbed import corpora
from llm.testbed.tiny_models import RECIPES, REWARDS, recipe_hash, tiny_data, tiny_model

from ..helpers import user_chat


def answer_probability(folder, texts, chats=None):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in texts]
    tokens, mask = pad_completions(ids, tokenizer.pad_token_id)
    with torch.no_grad():
        logp = completion_logp(model, encode_chats(tokenizer, chats or OneTwo().prompts()), tokens, mask)
    return dict(zip(texts, logp.sum(-1).exp().tolist(), strict=True))


def test_the_tiny_model_is_biased_as_the_task_needs(tiny_folder):
    """Exact probabilities by scoring: the corpus's completions have nearly all of the probability."""
    share = answer_probability(tiny_folder, list(corpora.one_two()[ONE_TWO_PROMPT]))
    assert 0.65 <= share["<answer>1</answer>"] <= 0.75
    assert 0.08 <= share["<answer>2</answer>"] <= 0.12
    assert sum(share.values()) > 0.98
    good = [text for text in share if OneTwo().reward([], text)]
    assert good == ["<answer>1</answer>", "<answer>2</answer>"]


def test_an_answer_has_one_token_sequence(tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    pieces = tokenizer.convert_ids_to_tokens([i for i in range(len(tokenizer)) if i not in tokenizer.all_special_ids])
    assert all(len(piece) == 1 for piece in pieces)  # a byte each, so that a text has one token sequence
    assert tokenizer.decode(tokenizer("<answer>1</answer> é")["input_ids"]) == "<answer>1</answer> é"


def test_it_is_cached_by_content(tiny_folder, monkeypatch):
    monkeypatch.setattr("llm.testbed.tiny_models._build", lambda *_: pytest.fail("built again"))
    assert tiny_model() == tiny_folder
    hashes = {name: recipe_hash(name) for name in RECIPES}
    assert len(set(hashes.values())) == len(RECIPES)
    monkeypatch.setitem(RECIPES["tiny_creative"], "seed", 7)
    changed = {name for name in RECIPES if recipe_hash(name) != hashes[name]}
    assert changed == {"tiny_creative", "tiny_reward", "tiny_reward_other"}  # a reward model starts from its policy


def test_a_data_set_is_cached_by_content(monkeypatch, tmp_path):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path))
    file = tiny_data("data.train", "tiny_maths_train")
    assert file == tiny_data("data.train", "tiny_maths_train")
    assert len(file.read_text().splitlines()) == 108
    assert file.parent != tiny_data("data.train", "tiny_maths_evaluation").parent


@pytest.mark.long
@pytest.mark.parametrize("name", ["tiny_many", "tiny_maths", "tiny_spellings"])
def test_a_policy_has_learnt_its_corpus(name, tiny_folder):
    """Exact probabilities by scoring, for some prompts: close to the corpus's, and most of the total."""
    corpus = corpora.CORPORA[name]()
    folder = tiny_model(name)
    for prompt in list(corpus)[:: max(len(corpus) // 4, 1)]:
        share = answer_probability(folder, list(corpus[prompt]), [user_chat(prompt)])
        assert sum(share.values()) > 0.75
        if name == "tiny_spellings":
            assert sum(abs(share[text] - p) for text, p in corpus[prompt].items()) < 0.02
        if name == "tiny_many":
            assert sum(abs(share[text] - p) for text, p in corpus[prompt].items()) < 0.25
            far = [text for text, p in corpus[prompt].items() if abs(share[text] - p) >= 0.5 * p + 0.01]
            assert len(far) <= 1  # one completion of a prompt may not be learnt


@pytest.mark.long
def test_a_reward_model_agrees_with_its_own_rater(tiny_folder):
    """Correlation on new texts with the points of its own rater, and of the other one."""
    generator = random.Random(9)
    examples = [(topic, text) for topic, *pair in corpora.comparisons(generator, 150) for text in pair]
    chats = [user_chat(corpora.topic_prompt(topic)) for topic, _ in examples]
    points = {name: [rater.quality(*example) for example in examples] for name, rater in corpora.RATERS.items()}
    for name in REWARDS:
        reward = ModelReward("reward.parts.m", name, torch.device("cpu"), torch.float32, 64)
        scores = reward(chats, [text for _, text in examples])
        (other,) = set(REWARDS) - {name}
        own, others = (correlation(scores, points[rater]) for rater in (name, other))
        assert own > 0.7
        assert others < own - 0.05


def correlation(a, b):
    return float(torch.corrcoef(torch.tensor([a, b], dtype=torch.float64))[0, 1])
