"""The sentence about a sweep, on sweeps where the right one is known."""

from pathlib import Path

import numpy as np
import pytest

from launch.analysis.finding import LEVEL, NO_RESULT, find, rank
from launch.analysis.table import CollectedRun, Row

AXES = ("entropy_nats", "correct")  # diversity, reward
TIGHT = (-0.001, 0.0, 0.001)  # spread of three seeds


def row(label, correct, entropy=(1.0, 1.1, 0.9)):
    """A configuration with a result for each seed."""
    results = [{"entropy_nats": one, "correct": other} for one, other in zip(entropy, correct, strict=True)]
    return Row(
        {"method": label}, [CollectedRun(Path("run"), "llm", [], "finished", results=each) for each in results]
    )


def around(mean, spread=TIGHT):
    return [mean + each for each in spread]


def sentence(*rows):
    return find(rows, [each.varying["method"] for each in rows], AXES)


def test_clearly_best_in_both():
    text = sentence(row("MARA", around(0.9), around(2.0)), row("vanilla", around(0.5), around(1.0)))
    assert text.startswith(
        "MARA has the highest share of correct completions (0.900 ± 0.001) and entropy of the answers"
    )
    assert "significantly higher than the other, p < 0.001." in text
    assert "vanilla" not in text


def test_best_in_one_and_equal_in_the_other():
    text = sentence(row("MARA", (0.5, 0.6, 0.4), around(2.0)), row("vanilla", (0.5, 0.61, 0.41), around(1.0)))
    assert text.startswith("MARA has the highest entropy of the answers (2.000 ± 0.001 nats), significantly higher")
    assert text.endswith("; no significant difference in share of correct completions (means 0.5 to 0.507).")


def test_overlapping_errors_are_no_finding():
    text = sentence(row("MARA", (0.5, 0.9, 0.7), (1.0, 2.0, 1.5)), row("vanilla", (0.6, 0.8, 0.65), (0.9, 1.9, 1.3)))
    assert text.startswith("No significant difference in share of correct completions")
    assert "highest" not in text
    assert "MARA" not in text


def test_different_winners_are_both_named():
    text = sentence(row("a", around(0.9), around(1.0)), row("b", around(0.5), around(2.0)))
    assert "A has the highest share of correct completions" in text
    assert "and b has the highest entropy of the answers" in text


def test_the_best_may_be_tied_with_some():
    rows = (row("a", (0.90, 0.91, 0.92)), row("b", (0.895, 0.905, 0.929)), row("c", around(0.1)))
    text = sentence(*rows)
    assert "is highest for a (0.910 ± 0.006), but not significantly higher than for b" in text
    assert "for c" not in text
    assert rank(rows, "correct", 2).tied == [1]


def test_many_names_are_counted():
    wide = [row(name, (0.5 + number / 100, 1.5, 0.9)) for number, name in enumerate("abcde")]
    text = sentence(*wide, row("f", around(0.1)))
    assert "is highest for e (0.98 ± 0.28), but not significantly higher than for any other" in text
    tight = [row(name, (0.900, 0.901, 0.902 + number / 10_000)) for number, name in enumerate("abcde")]
    text = sentence(*tight, row("f", around(0.1)))
    assert "is highest for e (0.901 ± 0.001), but not significantly higher than for 4 of 5 others;" in text


def test_equal_configurations_share_the_first_place():
    text = sentence(row("a", [13.0, 13.0], [1.0, 1.0]), row("b", [13.0, 13.0], [1.0, 1.0]))
    assert text.startswith("In these runs both configurations share the highest share of correct completions (13")
    results = {"a": (0.8, 0.9), "b": (0.9, 0.8), "c": (0.1, 0.2), "d": (0.8, 0.89)}
    rows = [row(name, correct, correct) for name, correct in results.items()]
    text = find(rows, list("abcd"), ("correct", "correct"))
    assert text.startswith("Share of correct completions is highest for a and b (0.850 ± 0.050), but")


def test_among_several_the_others_may_differ_from_each_other():
    """The best has a wide spread, so that it is tied with two that clearly differ."""
    text = sentence(row("a", (0.5, 1.5, 0.9)), row("b", around(0.8)), row("c", around(0.5)))
    assert "is highest for a (0.97 ± 0.29), but not significantly higher than for any other;" in text
    assert "no significant difference" not in text


@pytest.mark.parametrize("correct", [[0.9], [0.9, 0.9, 0.9]])
def test_what_cannot_be_tested_is_called_so(correct):
    """One seed, or seeds that do not differ at all."""
    entropy = [1.0] * len(correct)
    text = sentence(row("a", correct, entropy), row("b", [value / 2 for value in correct], entropy))
    assert text.startswith("In these runs a has the highest share of correct completions")
    assert ("cannot be tested" in text) == (len(correct) == 1)
    assert "significant" not in text.replace("not significant", "")


def test_a_result_that_some_seeds_lack_is_not_tested():
    rows = [row("a", around(0.9)), row("b", around(0.1))]
    del rows[0].runs[0].results["correct"]
    assert "was not tested" in sentence(*rows)


def test_one_configuration_is_described_and_nothing_is_claimed():
    assert sentence(row("all runs", around(0.9))).startswith(
        "The only configuration has share of correct completions"
    )
    assert sentence() == "No run has finished."
    assert find([row("a", around(0.9))], ["a"], ()) == NO_RESULT


def test_chance_is_called_a_finding_at_most_as_often_as_the_level_says():
    """Sweeps whose configurations are equal; without the correction a difference would be found far more often."""
    generator = np.random.default_rng(0)
    found, uncorrected = 0, 0
    count = 400
    for _ in range(count):
        rows = [row(str(n), *generator.normal(size=(2, 4)).tolist()) for n in range(4)]
        text = sentence(*rows)
        found += text.count("highest") > text.count("than for any other")
        uncorrected += any(len(rank(rows, key, results=1 / 6).tied) < 3 for key in AXES)  # 6 pairs: no correction
    assert found <= count * LEVEL + 3 * (count * LEVEL * (1 - LEVEL)) ** 0.5
    assert uncorrected > 3 * count * LEVEL  # control
