"""What a policy answers: shares of correct answers and their entropy, from fresh completions."""

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from conf.schema import LlmConfig
from core.stats import bootstrap_standard_error, entropy
from launch import distributed
from launch.streams import rollout_uniforms, stream_seed
from llm.models import Models
from llm.prompts import Prompts, encode_chats
from llm.rollout import sample
from llm.tasks.base import Task

BATCH = 256  # completions sampled at a time


def evaluate_policy(model: PreTrainedModel, models: Models, task: Task, config: LlmConfig) -> dict[str, Any]:
    """Sample `evaluation_completions` completions, spread over the task's prompts, and count.

    Returns:
        correct: share of all completions. share/ANSWER: of all completions, for the answers the task lists.
        entropy_nats: of the correct answers, mean over prompts; entropy_nats/se its bootstrap standard error,
        over prompts, or over the completions of a single one. effective_answers: its exponential.
        sequences: the most frequent correct token sequences, as text, with their share of all completions.
    """
    chats = task.prompts()
    each = max(config.evaluation_completions // len(chats), 1)
    texts = [_complete(model, models, config, chat, number, each) for number, chat in enumerate(chats)]
    good = [
        [text for text in some if task.reward(chat, text) >= task.correct_reward]
        for chat, some in zip(chats, texts, strict=True)
    ]
    total = each * len(chats)
    answers = [[task.answer(text) for text in some] for some in good]
    counts = Counter(answer for some in answers for answer in some)
    value, error = _entropy_with_error(answers)
    return {
        "correct": counts.total() / total,
        **{f"share/{answer}": counts[answer] / total for answer in task.answers},
        "entropy_nats": value,
        "entropy_nats/se": error,
        "effective_answers": None if value is None else math.exp(value),
        "sequences": {
            text: count / total for text, count in Counter(text for some in good for text in some).most_common(5)
        },
        "completions": total,
    }


def _complete(
    model: PreTrainedModel, models: Models, config: LlmConfig, chat: Any, number: int, count: int
) -> list[str]:
    """`count` completions of one prompt, from a stream of their own; each rank samples a part of them."""
    device = models.eos_ids.device
    prompts = encode_chats(models.tokenizer, [chat], config.model.chat_template)
    prompts = Prompts(*(t.to(device) for t in prompts))
    seed = stream_seed(config.seed, "evaluation")
    texts: list[str] = []
    mine = distributed.portion(count)
    for first in range(0, len(mine), BATCH):
        rows = list(mine[first : first + BATCH])
        uniforms = rollout_uniforms(seed, 0, [number] * len(rows), rows, config.max_new_tokens)
        rollout = sample(model, prompts, uniforms, group_size=len(rows), eos_ids=models.eos_ids, pad_id=models.pad_id)
        texts += rollout.texts(models.tokenizer)
    return [text for some in distributed.gather(texts) for text in some]


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
