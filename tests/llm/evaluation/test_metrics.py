"""Each metric against an enumeration of all outcomes or a second computation from its definition."""

import math
from bisect import bisect_left
from fractions import Fraction
from itertools import combinations, product

import pytest
import torch

from llm.evaluation.metrics import (
    MetricInputs,
    SubjectMetrics,
    answer_entropy,
    average_over_prompts,
    compute_metrics,
    distinct,
    expectation_adjusted_distinct,
    is_first_of_class,
    paired_difference,
    pass_at_k,
    score_of_reward,
    semantic_diversity,
    utility,
)

TEXTS = [
    "the cat sat on the mat today",
    "the cat sat  on\nthe dog today",
    "a cat",
    "",
    "sat on the mat today and sat",
]
NAN = math.nan


@pytest.mark.parametrize(("vocabulary", "count"), [(2, 3), (3, 4), (4, 3)])
def test_ead_of_random_words_is_one_on_average(vocabulary, count):
    """The denominator is the expected number of distinct words in `count` draws: enumerate all draws."""
    words = [f"w{i}" for i in range(vocabulary)]
    draws = list(product(words, repeat=count))  # single words, so only n = 1 has n-grams: a fifth of the mean

    def average(v):
        return 5 * sum(expectation_adjusted_distinct(draw, vocabulary=v) for draw in draws) / len(draws)

    assert average(vocabulary) == pytest.approx(1, abs=1e-12)
    assert abs(average(vocabulary + 1) - 1) > 0.02  # control: V matters


@pytest.mark.parametrize("vocabulary", [50, 50257])
def test_ead_is_its_formula(vocabulary):
    def exactly(texts, crossing=False):
        rows = [" ".join(texts).split()] if crossing else [text.split() for text in texts]
        terms = []
        for n in range(1, 6):
            grams = [tuple(row[i : i + n]) for row in rows for i in range(len(row)) if i + n <= len(row)]
            N, C, V = len(set(grams)), len(grams), vocabulary
            terms.append(Fraction(N) / (V * (1 - Fraction(V - 1, V) ** C)))
        return float(sum(terms) / 5)

    value = expectation_adjusted_distinct(TEXTS, vocabulary=vocabulary)
    assert value == pytest.approx(exactly(TEXTS), rel=1e-10)
    assert abs(value - exactly(TEXTS, crossing=True)) > 1e-3  # control: an n-gram lies in one text
    assert expectation_adjusted_distinct(["", " "], vocabulary=vocabulary) == 0
    # A repeated text has all of its n-grams twice.
    assert expectation_adjusted_distinct([TEXTS[0]] * 2, vocabulary=vocabulary) < 0.55


def test_semantic_diversity_is_the_mean_over_pairs():
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    pairs = [1 - float(torch.cosine_similarity(a, b, dim=0)) for a, b in combinations(rows, 2)]
    assert semantic_diversity(rows) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert semantic_diversity(3 * rows) == pytest.approx(semantic_diversity(rows))
    assert semantic_diversity(torch.eye(4)) == pytest.approx(1)
    assert semantic_diversity(torch.ones(3, 2)) == pytest.approx(0, abs=1e-12)
    assert semantic_diversity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(2)
    # Control: with each one paired with itself the mean would be smaller.
    assert sum(pairs) / len(pairs) > 1 - float(torch.nn.functional.normalize(rows).mean(0).square().sum()) + 0.1
    assert math.isnan(semantic_diversity(rows[:1]))


def test_the_first_completion_of_each_class_is_marked():
    assert is_first_of_class([0, 1, 0, 2, 1, 2]) == [True, True, False, True, False, False]
    assert is_first_of_class([5, 5, 3]) == [True, False, True]  # indices need not be consecutive
    assert distinct([5, 5, 3]) == 2
    assert distinct([0, 0, 0]) == 1
    assert distinct([2, 1, 0]) == 3


def test_utility_is_its_formula():
    partition, scores = [0, 1, 0, 2], [4, 9, 7, 10]
    p = Fraction(4, 5)
    exact = (4 + 9 * p + 0 * p**2 + 10 * p**3) / (1 + p + p**2 + p**3)
    assert utility(partition, scores, patience=0.8) == pytest.approx(float(exact), rel=1e-12)
    assert utility(partition, [4, 9, 0, 10], patience=0.8) == pytest.approx(float(exact))  # as NoveltyBench writes it
    assert utility([0, 1, 2, 3], scores, patience=1.0) == pytest.approx(30 / 4)
    assert utility(partition, scores, patience=1.0) == pytest.approx(23 / 4)  # control: a repeat counts 0
    assert utility([0] * 4, [10] * 4, patience=0.8) < utility(range(4), [10] * 4, patience=0.8) == pytest.approx(10)


