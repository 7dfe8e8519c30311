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


@pytest.mark.parametrize("name", ["pmo", "molexp", "molexpl"])
def test_every_task_is_the_oracles(name):
    suite = SUITES[name]
    task = suite.tasks[-1]
    (component,) = compose("chem", suite.overrides("reinvent", task))["oracle"]["components"]
    assert component["parameters"]["task"] == task


def test_figures_of_the_papers_table():
    """Counted by hand: of propane to nonane, 10 calls apart, those with an even number of carbons are good."""
    alkanes = ["C" * length for length in range(3, 103)]
    samples = [{"smiles": smiles, "score": (0.82 if len(smiles) % 2 == 0 else 0.1)} for smiles in alkanes]
    samples[0]["score"] = None  # a failed call
    samples.append({"smiles": "C" * 4, "score": 0.9})  # asked about again: not a call
    figures = SUITES["table2"].measure(samples, 200)
    assert (figures["0.8/yield"], figures["0.8/OB1"], figures["0.8/OB10"]) == (50, 2, 20)
    assert figures["0.8/OB100"] is None
    assert (figures["0.85/yield"], figures["0.85/int_div1"]) == (0, None)
    assert set(SUITES["table2"].metrics) <= set(figures)
    assert SUITES["table2"].progress(samples, 200) == [50, 50]  # after 100 calls, and at the end of the budget


def test_curves_end_at_the_final_figures():
    samples = lines(*[{"score": call / 200, "details": {"molexp": [call / 200, 0.5]}} for call in range(200)])
    for name, figure in {"pmo": "top10", "molexp": "top1"}.items():
        curve = SUITES[name].progress(samples, 200)
        assert len(curve) == 2
        assert curve[-1] == pytest.approx(SUITES[name].measure(samples, 200)[figure])
        assert curve[0] == pytest.approx(SUITES[name].measure(samples[:100], 100)[figure])


@pytest.mark.parametrize("name", ["molexp", "molexpl"])
def test_exploration_needs_every_target(name):
    first = [{"score": 0.9, "details": {"molexp": [0.9, 0.1]}}] * 100
    second = [{"score": 0.5, "details": {"molexp": [0.1, 0.5]}}] * 100
    failed: list[dict[str, Any]] = [{"score": None, "details": {}}] * 100
    assert SUITES[name].measure(lines(*first, *failed), 200)["top1"] == pytest.approx(0.9 * 0.1)
    figures = SUITES[name].measure(lines(*first, *failed, *second), 300)
    assert figures["top1"] == pytest.approx(0.9 * 0.5)
    assert figures["auc_top1"] == pytest.approx((0.45 + 0.9 + 0.9) / 3 * (0.05 + 0.1 + 0.3) / 3)


def test_each_targets_part_in_exploration():
    """Counted by hand: of the last 30 of 300 calls 10 are near the second target, 10 as near to both, 10 failed."""
    first, second, equal = (
        {"score": 0.9, "details": {"molexp": pair}} for pair in ([0.9, 0.1], [0.2, 0.6], [0.3, 0.3])
    )
    failed: dict[str, Any] = {"score": None, "details": {}}
    figures = SUITES["molexp"].measure(lines(*[first] * 270, *[second] * 10, *[failed] * 10, *[equal] * 10), 300)
    assert [figures[f"top1/{target}"] for target in (0, 1)] == [0.9, 0.6]
    assert [figures[f"nearest/{target}"] for target in (0, 1)] == [0.5, 0.5]
    assert figures["targets"] == pytest.approx(2)
    assert "top1/2" not in figures
    assert SUITES["molexp"].measure(lines(*[first] * 300), 300)["targets"] == 1
    uneven = SUITES["molexp"].measure(lines(*[first] * 275, *[second] * 25), 300)["targets"]
    assert uneven == pytest.approx(6 / 5 ** (5 / 6))  # shares 1/6 and 5/6: exp(log 6 - 5/6 log 5)


def test_a_run_whose_calls_all_fail_explored_nothing():
    suite = SUITES["molexp"]
    failed: list[dict[str, Any]] = [{"smiles": smiles, "score": None, "details": {}} for smiles in ("C", "CC")]
    for samples in (failed, []):
        assert set(suite.measure(samples, 200).values()) == {0.0}
        assert suite.progress(samples, 200) == [0.0, 0.0]
