"""The rows of the board: means, errors, fronts and order, each computed in a second way."""

import math
import random

import pytest

from tools.leaderboard.board import board, with_fronts
from tools.leaderboard.records import key_of

from .made_up import record


def records_of(*rows):
    return {key_of(row): row for row in rows}


def test_means_and_errors_over_the_seeds():
    rows = [record("rloo", seed, value, 0.5) for seed, value in enumerate((0.1, 0.2, 0.6))]
    base, line = board(records_of(*rows, record("grpo", 0, 0.9, 0.9, task="spellings")), "one_of_many")
    assert line.seeds == [0, 1, 2]
    assert line.means["correct"] == pytest.approx(0.3)
    assert line.errors["correct"] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2 / 3))  # n - 1
    assert line.errors["correct"] != pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 3 / 3))  # control: with n
    assert line.errors["coverage"] == 0
    assert base.row is None
    assert base.means["correct"] == pytest.approx(0.71)  # .70, .71, .72
    assert base.errors["correct"] == pytest.approx(0.01 / math.sqrt(3))
    (_, single) = board(records_of(rows[0]), "one_of_many")
    assert math.isnan(single.errors["correct"])
    assert board(records_of(*rows), "one_two") == []


def test_the_base_counts_a_seed_once_and_not_that_of_another_model():
    """Two methods share the base of seed 0; a run with another evaluation has another base."""
    rows = [record("rloo", 0, 0.9, 0.5), record("grpo", 0, 0.9, 0.5), record("rloo", 1, 0.9, 0.5)]
    other = record("rloo", 2, 0.9, 0.5, settings={"evaluation_completions": 5})
    same = record("rloo", 3, 0.9, 0.5, settings={"steps": 5})
    (base, *_) = board(records_of(*rows, other, same), "one_of_many")
    assert base.seeds == [0, 1, 3]
    assert base.means["correct"] == pytest.approx((0.70 + 0.71 + 0.73) / 3)
    assert [line.row for line in board(records_of(other), "one_of_many") if line.row is None] == []


def test_rows_are_methods_with_a_beta_and_settings():
    rows = [
        record("rloo", 0, 0.9, 0.5),
        record("rloo", 0, 0.9, 0.6, beta=0.2),
        record("rloo", 0, 0.9, 0.7, settings={"group_size": 8}),
    ]
    lines = board(records_of(*rows), "one_of_many")[1:]
    assert [(line.row.beta, line.note) for line in lines] == [(0.1, ["group_size=8"]), (0.2, []), (0.1, [])]


@pytest.mark.parametrize("seed", range(5))
def test_fronts_are_those_of_every_pair_compared(seed):
    chance = random.Random(seed)
    levels = [i / 4 for i in range(5)]  # few levels, so that there are ties
    rows = [record("rloo", 0, *(chance.choice(levels) for _ in range(3)), beta=beta) for beta in range(1, 9)]
    lines = board(records_of(*rows), "one_of_many")
    for key in ("coverage", "entropy_nats"):
        for line in lines:
            own = (line.means["correct"], line.means[key])
            beaten = any(
                theirs != own and all(a >= b for a, b in zip(theirs, own, strict=True))
                for theirs in ((other.means["correct"], other.means[key]) for other in lines)
            )
            assert (key in line.fronts) is not beaten
    flipped = with_fronts([line._replace(means={k: -v for k, v in line.means.items()}) for line in lines])
    assert [line.fronts for line in flipped] != [line.fronts for line in lines]  # control


def test_the_base_comes_first_then_the_front_by_quality_then_the_rest_by_coverage():
    rows = [
        record("rloo", 0, 0.95, 0.5, 0.1, beta=1),
        record("rloo", 0, 0.90, 0.8, 0.9, beta=2),
        record("rloo", 0, 0.80, 0.6, 0.2, beta=3),
        record("rloo", 0, 0.85, 0.4, 0.3, beta=4),
        record("rloo", 0, 0.75, 0.7, 0.4, beta=5),
    ]
    lines = board(records_of(*rows), "one_of_many")
    assert [line.row.beta if line.row else "base" for line in lines] == ["base", 1, 2, 5, 3, 4]
    assert lines[1].fronts == lines[2].fronts == ("coverage", "entropy_nats")
    assert lines[0].fronts == ("coverage", "entropy_nats")  # the base has the largest coverage and entropy
    assert lines[3].fronts == ()
