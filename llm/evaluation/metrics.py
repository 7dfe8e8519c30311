"""Quality and diversity metrics of a prompt's completions, one function per metric (docs/metrics.md).

Each function takes the completions of one prompt, or values computed from them, in the order of generation. A metric
that is undefined is NaN.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.mara import exceeds
from core.stats import entropy, pass_at_k, standard_error

EAD_ORDERS = (1, 2, 3, 4, 5)


def expectation_adjusted_distinct(texts: Sequence[str], *, vocabulary: int) -> float:
    """EAD: distinct n-grams over the number expected of as many uniform random draws, mean over n = 1..5.

    For each n, N / (V (1 - ((V - 1) / V)^C)) with N distinct among C n-grams in all texts and V words in
    the vocabulary. Words are separated by white space, and an n-gram lies within one text. The term of a length n
    without any n-gram is 0, as in Kirk et al.'s code.

    Source: Liu et al. (2022), arXiv:2202.13587; n = 1..5 as Kirk et al. (2024), arXiv:2310.06452.
    """
    words = [text.split() for text in texts]
    total = 0.0
    for n in EAD_ORDERS:
        ngrams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
        if ngrams:
            expected = -vocabulary * math.expm1(len(ngrams) * math.log1p(-1 / vocabulary))
            total += len(set(ngrams)) / expected
    return total / len(EAD_ORDERS)


def semantic_diversity(embeddings: Tensor) -> float:
    """Mean cosine distance, 1 - cos, over all pairs of rows of [N, D] with no zero row. NaN if N < 2.

    Source: Kirk et al. (2024), arXiv:2310.06452 (written there as 1 - the mean similarity).
    """
    count = len(embeddings)
    if count < 2:
        return math.nan
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    similarity = (unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1))
    return float(1 - similarity)


def is_first_of_class(partition: Sequence[int]) -> list[bool]:
    """Whether each completion is the first of its equivalence class."""
    first: dict[int, int] = {}
    for position, index in enumerate(partition):
        first.setdefault(index, position)
    return [first[index] == position for position, index in enumerate(partition)]


def distinct(partition: Sequence[int]) -> int:
    """Number of equivalence classes. Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228."""
    return len(set(partition))


def utility(partition: Sequence[int], scores: Sequence[float], *, patience: float) -> float:
    """sum_i p^i s_i / sum_i p^i, for i from 0 and the patience p.

    s_i is the score of a completion that is the first of its class, and 0 for the others.

    Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228.
    """
    weights = [patience**i for i in range(len(partition))]
    counted = [
        score if is_first else 0.0 for score, is_first in zip(scores, is_first_of_class(partition), strict=True)
    ]
    return math.fsum(w * s for w, s in zip(weights, counted, strict=True)) / math.fsum(weights)


def score_of_reward(reward: float, thresholds: Sequence[float]) -> int:
    """1 plus the number of thresholds below the reward; nine thresholds give a score from 1 to 10."""
    return 1 + sum(bool(exceeds(reward, threshold)) for threshold in thresholds)


def answer_entropy(answers: Sequence[Hashable]) -> float:
    """Entropy of the distribution of the answers, nats. NaN without answers.

    For the answers of correct completions it is the valid-answer entropy of GX-Chen et al. (2026, arXiv:2510.20817,
    section 6.1).
    """
    if not answers:
        return math.nan
    return float(entropy(torch.tensor(list(Counter(answers).values()), dtype=torch.float64)))


# --- all metrics of a prompt, and averages over prompts --------------------------------------------------------


class MetricInputs(NamedTuple):
    """A prompt's completions and what their metrics are computed from: one value per completion, None if missing.

    scores: from 1 to 10 for the first completion of each class; other entries are ignored.
    """

    texts: Sequence[str]
    partition: Sequence[int]
    embeddings: Tensor | None = None  # [N, D]
    rewards_in: Sequence[float] | None = None
    rewards_out: Sequence[float] | None = None
    scores: Sequence[float] | None = None
    correct: Sequence[bool] | None = None
    answers: Sequence[Hashable] | None = None


class SubjectMetrics(NamedTuple):
    """The metrics of one evaluated subject. prompts: by prompt id; overall: of `average_over_prompts`."""

    name: str
    prompts: dict[str, dict[str, float]]
    overall: dict[str, float | None]


def compute_metrics(
    inputs: MetricInputs, *, vocabulary: int, patience: float, pass_at: Sequence[int]
) -> dict[str, float]:
    """Every metric of one prompt's completions; NaN if it is undefined or its inputs are None."""
    _, partition, embeddings, rewards_in, rewards_out, scores, correct, answers = inputs
    metrics = {"reward_in": _mean(rewards_in), "reward_out": _mean(rewards_out)}
    metrics["ead"] = expectation_adjusted_distinct(inputs.texts, vocabulary=vocabulary)
    metrics["semantic_diversity"] = math.nan if embeddings is None else semantic_diversity(embeddings)
    metrics["distinct"] = distinct(partition)
    metrics["utility"] = math.nan if scores is None else utility(partition, scores, patience=patience)
    for k in pass_at:
        metrics[f"pass@{k}"] = math.nan if correct is None else pass_at_k(len(correct), sum(correct), k)
    pairs = () if correct is None or answers is None else zip(answers, correct, strict=True)
    metrics["answer_entropy_nats"] = answer_entropy([answer for answer, ok in pairs if ok])
    return metrics


def average_over_prompts(rows: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Average each metric over the prompts for which it is defined.

    Returns:
        NAME/mean; NAME/se, its standard error over the prompts; NAME/prompts, the number of prompts. The mean is
        None without a prompt, the standard error also with a single one.
    """
    averages: dict[str, float | None] = {}
    for name in rows[0]:
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        values = values[~values.isnan()]
        averages[f"{name}/mean"] = float(values.mean()) if len(values) else None
        averages[f"{name}/se"] = standard_error(values) if len(values) > 1 else None
        averages[f"{name}/prompts"] = len(values)
    return averages


def paired_difference(first: SubjectMetrics, second: SubjectMetrics) -> dict[str, float | None] | None:
    """`average_over_prompts` of second minus first, prompt by prompt. None unless both have the same prompts."""
    if set(first.prompts) != set(second.prompts):
        return None
    pairs = ((row, second.prompts[name]) for name, row in first.prompts.items())
    return average_over_prompts([{key: other[key] - row[key] for key in row} for row, other in pairs])


def _mean(values: Sequence[float] | None) -> float:
    return math.nan if values is None else math.fsum(values) / len(values)
