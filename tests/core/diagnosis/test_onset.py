"""The onset of a rise: found where it is, with an error that covers it, and not found where nothing changes."""

import math

import pytest
import torch

from core.diagnosis.onset import LEAST_POINTS, find_onset

POINTS, NOISE = 16, 0.05


def noise(seed, points=POINTS):
    return NOISE * torch.randn(points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ramp(start, end, height, points=POINTS):
    steps = torch.arange(points, dtype=torch.float64)
    return 0.3 + height * ((steps - start) / (end - start)).clamp(0, 1)


def onset_of(values, weights=None, **options):
    count = len(values)
    return find_onset(range(count), list(map(float, values)), weights or [1.0] * count, **options)


def test_null_runs_are_not_flagged():
    results = [onset_of(0.3 + noise(seed), seed=seed) for seed in range(300)]
    flagged = sum(result.detected for result in results) / len(results)
    assert flagged <= 0.03  # the level is .01; .03 has a probability below .003 under it
    p = torch.tensor([result.p for result in results])
    assert float((p <= 0.5).double().mean()) == pytest.approx(0.5, abs=0.1)  # p is uniform, not merely large
    control = [onset_of(ramp(5, 9, 0.4) + noise(seed), seed=seed).detected for seed in range(30)]
    assert all(control)


def test_null_runs_with_growing_weights_are_not_flagged():
    """Good answers become more during training, so early points are noisier."""
    flagged = 0
    for seed in range(150):
        weights = torch.linspace(1, 20, POINTS, dtype=torch.float64)
        flagged += onset_of(0.3 + 4 * noise(seed) / weights.sqrt(), weights.tolist(), seed=seed).detected
    assert flagged <= 5


@pytest.mark.parametrize("start", [4, 9])
def test_the_start_is_within_its_error(start):
    results = [onset_of(ramp(start, start + 4, 0.4) + noise(seed), seed=seed) for seed in range(40)]
    deviation = torch.tensor([(result.start - start) / result.error for result in results])
    assert float((deviation.abs() <= 2).double().mean()) >= 0.85
    assert abs(sum(result.start for result in results) / 40 - start) <= 1
    assert sum(result.after - result.before for result in results) / 40 == pytest.approx(0.4, abs=0.03)


def test_a_rise_that_is_certain_but_small_or_downwards_is_not_reported():
    assert not onset_of(ramp(4, 8, 0.03) + noise(0) / 100).detected
    assert not onset_of(ramp(4, 8, -0.4) + noise(0)).detected
    assert onset_of(ramp(4, 8, 0.4) + noise(0)).detected  # control


def test_a_jump_and_points_without_a_value():
    values = [0.3] * 8 + [0.8] * 8
    values[3] = math.nan
    result = onset_of(values)
    assert (result.start, result.end) == (7, 8)
    assert (result.before, result.after) == pytest.approx((0.3, 0.8))
    assert onset_of([0.1] * (LEAST_POINTS - 1)) is None
    assert onset_of([0.1] * 20, [0.0] * 20) is None


def test_the_same_curve_has_the_same_answer():
    values = ramp(4, 8, 0.4) + noise(1)
    assert onset_of(values) == onset_of(values)
