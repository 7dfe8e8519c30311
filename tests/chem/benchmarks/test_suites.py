"""What is measured in a finished run, and the oracle of each task."""

from typing import Any

import pytest

from chem.benchmarks.suites import SUITES
from conf.schema.benchmark import BENCHMARKS
from launch.cli.compose import compose


def test_the_benchmarks_are_those_of_the_schema():
    assert tuple(SUITES) == BENCHMARKS


def lines(*rows):
    """Lines of samples.jsonl of different molecules."""
    return [{"smiles": str(number), **row} for number, row in enumerate(rows)]


def test_failed_calls_count_as_calls_without_score():
    samples = lines(*[{"score": None}] * 100, *[{"score": 1.0}] * 100)
    figures = SUITES["pmo"].measure(samples, 200)
    assert figures["auc_top1"] == pytest.approx((0 + 100 * 0.5) / 200)
    assert figures["top100"] == 1
    assert SUITES["pmo"].measure([*samples, {"smiles": "0", "score": 0.0}], 200) == figures  # asked about again


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_task_is_the_oracles(name):
    suite = SUITES[name]
    task = suite.tasks[-1]
    (component,) = compose("chem", suite.overrides(task))["oracle"]["components"]
    assert component["parameters"]["task"] == task


@pytest.mark.parametrize("name", ["molexp", "molexpl"])
def test_exploration_needs_every_target(name):
    first = [{"score": 0.9, "details": {"molexp": [0.9, 0.1]}}] * 100
    second = [{"score": 0.5, "details": {"molexp": [0.1, 0.5]}}] * 100
    failed: list[dict[str, Any]] = [{"score": None, "details": {}}] * 100
    assert SUITES[name].measure(lines(*first, *failed), 200)["top1"] == pytest.approx(0.9 * 0.1)
    figures = SUITES[name].measure(lines(*first, *failed, *second), 300)
    assert figures["top1"] == pytest.approx(0.9 * 0.5)
    assert figures["auc_top1"] == pytest.approx((0.45 + 0.9 + 0.9) / 3 * (0.05 + 0.1 + 0.3) / 3)
