"""Curves over oracle calls, from records."""

import math

import numpy as np
import pytest

from chem.benchmarks.curves import draw_progress, mean_curve
from chem.benchmarks.records import Cell

RESULTS = {
    Cell("a", "x", 0): {"curve": [1.0, 2.0, 3.0]},
    Cell("a", "x", 1): {"curve": [3.0, 6.0]},
    Cell("b", "x", 0): {"curve": [0.5]},
}


def test_means_and_errors_over_seeds():
    curve = mean_curve(RESULTS, "a", "x")
    assert curve is not None
    calls, mean, error = curve
    assert calls == [100, 200]  # up to the smaller budget
    assert mean == pytest.approx([2, 4])
    assert error == pytest.approx([1, 2])  # differences 2 and 4: s = d / sqrt(2), s / sqrt(2)
    curve = mean_curve(RESULTS, "b", "x")
    assert curve is not None
    _, mean, error = curve
    assert mean == pytest.approx([0.5])
    assert all(map(math.isnan, error))
    assert mean_curve(RESULTS, "b", "y") is None


def test_the_picture_has_a_curve_for_each_method(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("chem.benchmarks.curves.draw_band", lambda axes, *curve: drawn.append((curve[-1], curve[1])))
    draw_progress(tmp_path / "figure.png", RESULTS, ["a", "b"], ["x", "y"], "yield")
    assert [name for name, _ in drawn] == ["a", "b"]
    assert np.allclose(drawn[0][1], [2, 4])
    assert {path.name for path in tmp_path.iterdir()} == {"figure.png", "figure.svg"}
