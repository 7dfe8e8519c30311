"""Evaluation of a policy before and after training: correctness, rewards and answer diversity of new completions."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conf.schema.llm import LlmConfig
from core.stats import bootstrap_standard_error, entropy, standard_error
from launch.engines import distributed
from launch.runs.rng import rollout_uniforms, stream_seed
from llm.evaluation.collapse import answers_by_prompt, coverage
from llm.evaluation.metrics import answer_entropy
from llm.inference.prompts import Chat, Prompts, encode_chats
from llm.inference.sampling import sample
from llm.models import Models
from llm.rewards import Reward
from llm.tasks.base import Task

BATCH = 256  # completions sampled at a time


@dataclass(frozen=True)
class EvaluationSettings:
    """How completions are sampled for evaluation.

    completions: their total number over the task's first set of prompts.
    chat_template: keywords of the chat template.
    """

    seed: int
    completions: int
    max_new_tokens: int
    chat_template: Mapping[str, Any]

    @classmethod
    def from_config(cls, config: LlmConfig) -> Self:
        """The settings of a run's configuration."""
        return cls(config.seed, config.evaluation_completions, config.max_new_tokens, config.model.chat_template)


def evaluate_policy(
    model: PreTrainedModel,
    models: Models,
    task: Task,
    reward: Reward,
    extra_reward: Reward,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Sample completions for the task's evaluation prompts and compute their metrics.

    Every set of `task.evaluation_prompts()` gets as many completions per prompt as the first one.

    Args:
        model: the model that is evaluated.
        models: tokenizer and special token ids.
        task: prompts and answers.
        reward: the reward that training optimises.
        extra_reward: rewards that are only computed here.
        settings: how completions are sampled.

    Returns:
        `answer_metrics` and `mean_rewards` of each set, under its prefix.
    """
    prompt_sets = task.evaluation_prompts()
    per_prompt = max(settings.completions // len(next(iter(prompt_sets.values()))), 1)
    results: dict[str, Any] = {}
    for prefix, chats in prompt_sets.items():
        texts = _sample_all(model, models, settings, prefix, chats, per_prompt)
        chat_of_text = [chat for chat in chats for _ in range(per_prompt)]
        scores, extra_scores = reward(chat_of_text, texts), extra_reward(chat_of_text, texts)
        metrics = answer_metrics(texts, task.correct(scores.reward.tolist()), chats, task)
        metrics |= mean_rewards({"reward": scores.reward, **extra_scores.parts}, len(chats))
        results |= {f"{prefix}{key}": value for key, value in metrics.items()}
    return results


def answer_metrics(texts: list[str], correct: list[bool], chats: Sequence[Chat], task: Task) -> dict[str, Any]:
    """Metrics of the answers in G consecutive completions for each of P chats.

    Returns:
        correct (if the task defines it) and share/ANSWER for the task's listed answers: shares of all completions.
        entropy_nats: entropy of a prompt's correct answers, averaged over prompts; entropy_nats/se: its
        standard error over prompts, or the bootstrap one over the completions of a single prompt; effective_answers:
        its exponential.
        coverage: share of a prompt's right answers that were given, averaged over the prompts for which they are
        known; coverage/se. coverage/NAME and entropy_nats/NAME: the same for each prompt with a name.
        sequences: the most frequent correct completions with their share of all completions.
        answers: for each prompt with a name, its correct answers with their share of the prompt's completions.
    """
    answers = answers_by_prompt(texts, correct, chats, task)
    counts = Counter(answer for prompt_answers in answers for answer in prompt_answers)
    mean_entropy, entropy_error = _entropy_with_error(answers)
    correct_texts = Counter(text for text, ok in zip(texts, correct, strict=True) if ok)
    coverages = [coverage(given, task.right_answers(chat)) for given, chat in zip(answers, chats, strict=True)]
    known = torch.tensor([share for share in coverages if share is not None], dtype=torch.float64)
    results: dict[str, Any] = {} if task.correct_reward is None else {"correct": counts.total() / len(texts)}
    results |= {f"share/{answer}": counts[answer] / len(texts) for answer in task.answers}
    results |= {"entropy_nats": mean_entropy, "entropy_nats/se": entropy_error}
    results["effective_answers"] = None if mean_entropy is None else math.exp(mean_entropy)
    if len(known):
        results["coverage"] = float(known.mean())
        results["coverage/se"] = standard_error(known) if len(known) > 1 else None
    per_prompt, shares = len(texts) // len(chats), {}
    for chat, share, prompt_answers in zip(chats, coverages, answers, strict=True):
        if name := task.prompt_name(chat):
            shares[name] = {answer: count / per_prompt for answer, count in Counter(prompt_answers).most_common()}
            results[f"coverage/{name}"] = share
            results[f"entropy_nats/{name}"] = answer_entropy(prompt_answers) if prompt_answers else None
    results["sequences"] = {text: count / len(texts) for text, count in correct_texts.most_common(5)}
    if shares:
        results["answers"] = shares
    return {**results, "completions": len(texts)}


def mean_rewards(rewards: Mapping[str, Tensor], prompts: int) -> dict[str, Any]:
    """NAME/mean and NAME/se of each reward, over prompts or over the completions of a single one. Ignores NaN."""
    results: dict[str, Any] = {}
    for name, values in rewards.items():
        units = values.double().view(prompts, -1)
        units = units.nanmean(-1) if prompts > 1 else units.flatten()
        units = units[units.isfinite()]
        results[f"{name}/mean"] = float(units.mean()) if len(units) else None
        results[f"{name}/se"] = standard_error(units) if len(units) > 1 else None
    return results


def _sample_all(
    model: PreTrainedModel,
    models: Models,
    settings: EvaluationSettings,
    prefix: str,
    chats: Sequence[Chat],
    per_prompt: int,
) -> list[str]:
    """Sample `per_prompt` completions of every chat. Each rank samples a part of the completions of every chat."""
    seed = stream_seed(settings.seed, "evaluation", *([prefix] if prefix else []))
    width, own_rows = min(per_prompt, BATCH), distributed.shard_range(per_prompt)
    texts: list[list[str]] = [[] for _ in chats]
    for first in range(0, len(chats), BATCH // width):
        chat_batch = {i: chats[i] for i in range(first, min(first + BATCH // width, len(chats)))}
        for start in range(0, len(own_rows), width):
            rows = own_rows[start : start + width]
            batch_texts = sample_texts(
                model, models, chat_batch, rows, seed, settings.max_new_tokens, settings.chat_template
            )
            for number, chat_texts in batch_texts.items():
                texts[number] += chat_texts
    texts_by_rank = distributed.gather_objects(texts)
    return [text for number in range(len(chats)) for rank_texts in texts_by_rank for text in rank_texts[number]]


def sample_texts(
    model: PreTrainedModel,
    models: Models,
    chats: Mapping[int, Chat],
    rows: Sequence[int],
    seed: int,
    max_new_tokens: int,
    switches: Mapping[str, Any],
) -> dict[int, list[str]]:
    """Sample completions of several chats in one batch.

    A completion depends only on the seed, the number of its chat and its row.

    Args:
        model: the model to sample from.
        models: tokenizer and special token ids.
        chats: prompts by number.
        rows: indices of the completions to sample for each chat.
        seed: of the stream of random numbers.
        max_new_tokens: length limit of a completion.
        switches: keywords of the chat template.
    """
    prompts = encode_chats(models.tokenizer, list(chats.values()), switches)
    prompts = Prompts(*(t.to(models.eos_ids.device) for t in prompts))
    numbers = [number for number in chats for _ in rows]
    uniforms = rollout_uniforms(seed, 0, numbers, list(rows) * len(chats), max_new_tokens)
    rollout = sample(model, prompts, uniforms, group_size=len(rows), **models.ends())
    texts: dict[int, list[str]] = {number: [] for number in chats}
    for number, text in zip(numbers, models.texts(rollout), strict=True):
        texts[number].append(text)
    return texts


def _entropy_with_error(answers: list[list[str]]) -> tuple[float | None, float | None]:
    """Entropy of a prompt's answers, averaged over the prompts that have any, and its standard error over them.

    The error of a single prompt's entropy is a bootstrap one, over its answers.
    """
    tables = [_one_hot(prompt_answers) for prompt_answers in answers if prompt_answers]
    if not tables:
        return None, None
    values = torch.stack([entropy(table.sum(0)) for table in tables])
    if len(values) > 1:
        return float(values.mean()), standard_error(values)
    error = bootstrap_standard_error(tables[0], lambda resampled: entropy(resampled.sum(1)))
    return float(values[0]), None if math.isnan(error) else error


def _one_hot(answers: list[str]) -> Tensor:
    index = {answer: i for i, answer in enumerate(dict.fromkeys(answers))}
    return torch.nn.functional.one_hot(torch.tensor([index[answer] for answer in answers]), len(index)).double()
