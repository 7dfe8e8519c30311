"""Each metric against a second computation: by hand, by numpy over all pairs, by brute force over all subsets."""

import csv
import math
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from chem import metrics
from chem.csv_metrics import read_molecules
from conf.schema.base import ConfigError
from launch.runs.run_folder import read_json

HOME = Path(__file__).resolve().parents[2]
MOLECULES = [
    "CCO",
    "c1ccccc1",
    "c1ccccc1O",
    "CC(=O)Nc1ccccc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "C1CCNCC1",
    "CN1CCN(C)CC1",
    "c1ccc2ncccc2c1",
    "O=C(O)c1ccncc1",
    "CCCCCCCC",
    "FC(F)(F)c1ccccc1",
    "c1ccsc1",
    "NS(=O)(=O)c1ccccc1",
    "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
]


def distances(smiles):
    """[N, N] by numpy over count-free bits of the older fingerprint function."""
    bits = np.array([list(AllChem.GetMorganFingerprintAsBitVect(Chem.MolFromSmiles(s), 2, 2048)) for s in smiles])
    both = bits @ bits.T
    each = bits.sum(1)
    return 1 - both / (each[:, None] + each[None] - both)


def test_internal_diversity_counts_the_diagonal():
    expected = distances(MOLECULES).mean()
    assert metrics.int_div1(metrics.fingerprints(MOLECULES)) == pytest.approx(expected, abs=1e-12)
    rows = len(MOLECULES)
    assert abs(expected - distances(MOLECULES).sum() / rows / (rows - 1)) > 0.01  # control: without the diagonal
    assert metrics.int_div1(metrics.fingerprints(["CCO"])) == 0
    assert metrics.int_div1([]) is None


@pytest.mark.parametrize("start", range(5))
def test_circles_are_apart_and_as_many_as_can_be(start):
    """Brute force over all subsets of ten molecules; greedy is a lower bound, one short in one of these orders."""
    smiles = (MOLECULES * 2)[start : start + 10]
    apart = distances(smiles) > 0.75
    kept = metrics.circles(metrics.fingerprints(smiles))
    assert kept[0] == 0
    assert all(apart[a, b] for a, b in combinations(kept, 2))
    largest = max(
        size
        for size in range(1, 11)
        if any(all(apart[a, b] for a, b in combinations(some, 2)) for some in combinations(range(10), size))
    )
    assert len(kept) == largest - (start == 2)
    assert largest < 10  # control: not simply all of them
    for row in set(range(10)) - set(kept):  # nothing could be added
        assert not all(apart[row, other] for other in kept if other < row)


def test_circles_follow_the_order_of_generation():
    """A chain whose middle is near an end: greedy keeps both ends if they come first, and the middle if not."""
    ends, middle = ("CCCCCCO", "c1ccccc1CCCCN"), "CCCCCCCN"
    prints = dict(zip([*ends, middle], metrics.fingerprints([*ends, middle]), strict=True))
    near = distances([*ends, middle]) <= 0.75
    kept = [len(metrics.circles([prints[s] for s in order])) for order in ((*ends, middle), (middle, *ends))]
    assert near[0, 2]
    assert not near[0, 1]
    assert kept[0] == 2
    assert kept[1] == (1 if near[1, 2] else 2)


def test_a_run_by_hand():
    smiles = ["CCO", "OCC", "C1CC", "c1ccccc1", "CC(=O)Nc1ccccc1", "c1ccccc1", "CCN", "CCCl", "CCN", ""]
    score = [0.9, 0.1, 0.0, 0.8, 0.79, 0.2, None, 0.85, 0.95, 0.0]
    found = metrics.collect(smiles, score)
    assert found.smiles == ["CCO", "c1ccccc1", "CC(=O)Nc1ccccc1", "CCN", "CCCl"]
    assert found.score.tolist() == [0.9, 0.8, 0.79, 0.95, 0.85]  # the first; CCN's was missing at first
    row = metrics.metrics(found, [0.8, 0.99], known={"CCO", "CCC"})
    assert (row["generated"], row["calls"], row["unscored"]) == (10, 5, 0)
    assert (row["validity"], row["uniqueness"], row["novelty"]) == (0.8, 5 / 8, 4 / 5)
    assert row["scaffolds"] == 2  # benzene's and the empty one
    assert (row["0.8/yield"], row["0.8/OB1"], row["0.8/OB10"]) == (4, 1, None)
    assert row["0.8/scaffolds"] == 2
    assert (row["0.99/yield"], row["0.99/OB1"], row["0.99/int_div1"], row["0.99/circles"]) == (0, None, None, None)


def test_oracle_burden_and_yield_agree():
    good = np.random.default_rng(0).random(500) < 0.3
    curve = metrics.yield_curve(good)
    for n in (1, 10, 100):
        calls = metrics.oracle_burden(good, n)
        assert calls is not None
        assert curve[calls - 1] == n == good[:calls].sum()
        assert curve[calls - 2] == n - 1 or calls == 1
    assert metrics.oracle_burden(good, int(good.sum()) + 1) is None
    assert curve[-1] == good.sum()


def write(path, rows, columns=("smiles", "score")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def evaluate(*arguments):
    command = [sys.executable, "-m", "chem.evaluate", *arguments]
    return subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=200)


def test_the_command(tmp_path):
    """Columns of other names, in another order, with others beside them."""
    rows = [(n, f"{n / 20:.3f}", smiles) for n, smiles in enumerate(MOLECULES)] + [(99, "", "CCC"), (100, 0.1, "C1")]
    write(tmp_path / "other.csv", rows, ("step", "Reward", "SMILES"))
    known = tmp_path / "known.smi"
    known.write_text("OCC alcohol\nCCCCCCCC\n")
    done = evaluate(
        f"file={tmp_path / 'other.csv'}", "smiles_column=SMILES", "score_column=Reward", "screens=[0.5,0.3]",
        f"known={known}", f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["0.5/yield"] == 4
    assert summary["0.5/OB1"] == 11
    assert summary["0.5/OB10"] is None
    assert summary["0.3/yield"] == 8
    assert summary["unscored"] == 1
    assert summary["generated"] == 16
    assert summary["novelty"] == pytest.approx(13 / 15)
    assert summary["validity"] == pytest.approx(15 / 16)
    assert summary["0.3/int_div1"] == pytest.approx(distances(MOLECULES[6:]).mean())
    assert "not reached" in done.stdout
    assert "#Circles" in done.stdout
    assert {"figure.png", "molecules.png"} <= {path.name for path in (tmp_path / "run").iterdir()}

    wrong = evaluate(f"file={tmp_path / 'other.csv'}", f"hydra.run.dir={tmp_path / 'wrong'}")
    assert wrong.returncode == 1
    assert "smiles_column: must be a column of other.csv (step, Reward, SMILES)" in wrong.stderr


@pytest.mark.parametrize("score", ["high", "nan", "inf"])
def test_a_score_that_is_none_is_refused(tmp_path, score):
    write(tmp_path / "bad.csv", [("CCO", 0.5), ("CC", score)])
    with pytest.raises(
        ConfigError, match=rf"score_column: must hold finite numbers.*got {score} \(bad.csv, line 3\)"
    ):
        read_molecules(tmp_path / "bad.csv", "smiles", "score")


def test_collect_keeps_what_has_no_score_apart():
    found = metrics.collect(["CCO", "CC"], [None, 0.5])
    assert math.isnan(found.score[0])
    assert found.good(-math.inf).tolist() == [False, True]
