"""Statistics, each against an independent computation."""

import itertools
import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from core.stats import (
    bootstrap_standard_error,
    coefficient_of_variation,
    effective_modes,
    effective_sample_size,
    entropy,
    mode_coverage,
    standard_error,
    total_variation,
)

from .enumeration import random_logits, random_logp


@pytest.mark.parametrize("seed", range(3))
def test_entropy_agrees_with_scipy_on_probabilities_and_counts(seed: int) -> None:
    p = random_logp(4, 6, seed=seed).exp()
    torch.testing.assert_close(entropy(p), torch.as_tensor(scipy.stats.entropy(p.numpy(), axis=-1)))
    counts = torch.randint(0, 9, (4, 6), generator=torch.Generator().manual_seed(seed))
    counts[:, 0] += 1
    expected = torch.as_tensor(scipy.stats.entropy(counts.numpy(), axis=-1))
    for typed in (counts, counts.float(), counts.double()):
        torch.testing.assert_close(entropy(typed).double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(effective_modes(p), entropy(p).exp())
    assert not torch.allclose(entropy(p), entropy(p.square()))  # control


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_entropy_at_the_edges(dtype: torch.dtype) -> None:
    assert float(entropy(torch.tensor([0, 0, 0], dtype=dtype))) == 0  # no count at all
    assert float(entropy(torch.tensor([0, 7, 0], dtype=dtype))) == 0
    assert float(entropy(torch.tensor([3, 3], dtype=dtype))) == pytest.approx(math.log(2))
    assert float(effective_modes(torch.tensor([2, 2, 2, 0], dtype=dtype))) == pytest.approx(3)


def test_mode_coverage_counts_modes_with_half_the_mean_probability() -> None:
    p = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.7, 0.2, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert mode_coverage(p).tolist() == [1, 0.5, 0.25, 0]
    assert mode_coverage(p, 0.1).tolist() == [1, 0.75, 0.25, 0]
    assert mode_coverage(10 * p).tolist() == mode_coverage(p).tolist()  # the total does not matter
    assert mode_coverage(torch.tensor([1, 7])).tolist() == 0.5
    by_hand = [sum(x > 0 and x >= 0.5 * sum(row) / 4 for x in row) / 4 for row in p.tolist()]
    assert mode_coverage(p).tolist() == by_hand


def test_coefficient_of_variation_and_total_variation() -> None:
    p, q = random_logp(3, 5, seed=1).exp(), random_logp(3, 5, seed=2).exp()
    torch.testing.assert_close(
        coefficient_of_variation(p), torch.as_tensor(scipy.stats.variation(p.numpy(), axis=-1))
    )
    assert float(coefficient_of_variation(torch.ones(4))) == 0
    # Total variation is the largest difference in the probability of an event.
    events = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5))).double()
    largest = ((p - q) @ events.T).amax(-1)
    torch.testing.assert_close(total_variation(p, q), largest)
    assert float(total_variation(p, p).max()) == 0
    assert not torch.allclose(total_variation(p, q), largest / 2)  # control


def test_effective_sample_size_is_computed_in_logs() -> None:
    log_weight = random_logits(4, 7, seed=1, scale=2)
    weight = log_weight.exp()
    expected = weight.sum(-1).square() / weight.square().sum(-1)
    torch.testing.assert_close(effective_sample_size(log_weight), expected)
    torch.testing.assert_close(effective_sample_size(log_weight + 5000), expected)  # e^5000 overflows
    torch.testing.assert_close(effective_sample_size(torch.zeros(9)), torch.tensor(9.0))
    assert not torch.allclose(effective_sample_size(2 * log_weight), expected)  # control

    valid = torch.tensor([True, True, False, True, False, False, True])
    with_nan = log_weight.masked_fill(~valid, math.nan)
    torch.testing.assert_close(
        effective_sample_size(with_nan, valid.expand(4, 7)), effective_sample_size(log_weight[:, valid])
    )
    assert effective_sample_size(log_weight, torch.zeros(4, 7, dtype=torch.bool)).tolist() == [0] * 4


@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_bootstrap_of_a_mean_is_its_standard_error(count: int) -> None:
    values = random_logits(count, seed=1)
    known = scipy.stats.sem(values.numpy())
    assert standard_error(values) == pytest.approx(known)
    mean = lambda sample: sample.mean(1)  # noqa: E731
    error = bootstrap_standard_error(values, mean, resamples=20000)
    assert error == pytest.approx(known, rel=0.03)
    assert error == bootstrap_standard_error(values, mean, resamples=20000)  # reproducible
    assert error != bootstrap_standard_error(values, mean, resamples=20000, seed=1)
    doubled = bootstrap_standard_error(values, lambda sample: 2 * sample.mean(1), resamples=20000)
    assert doubled == pytest.approx(2 * known, rel=0.03)
    if count < 4:  # control: without n - 1 it is 29% or 18% too small
        assert float(values.std(correction=0)) / math.sqrt(count) < 0.83 * known


def test_errors_of_few_observations() -> None:
    mean = lambda sample: sample.mean(1)  # noqa: E731
    assert bootstrap_standard_error(torch.ones(5), mean) == standard_error(torch.ones(5)) == 0
    for count in (0, 1):
        assert math.isnan(bootstrap_standard_error(torch.ones(count), mean))
        assert math.isnan(standard_error(torch.ones(count)))


def test_the_bootstrap_resamples_whole_rows() -> None:
    """The difference of two columns is constant over rows, so its standard error is 0."""
    column = random_logits(30, seed=1)
    rows = torch.stack([column, column + 1], -1)

    def difference(sample: Tensor) -> Tensor:
        return (sample[..., 1] - sample[..., 0]).mean(1)

    assert bootstrap_standard_error(rows, difference) < 1e-12
    assert bootstrap_standard_error(rows, lambda x: x[..., 0].mean(1)) > 0.05  # control
