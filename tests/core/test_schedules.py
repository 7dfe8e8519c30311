import math

import pytest

from core.schedules import adaptive_beta


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(1.0, 1.0), (1.1, 1.01), (0.9, 0.99), (1.2, 1.02), (0.8, 0.98), (50.0, 1.02), (0.0, 0.98), (-3.0, 0.98)],
)
def test_beta_follows_the_budget_and_is_clipped_at_a_fiftieth(kl, factor):
    assert adaptive_beta(0.3, kl, 1.0) == pytest.approx(0.3 * factor)
    assert adaptive_beta(0.3, 7 * kl, 7.0) == pytest.approx(0.3 * factor)  # only the ratio counts


@pytest.mark.parametrize(("kl", "target"), [(1.0, 0.0), (1.0, -1.0), (math.nan, 1.0), (math.inf, 1.0)])
def test_what_cannot_be_steered_by_is_refused(kl, target):
    with pytest.raises(ValueError, match="must be"):
        adaptive_beta(0.3, kl, target)