def test_a_score_counts_the_thresholds_that_are_passed():
    thresholds = [-7.7, -6.3, -6.0, -5.7, -5.5, -5.0, -4.4, -3.4, -2.0]
    for reward in (-9.0, -7.7, -7.6, -5.5, -5.49, -2.0, -1.9, 100.0):
        assert score_of_reward(reward, thresholds) == bisect_left(thresholds, reward) + 1
    assert score_of_reward(-9, thresholds) == 1
    assert score_of_reward(NAN, thresholds) == 1
    held = torch.tensor(0.6).item()  # above .6 as a Python float
    assert (score_of_reward(held, [0.5, 0.6, 0.7]), 1 + sum(held > t for t in (0.5, 0.6, 0.7))) == (2, 3)
    assert score_of_reward(0, thresholds) == 10


@pytest.mark.parametrize("total", [1, 4, 6])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(total):
    for correct in range(total + 1):
        for k in range(1, total + 1):
            subsets = list(combinations([True] * correct + [False] * (total - correct), k))
            share = sum(map(any, subsets)) / len(subsets)
            assert pass_at_k(total, correct, k) == pytest.approx(share, abs=1e-12)
    if total == 6:  # control: drawing with replacement is another chance
        assert abs(pass_at_k(6, 2, 3) - (1 - (4 / 6) ** 3)) > 0.05
    assert math.isnan(pass_at_k(total, 0, total + 1))


def test_pass_at_k_is_exact_for_every_size():
    """Against fractions, up to 40 completions and for binomials that no float holds."""
    cases = [(n, c, k) for n in range(1, 41) for c in range(n + 1) for k in range(1, n + 1)]
    for n, c, k in [*cases, (256, 3, 64), (4096, 1, 1024), (4096, 4000, 97)]:
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert abs(pass_at_k(n, c, k) - exact) < 1e-15
    assert abs(pass_at_k(256, 3, 64) - (1 - (1 - 3 / 256) ** 64)) > 1e-3  # control


def test_answer_entropy_is_in_nats():
    assert answer_entropy(["a", "b", "a", "b"]) == pytest.approx(math.log(2))
    assert answer_entropy(["a", "a", "a", "b"]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert answer_entropy([1, 1]) == 0
    assert math.isnan(answer_entropy([]))


def test_all_metrics_of_a_prompt():
    inputs = MetricInputs(
        ["x", "x", "y"],
        partition=[0, 0, 1],
        embeddings=torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        rewards_in=[1.0, 0.0, 2.0],
        rewards_out=[-1.0, -2.0, -3.0],
        scores=[8, 8, 4],
        correct=[True, False, True],
        answers=["x", "x", "y"],
    )
    metrics = compute_metrics(inputs, vocabulary=100, patience=0.5, pass_at=[1, 2, 4])
    expected = {"reward_in": 1.0, "reward_out": -2.0, "semantic_diversity": 2 / 3, "distinct": 2}
    expected |= {"utility": (8 + 4 * 0.25) / 1.75, "pass@1": 2 / 3, "pass@2": 1.0, "answer_entropy_nats": math.log(2)}
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert math.isnan(metrics["pass@4"])
    assert metrics["ead"] == pytest.approx(2 / (100 * (1 - 0.99**3)) / 5)
    nothing = compute_metrics(MetricInputs(["x"], [0], answers=[0]), vocabulary=100, patience=0.5, pass_at=[1])
    assert nothing.keys() == compute_metrics(inputs, vocabulary=100, patience=0.5, pass_at=[1]).keys()
    assert {key for key, value in nothing.items() if not math.isnan(value)} == {"ead", "distinct"}


def test_averages_use_the_prompts_with_a_value():
    rows = [{"a": float(i), "b": 1.0, "c": NAN, "d": NAN} for i in range(8)]
    rows[3]["d"] = 5.0
    averages = average_over_prompts(rows)
    assert averages["a/mean"] == 3.5
    assert averages["a/prompts"] == 8
    assert averages["a/se"] == pytest.approx(
        math.sqrt(sum((i - 3.5) ** 2 for i in range(8)) / 8) / math.sqrt(8), rel=0.1
    )
    assert (averages["b/mean"], averages["b/se"]) == (1, 0)
    assert (averages["c/mean"], averages["c/se"], averages["c/prompts"]) == (None, None, 0)
    assert (averages["d/mean"], averages["d/se"], averages["d/prompts"]) == (5, None, 1)


def test_a_difference_is_paired_by_prompt():
    first = {str(i): {"a": float(i)} for i in range(6)}
    second = {str(i): {"a": float(i) + 1 + i % 2 / 10} for i in reversed(range(6))}
    subjects = [SubjectMetrics("x", rows, average_over_prompts(list(rows.values()))) for rows in (first, second)]
    difference = paired_difference(*subjects)
    assert difference is not None
    assert difference["a/mean"] == pytest.approx(1.05)
    assert difference["a/se"] < 0.03
    assert subjects[0].overall["a/se"] > 0.5  # control: unpaired, the error would be that of the prompts
    assert paired_difference(subjects[0], SubjectMetrics("y", {"0": {"a": 1.0}}, {})) is None
