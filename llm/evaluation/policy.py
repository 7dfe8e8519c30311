"""What a policy answers: shares of correct answers and their entropy, from fresh completions."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conf.schema.llm import LlmConfig
from core.stats import bootstrap_standard_error, entropy
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
    """completions: in all, spread over the task's first set of prompts. chat_template: switches of the template."""

    seed: int
    completions: int
    max_new_tokens: int
    chat_template: Mapping[str, Any]

    @classmethod
    def of(cls, config: LlmConfig) -> Self:
        return cls(config.seed, config.evaluation_completions, config.max_new_tokens, config.model.chat_template)


def evaluate_policy(
    model: PreTrainedModel,
    models: Models,
    task: Task,
    reward: Reward,
    further: Reward,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Sample completions, spread over the task's prompts, and count what they answer.

    Every set of `task.evaluation_prompts()` gets as many completions a prompt as the first one.

    Args:
        reward: what training optimises. further: rewards that are computed here only.

    Returns:
        `count_answers` and `mean_rewards` of each set, under its prefix.
    """
    sets = task.evaluation_prompts()
    each = max(settings.completions // len(next(iter(sets.values()))), 1)
    results: dict[str, Any] = {}
    for prefix, chats in sets.items():
        texts = _complete(model, models, settings, prefix, chats, each)
        asked = [chat for chat in chats for _ in range(each)]
        scores, others = reward(asked, texts), further(asked, texts)
        found = count_answers(texts, task.correct(scores.reward.tolist()), chats, task)
        found |= mean_rewards({"reward": scores.reward, **others.parts}, len(chats))
        results |= {f"{prefix}{key}": value for key, value in found.items()}
    return results


def count_answers(texts: list[str], good: list[bool], chats: Sequence[Chat], task: Task) -> dict[str, Any]:
    """What G consecutive completions for each of P chats answer.

    Returns:
        correct, where the task knows right and wrong, and share/ANSWER for the answers it lists: of all completions.
        entropy_nats: of a prompt's correct answers, mean over prompts; entropy_nats/se its bootstrap standard error,
        over prompts, or over the completions of a single one. effective_answers: its exponential.
        coverage: share of a prompt's right answers that were given, mean over the prompts where they are known;
        coverage/se. Both also for each prompt with a name: coverage/NAME, entropy_nats/NAME.
        sequences: the most frequent correct token sequences, as text, with their share of all completions.
    """
    answers = answers_by_prompt(texts, good, chats, task)
    counts = Counter(answer for some in answers for answer in some)
    value, error = _entropy_with_error(answers)
    correct = Counter(text for text, ok in zip(texts, good, strict=True) if ok)
    found = [coverage(some, task.right_answers(chat)) for some, chat in zip(answers, chats, strict=True)]
    known = torch.tensor([share for share in found if share is not None], dtype=torch.float64)
    results: dict[str, Any] = {} if task.correct_reward is None else {"correct": counts.total() / len(texts)}
    results |= {f"share/{answer}": counts[answer] / len(texts) for answer in task.answers}
    results |= {"entropy_nats": value, "entropy_nats/se": error}
    results["effective_answers"] = None if value is None else math.exp(value)
    if len(known):
        results["coverage"] = float(known.mean())
        results["coverage/se"] = bootstrap_standard_error(known) if len(known) > 1 else None
    for chat, share, some in zip(chats, found, answers, strict=True):
        if name := task.prompt_name(chat):
            results[f"coverage/{name}"] = share
            results[f"entropy_nats/{name}"] = answer_entropy(some) if some else None
    results["sequences"] = {text: count / len(texts) for text, count in correct.most_common(5)}
    return {**results, "completions": len(texts)}


def mean_rewards(rewards: Mapping[str, Tensor], prompts: int) -> dict[str, Any]:
    """NAME/mean and NAME/se, over prompts, or over the completions of a single one; NaN is left out."""
    found: dict[str, Any] = {}
    for name, values in rewards.items():
        each = values.double().view(prompts, -1)
        each = each.nanmean(-1) if prompts > 1 else each.flatten()
        each = each[each.isfinite()]
        found[f"{name}/mean"] = float(each.mean()) if len(each) else None
        found[f"{name}/se"] = bootstrap_standard_error(each) if len(each) > 1 else None
    return found


def _complete(
    model: PreTrainedModel,
    models: Models,
    settings: EvaluationSettings,
    prefix: str,
    chats: Sequence[Chat],
    each: int,
) -> list[str]:
    """`each` completions of every chat, from streams of their own; each rank samples a part of them."""
    seed = stream_seed(settings.seed, "evaluation", *([prefix] if prefix else []))
    width, mine = min(each, BATCH), distributed.shard_range(each)
    texts: list[list[str]] = [[] for _ in chats]
    for first in range(0, len(chats), BATCH // width):
        some = {i: chats[i] for i in range(first, min(first + BATCH // width, len(chats)))}
        for start in range(0, len(mine), width):
            rows = mine[start : start + width]
            found = complete(model, models, some, rows, seed, settings.max_new_tokens, settings.chat_template)
            for number, each_text in found.items():
                texts[number] += each_text
    shares = distributed.gather_objects(texts)
    return [text for slot in range(len(chats)) for some in shares for text in some[slot]]


def complete(
    model: PreTrainedModel,
    models: Models,
    chats: Mapping[int, Chat],
    rows: Sequence[int],
    seed: int,
    max_new_tokens: int,
    switches: Mapping[str, Any],
) -> dict[int, list[str]]:
    """The `rows`-th completions of numbered chats, in one batch; one depends on (seed, number, row) alone.

    Args:
        switches: of the chat template.
    """
    prompts = encode_chats(models.tokenizer, list(chats.values()), switches)
    prompts = Prompts(*(t.to(models.eos_ids.device) for t in prompts))
    numbers = [number for number in chats for _ in rows]
    uniforms = rollout_uniforms(seed, 0, numbers, list(rows) * len(chats), max_new_tokens)
    rollout = sample(model, prompts, uniforms, group_size=len(rows), eos_ids=models.eos_ids, pad_id=models.pad_id)
    texts: dict[int, list[str]] = {number: [] for number in chats}
    for number, text in zip(numbers, rollout.texts(models.tokenizer), strict=True):
        texts[number].append(text)
    return texts


def _entropy_with_error(answers: list[list[str]]) -> tuple[float | None, float | None]:
    """Entropy of the answers, mean over the prompts that have any, and its bootstrap standard error."""
    tables = [_one_hot(some) for some in answers if some]
    if not tables:
        return None, None
    values = torch.stack([entropy(table.sum(0)) for table in tables])
    if len(values) > 1:
        return float(values.mean()), bootstrap_standard_error(values)
    return float(values[0]), bootstrap_standard_error(tables[0], lambda sample: entropy(sample.sum(1)))


def _one_hot(answers: list[str]) -> Tensor:
    numbers = {answer: number for number, answer in enumerate(dict.fromkeys(answers))}
    return torch.nn.functional.one_hot(torch.tensor([numbers[answer] for answer in answers]), len(numbers)).double()
