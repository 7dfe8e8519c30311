"""Samples of a training run, and how the answers to its prompts change over training."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..stats import entropy, pass_at_k, standard_error

MAX_BINS = 40  # points of a curve
LEAST_SAMPLES = 8  # in a point, on average


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion that a run sampled.

    Attributes:
        step: training step at which it was sampled.
        prompt: names its prompt.
        answer: names its class: completions with the same answer are equivalent.
        text: the completion itself, one spelling of the answer.
        reward: None if it is not known.
        policy_logp: log-probability of the sequence under the policy that sampled it, nats; None if not known.
        ref_logp: the same under the reference.
    """

    step: int
    prompt: str
    answer: str
    text: str
    reward: float | None = None
    policy_logp: float | None = None
    ref_logp: float | None = None


@dataclass(frozen=True)
class Bin:
    """Consecutive steps, which give one point of a curve.

    Attributes:
        first: the first of its steps.
        last: the last of its steps.
        samples: of these steps.
    """

    first: int
    last: int
    samples: Sequence[Sample]

    @property
    def middle(self) -> float:
        """The middle of its steps."""
        return (self.first + self.last) / 2

    @cached_property
    def groups(self) -> dict[str, list[Sample]]:
        """The samples of each prompt."""
        groups: dict[str, list[Sample]] = defaultdict(list)
        for sample in self.samples:
            groups[sample.prompt].append(sample)
        return groups


