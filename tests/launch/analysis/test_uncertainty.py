"""Standard errors of means over seeds, and means with their errors as text."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import sem

from launch.analysis.uncertainty import format_mean, standard_error, standard_errors


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.3, 0.9, 0.2], [1.0, 2.0, 4.0, 8.0], [0.1, 0.1, 0.1]])
def test_the_standard_error_is_unbiased_in_its_square(values):
    assert standard_error(values) == pytest.approx(sem(values), abs=1e-15)
    draws = list(product(values, repeat=2))  # all samples of two from this population
    mean_square = sum(standard_error(draw) ** 2 for draw in draws) / len(draws)
    variance = sum((sum(draw) / 2 - np.mean(values)) ** 2 for draw in draws) / len(draws)
    assert mean_square == pytest.approx(variance, abs=1e-15)
    if variance > 1e-12:  # control: with n in place of n - 1 it is too small
        assert sum(np.std(draw) ** 2 / 2 for draw in draws) / len(draws) == pytest.approx(variance / 2)


def test_there_is_no_error_of_one_value():
    assert math.isnan(standard_error([1.0]))
    assert math.isnan(standard_error([]))
    assert standard_errors(np.array([[0.0, 1.0], [2.0, 1.0]])).tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (math.nan, 0.1, "-"),
        (None, None, "-"),
        (0.12345, math.nan, "0.123"),
        (0.12345, 0.0019, "0.123 ± 0.002"),
        (-2, 0, "-2.000 ± 0.000"),
        (3, 0.5, "3.00 ± 0.50"),
        (105.667, 34.6, "106 ± 35"),
        (9733.4, None, "9733"),
        (0.05, None, "0.050"),
        (0.0004, 0.0001, "0.00040 ± 0.00010"),
        (3e-7, None, "3.0e-07"),
        (3e-7, 1e-8, "3.0e-07 ± 1.0e-08"),
        (0, None, "0.000"),
        (5, 1e-9, "5.000 ± 0.000"),
        (math.inf, None, "inf"),
    ],
)
def test_a_mean_and_its_error_have_the_same_decimals(value, error, text):
    assert format_mean(value, error) == text
    mean, _, of_error = text.partition(" ± ")
    assert not of_error or len(mean.partition(".")[2]) == len(of_error.partition(".")[2])
