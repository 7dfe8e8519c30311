"""Metrics of a policy by counting and by a second formula; sampling in batches and in parts of ranks."""

import math
from unittest.mock import patch

import pytest
import torch

from llm.evaluation import policy as policy_module
from llm.evaluation.policy import EvaluationSettings, answer_metrics, evaluate_policy, mean_rewards, sample_texts
from llm.inference.logprobs import completion_logp
from llm.inference.prompts import encode_chats, pad_completions
from llm.rewards import Reward, RewardPart, make_reward
from llm.tasks.one_two import OneTwo

from ..helpers import user_chat

CHATS = [user_chat("first"), user_chat("second")]
ONE, TWO = "<answer>1</answer>", "<answer>2</answer>"


class Named(OneTwo):
    def prompt_name(self, prompt):
        return prompt[-1]["content"]


def test_answers_are_counted_over_all_completions_and_averaged_over_prompts():
    texts = [ONE, ONE, ONE, TWO, "x", TWO, TWO, TWO]
    metrics = answer_metrics(texts, [text != "x" for text in texts], CHATS, Named())
    assert (metrics["correct"], metrics["share/1"], metrics["share/2"]) == (7 / 8, 3 / 8, 4 / 8)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert metrics["entropy_nats"] == pytest.approx(entropy / 2)  # the second prompt has one answer
    assert metrics["entropy_nats/first"] == pytest.approx(entropy)
    assert metrics["entropy_nats/second"] == 0
    assert metrics["effective_answers"] == pytest.approx(math.exp(entropy / 2))
    assert metrics["entropy_nats/se"] == pytest.approx(entropy / 2)
    assert (metrics["coverage"], metrics["coverage/first"], metrics["coverage/second"]) == (0.75, 1.0, 0.5)
    assert metrics["sequences"] == {TWO: 4 / 8, ONE: 3 / 8}
    assert metrics["completions"] == 8


def test_the_error_of_a_single_prompt_is_over_its_completions():
    """The bootstrap against the delta method: var of -log p(answer) over the number of completions."""
    n, share = 400, 0.3
    texts = [ONE] * int(share * n) + [TWO] * int((1 - share) * n)
    metrics = answer_metrics(texts, [True] * n, CHATS[:1], OneTwo())
    surprise = torch.tensor([-math.log(share if text == ONE else 1 - share) for text in texts])
    assert metrics["entropy_nats/se"] == pytest.approx(float(surprise.std() / n**0.5), rel=0.1)
    assert metrics["coverage/se"] is None


def test_without_a_correct_answer_there_is_no_entropy():
    metrics = answer_metrics(["x", "y"], [False, False], CHATS[:1], OneTwo())
    assert (metrics["entropy_nats"], metrics["effective_answers"], metrics["sequences"]) == (None, None, {})
    assert metrics["coverage"] == 0

    class Open(OneTwo):
        correct_reward = None
        answers = ()

    metrics = answer_metrics(["x", "y"], [True, True], CHATS[:1], Open())
    assert "correct" not in metrics
    assert "coverage" not in metrics
    assert metrics["entropy_nats"] == pytest.approx(math.log(2))


def test_rewards_are_averaged_over_prompts_without_failures():
    values = torch.tensor([1.0, 3.0, math.nan, 4.0])
    assert mean_rewards({"r": values}, prompts=2)["r/mean"] == pytest.approx((2 + 4) / 2)
    single = mean_rewards({"r": values}, prompts=1)
    assert single["r/mean"] == pytest.approx(8 / 3)  # control: over completions
    failed = mean_rewards({"r": torch.full((2,), math.nan)}, prompts=2)
    assert failed == {"r/mean": None, "r/se": None}


def test_a_completion_depends_on_its_number_and_row_only(random_model, models):
    chats = {7: CHATS[0], 3: CHATS[1]}
    both = sample_texts(random_model, models, chats, range(4), 5, 6, {})
    alone = sample_texts(random_model, models, {3: CHATS[1]}, [2, 0], 5, 6, {})
    assert list(both) == [7, 3]
    assert alone[3] == [both[3][2], both[3][0]]
    other_seed = sample_texts(random_model, models, {3: CHATS[1]}, [2, 0], 6, 6, {})
    assert other_seed[3] != alone[3]


class Sets(OneTwo):
    """Two sets of prompts."""

    def prompts(self):
        return CHATS

    def evaluation_prompts(self):
        return {"": CHATS, "held_out/": [user_chat("third")]}

    def reward(self, prompt, completion):
        return float(len(completion) % 2)


SETTINGS = EvaluationSettings(seed=0, completions=12, max_new_tokens=5, chat_template={})


def test_every_set_gets_as_many_completions_per_prompt(random_model, models, make_config):
    task, texts = Sets(), []

    def length(prompts, completions):
        texts.append(completions)
        return [float(len(text)) for text in completions]

    reward = make_reward(make_config().reward, task, torch.device("cpu"), torch.float32)
    extra_reward = Reward({"length": RewardPart("key", length, 1.0)})
    metrics = evaluate_policy(random_model, models, task, reward, extra_reward, SETTINGS)
    first, held_out = texts
    assert (len(first), len(held_out)) == (12, 6)
    assert (metrics["completions"], metrics["held_out/completions"]) == (12, 6)
    assert metrics["length/mean"] == pytest.approx(sum(map(len, first)) / 12)
    assert metrics["held_out/length/mean"] == pytest.approx(sum(map(len, held_out)) / 6)
    odd = sum(len(text) % 2 for text in first) / 12
    assert (metrics["reward/mean"], metrics["correct"]) == pytest.approx((odd, odd))


def test_batches_and_ranks_sample_the_same_completions(random_model, models):
    def sample_all(batch=256, rows=range(6)):
        with (
            patch.object(policy_module, "BATCH", batch),
            patch.object(policy_module.distributed, "shard_range", lambda count: rows),
        ):
            return policy_module._sample_all(random_model, models, SETTINGS, "", CHATS, 6)

    whole = sample_all()
    assert len(whole) == len(set(whole)) == 12  # control: completions differ
    assert sample_all(batch=6) == sample_all(batch=7) == whole
    first_rank, second_rank = sample_all(rows=range(2)), sample_all(rows=range(2, 6))
    assert [*first_rank[:2], *second_rank[:4], *first_rank[2:], *second_rank[4:]] == whole


@torch.no_grad()
def test_frequencies_are_the_models_probabilities(tiny_folder, make_config):
    from llm.models import load_models

    models = load_models(make_config("model.name_or_path=tiny").model)
    chats = OneTwo().prompts()
    texts = sample_texts(models.policy, models, {0: chats[0]}, range(1000), 0, 24, {})[0]
    ids = models.tokenizer([ONE, TWO], add_special_tokens=False)["input_ids"]
    tokens, mask = pad_completions([[*row, models.tokenizer.eos_token_id] for row in ids], models.pad_id)
    expected = completion_logp(models.policy, encode_chats(models.tokenizer, chats), tokens, mask).sum(-1).exp()
    for text, probability in zip((ONE, TWO), expected.tolist(), strict=True):
        error = math.sqrt(probability * (1 - probability) / 1000)
        assert texts.count(text) / 1000 == pytest.approx(probability, abs=4 * error)