def make_bins(samples: Sequence[Sample], most: int = MAX_BINS) -> list[Bin]:
    """Divide samples into at most `most` bins with about the same number of steps, and LEAST_SAMPLES on average."""
    by_step: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_step[sample.step].append(sample)
    steps = sorted(by_step)
    count = min(most, len(steps), max(1, len(samples) // LEAST_SAMPLES))
    edges = [len(steps) * number // count for number in range(count + 1)] if count else []
    return [
        Bin(steps[start], steps[end - 1], [sample for step in steps[start:end] for sample in by_step[step]])
        for start, end in pairwise(edges)
    ]


def is_good(sample: Sample, threshold: float | None) -> bool:
    """Whether the reward reaches the threshold. Without a threshold every sample counts as good."""
    return threshold is None or (sample.reward is not None and sample.reward >= threshold)


def default_threshold(
    bins: Sequence[Bin], tied_share: float = 0.01, quantile: float = 0.9
) -> tuple[float, str] | None:
    """A reward from which completions count as good, and the rule that gave it; None without rewards.

    The highest reward, if at least `tied_share` of all samples have it, as with rewards of right and wrong. Otherwise
    the quantile of the rewards in the first bin, which does not move with the policy. Where that is the lowest reward
    of all, so that every completion would be good, it is the quantile of those above the lowest, in the first bin
    that has any.
    """
    by_bin = [[sample.reward for sample in part.samples if sample.reward is not None] for part in bins]
    rewards = [reward for of_bin in by_bin for reward in of_bin]
    if not rewards:
        return None
    best, lowest = max(rewards), min(rewards)
    if sum(reward == best for reward in rewards) >= tied_share * len(rewards):
        return best, f"the highest reward, {best:g}"
    value = _quantile(next(filter(None, by_bin)), quantile)
    if value > lowest:
        return value, f"the {quantile:g} quantile of the rewards in the first steps, {value:.4g}"
    above = next(filter(None, ([reward for reward in of_bin if reward > lowest] for of_bin in by_bin)))
    value = _quantile(above, quantile)
    return (
        value,
        f"the {quantile:g} quantile of the rewards above {lowest:g} in the first steps that have any, {value:.4g}",
    )


def _quantile(values: Sequence[float], quantile: float) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(quantile))


def agreement(counts: Iterable[int]) -> float:
    """Probability that two different samples have the same answer: sum n (n - 1) / (N (N - 1)); NaN for N < 2.

    It is an unbiased estimate of sum p^2, whatever N is, so that groups of different sizes can be compared.

    Source: Simpson (1949), Measurement of diversity, Nature 163.
    """
    counts = list(counts)
    total = sum(counts)
    return sum(n * (n - 1) for n in counts) / (total * (total - 1)) if total > 1 else math.nan


def expected_distinct(counts: Iterable[int], draws: int) -> float:
    """Expected number of distinct answers among `draws` of N samples; NaN if there are fewer samples.

    Source: Hurlbert (1971), The nonconcept of species diversity, Ecology 52 (rarefaction).
    """
    counts = list(counts)
    total = sum(counts)
    return sum(pass_at_k(total, n, draws) for n in counts) if total >= draws else math.nan


@dataclass(frozen=True)
class Point:
    """What is measured in a bin, as means over its prompts with their standard errors. NaN if it is undefined.

    Attributes:
        step: the middle of the bin's steps.
        values: by name: reward, good, distinct, entropy_nats, agreement and pass@K.
        errors: of the same names.
        good_samples: number of good samples of prompts that have at least two.
    """

    step: float
    values: Mapping[str, float]
    errors: Mapping[str, float]
    good_samples: int


def measure_bin(part: Bin, threshold: float | None, draws: int, pass_at: Sequence[int]) -> Point:
    """Measure the answers of a bin.

    Args:
        part: the bin.
        threshold: lowest good reward; None: rewards are not known, and all completions count.
        draws: completions among which distinct answers are expected.
        pass_at: the K of pass@K.

    Returns:
        The point. `agreement` and `entropy_nats` are those of the good completions, `distinct` of all. The agreement
        of prompts is weighted by the number of their good completions.
    """
    names = ("reward", "good", "distinct", "agreement", *(f"pass@{k}" for k in pass_at))
    rows: dict[str, list[float]] = {name: [] for name in names}
    weights: list[int] = []
    tables: list[Tensor] = []
    for group in part.groups.values():
        good = [sample for sample in group if is_good(sample, threshold)]
        counts = Counter(sample.answer for sample in good)
        rows["distinct"].append(expected_distinct(Counter(sample.answer for sample in group).values(), draws))
        if len(good) > 1:
            weights.append(len(good))
            rows["agreement"].append(agreement(counts.values()))
            tables.append(torch.tensor(list(counts.values()), dtype=torch.float64))
        if threshold is not None:
            rows["reward"] += [sample.reward for sample in group if sample.reward is not None]
            rows["good"].append(len(good) / len(group))
            for k in pass_at:
                rows[f"pass@{k}"].append(pass_at_k(len(group), len(good), k))
    rows["entropy_nats"] = entropy(pad_sequence(tables, batch_first=True)).tolist() if tables else []
    values, errors = {}, {}
    for name, row in rows.items():
        defined = torch.tensor([value for value in row if not math.isnan(value)], dtype=torch.float64)
        values[name] = float(defined.mean()) if len(defined) else math.nan
        errors[name] = standard_error(defined)
    if weights:
        values["agreement"] = sum(w * x for w, x in zip(weights, rows["agreement"], strict=True)) / sum(weights)
    return Point(part.middle, values, errors, sum(weights))


def common_group_size(bins: Sequence[Bin]) -> int:
    """The number of completions that nine of ten groups (a prompt in a bin) have at least."""
    sizes = sorted(len(group) for part in bins for group in part.groups.values())
    return sizes[len(sizes) // 10] if sizes else 0


@dataclass(frozen=True)
class AnswerShare:
    """The share of an answer among the completions of a prompt, in the first and in the last bins.

    Attributes:
        answer: its name.
        reward: mean reward of its completions; None if not known.
        first: number of its completions in the first bins.
        last: the same in the last bins.
        first_total: number of all completions of the prompt in the first bins.
        last_total: the same in the last bins.
        spellings: number of its distinct texts in the whole run.
        course: its share in each bin; NaN where the prompt was not sampled.
    """

    answer: str
    reward: float | None
    first: int
    last: int
    first_total: int
    last_total: int
    spellings: int
    course: tuple[float, ...]


def answer_shares(bins: Sequence[Bin], prompt: str, edge: int) -> list[AnswerShare]:
    """The answers to a prompt, the most frequent in the last `edge` bins first, then those in the first ones."""
    groups = [part.groups.get(prompt, []) for part in bins]
    counts = [Counter(sample.answer for sample in group) for group in groups]
    totals = [count.total() for count in counts]
    first, last = sum(counts[:edge], Counter()), sum(counts[-edge:], Counter())
    first_total, last_total = first.total(), last.total()
    texts, rewards = defaultdict(set), defaultdict(list)
    for group in groups:
        for sample in group:
            texts[sample.answer].add(sample.text)
            if sample.reward is not None:
                rewards[sample.answer].append(sample.reward)
    rows = [
        AnswerShare(
            answer,
            fmean(rewards[answer]) if rewards[answer] else None,
            first[answer],
            last[answer],
            first_total,
            last_total,
            len(texts[answer]),
            tuple(count[answer] / total if total else math.nan for count, total in zip(counts, totals, strict=True)),
        )
        for answer in texts
    ]
    return sorted(rows, key=lambda row: (-row.last, -row.first, row.answer))
