"""What a prompt's completions are measured by, one definition a function (docs/metrics.md).

Each function takes the completions of one prompt, or what has been made of them, in the order they were generated.
A measure that is undefined is nan.
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.stats import bootstrap_standard_error, entropy

EAD_ORDERS = (1, 2, 3, 4, 5)


def expectation_adjusted_distinct(texts: Sequence[str], *, vocabulary: int) -> float:
    """EAD: distinct n-grams over the number expected of as many random draws, mean over n = 1..5.

    For each n, N / (V (1 - ((V - 1) / V)^C)): N distinct and C all n-grams of the texts together, V the vocabulary's
    size. Words are what white space separates; an n-gram does not cross from one text into the next. An n of which
    there is no n-gram counts 0, as in Kirk et al.'s code.

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
    """Mean cosine distance, 1 - cos, over all pairs of rows: [N, D], N >= 2, no row zero.

    Source: Kirk et al. (2024), arXiv:2310.06452 (there 1 - the mean similarity).
    """
    count = len(embeddings)
    if count < 2:
        return math.nan
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    similarity = (unit.sum(0).square().sum() - unit.square().sum()) / (count * (count - 1))
    return float(1 - similarity)


def opens_class(partition: Sequence[int]) -> list[bool]:
    """Which completions are the first of their equivalence class."""
    seen: set[int] = set()
    return [number not in seen and not seen.add(number) for number in partition]  # type: ignore[func-returns-value]


def distinct(partition: Sequence[int]) -> int:
    """Number of equivalence classes. Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228."""
    return len(set(partition))


def utility(partition: Sequence[int], scores: Sequence[float], *, patience: float) -> float:
    """sum_i p^i s_i / sum_i p^i, i from 0, p the patience: s_i is the score of a completion that opens a new class,
    and 0 for a repeat.

    Source: Zhang et al. (2025), NoveltyBench, arXiv:2504.05228.
    """
    weights = [patience**i for i in range(len(partition))]
    counted = [score if new else 0.0 for score, new in zip(scores, opens_class(partition), strict=True)]
    return math.fsum(w * s for w, s in zip(weights, counted, strict=True)) / math.fsum(weights)


def score_of_reward(reward: float, thresholds: Sequence[float]) -> int:
    """1 and one more for each threshold that a reward lies above; nine thresholds make a score from 1 to 10."""
    return 1 + sum(reward > threshold for threshold in thresholds)


def pass_at_k(total: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n completions, c of them correct, hold a correct one.

    Returns:
        nan where k > n. Source: Chen et al. (2021), arXiv:2107.03374.
    """
    if k > total:
        return math.nan
    return 1 - math.comb(total - correct, k) / math.comb(total, k)


def answer_entropy(answers: Sequence[Hashable]) -> float:
    """Entropy of the shares of the answers, nats; of the correct completions' answers it is the valid-answer entropy
    (GX-Chen et al., 2026, arXiv:2510.20817, section 6.1). nan where there is none.
    """
    if not answers:
        return math.nan
    return float(entropy(torch.tensor(list(Counter(answers).values()), dtype=torch.float64)))


# --- of a prompt, and of all ---------------------------------------------------------------------------------


class Judged(NamedTuple):
    """A prompt's completions and what its measures are made of: one entry a completion, None where there is none."""

    texts: Sequence[str]
    partition: Sequence[int]
    embeddings: Tensor | None = None  # [N, D]
    rewards_in: Sequence[float] | None = None
    rewards_out: Sequence[float] | None = None
    scores: Sequence[float] | None = None  # 1 to 10 where a class opens
    correct: Sequence[bool] | None = None
    answers: Sequence[Hashable] | None = None


class Column(NamedTuple):
    """The results of one subject: each prompt's by its id, and what `overall` makes of them."""

    name: str
    prompts: dict[str, dict[str, float]]
    overall: dict[str, float | None]


def measures(judged: Judged, *, vocabulary: int, patience: float, pass_at: Sequence[int]) -> dict[str, float]:
    """Every measure of one prompt's completions; nan where it is undefined, or where what it is made of is None."""
    _, partition, embeddings, rewards_in, rewards_out, scores, correct, answers = judged
    found = {"reward_in": _mean(rewards_in), "reward_out": _mean(rewards_out)}
    found["ead"] = expectation_adjusted_distinct(judged.texts, vocabulary=vocabulary)
    found["semantic_diversity"] = math.nan if embeddings is None else semantic_diversity(embeddings)
    found["distinct"] = distinct(partition)
    found["utility"] = math.nan if scores is None else utility(partition, scores, patience=patience)
    for k in pass_at:
        found[f"pass@{k}"] = math.nan if correct is None else pass_at_k(len(correct), sum(correct), k)
    known = () if correct is None or answers is None else zip(answers, correct, strict=True)
    found["answer_entropy_nats"] = answer_entropy([answer for answer, ok in known if ok])
    return found


def overall(rows: Sequence[Mapping[str, float]]) -> dict[str, float | None]:
    """Over the prompts where a measure is defined: NAME/mean, NAME/se the mean's bootstrap standard error, and
    NAME/prompts, their number. None where there is no such prompt; a single one has no error.
    """
    found: dict[str, float | None] = {}
    for name in rows[0]:
        values = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        values = values[~values.isnan()]
        found[f"{name}/mean"] = float(values.mean()) if len(values) else None
        found[f"{name}/se"] = bootstrap_standard_error(values) if len(values) > 1 else None
        found[f"{name}/prompts"] = len(values)
    return found


def difference(first: Column, second: Column) -> dict[str, float | None] | None:
    """`overall` of second minus first, prompt by prompt; None unless both have the same prompts."""
    if set(first.prompts) != set(second.prompts):
        return None
    pairs = ((row, second.prompts[name]) for name, row in first.prompts.items())
    return overall([{key: other[key] - row[key] for key in row} for row, other in pairs])


def _mean(values: Sequence[float] | None) -> float:
    return math.nan if values is None else math.fsum(values) / len(values)
