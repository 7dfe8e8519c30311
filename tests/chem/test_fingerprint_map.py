"""Maps of chemical space: the axes, the coordinates, the figures of each run, and what is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest

from chem.fingerprint_map import default_names, map_runs, principal_axes, read_good
from chem.metrics import circles, fingerprints, int_div1
from conf.schema.base import ConfigError
from launch.runs.run_folder import read_json

FIRST = ["CCO", "c1ccccc1O", "c1ccccc1N", "CC(=O)Nc1ccc(O)cc1"]
SECOND = ["CCO", "CCCCN", "CCCCCN"]


def write(folder, name, smiles, scores=None):
    (folder / name).mkdir(parents=True)
    rows = [f"{molecule},{score}" for molecule, score in zip(smiles, scores or [0.9] * len(smiles), strict=True)]
    (folder / name / "molecules.csv").write_text("\n".join(["smiles,score", *rows, "CCCC,0.79", "CCCCC,", "no,0.9"]))
    return folder / name


def test_the_axes_are_those_of_the_singular_value_decomposition():
    bits = (np.random.default_rng(0).random((30, 12)) < 0.3).astype(float)
    bits[:, 0] = bits[:, 1]
    mean, axes, shares = principal_axes(bits)
    _, values, vectors = np.linalg.svd(bits - bits.mean(0))
    assert np.abs(np.diag(vectors[:2] @ axes)) == pytest.approx([1, 1])
    assert shares == pytest.approx(values[:2] ** 2 / (values**2).sum())
    assert np.var((bits - mean) @ axes, axis=0) / bits.var(0).sum() == pytest.approx(shares)
    assert (axes.max(0) == np.abs(axes).max(0)).all()  # the sign


def test_a_map_has_the_good_molecules_of_all_runs_on_common_axes(tmp_path):
    runs = [write(tmp_path, "a", FIRST), write(tmp_path, "b", SECOND)]
    map_runs(runs, 0.8, out=tmp_path / "out")
    with (tmp_path / "out" / "space.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["score"]) for row in rows] == [("a", "0.9")] * 4 + [("b", "0.9")] * 3
    shared = [(row["pc1"], row["pc2"]) for row in rows if row["smiles"] == "CCO"]
    assert shared[0] == shared[1]  # a molecule of two runs has one place
    bits = np.array([list(bits) for bits in fingerprints(list(dict.fromkeys(FIRST + SECOND)))], dtype=float)
    values = np.linalg.svd(bits - bits.mean(0), compute_uv=False) ** 2
    summary = read_json(tmp_path / "out" / "space.json")
    assert summary["explained_variance"] == pytest.approx(values[:2] / values.sum())
    prints = fingerprints(FIRST)
    expected = {"yield": 4, "int_div1": int_div1(prints), "circles": len(circles(prints))}
    assert summary["runs"]["a"] == expected
    assert (tmp_path / "out" / "space.png").stat().st_size > 10_000
    text = (tmp_path / "out" / "space.csv").read_text()
    map_runs(runs, 0.8, out=tmp_path / "again")
    assert (tmp_path / "again" / "space.csv").read_text() == text
    assert (tmp_path / "again" / "space.png").read_bytes() == (tmp_path / "out" / "space.png").read_bytes()


def test_a_run_without_good_molecules_has_an_empty_panel(tmp_path):
    runs = [write(tmp_path, "a", FIRST), write(tmp_path, "b", SECOND, [0.1, 0.2, 0.3])]
    map_runs(runs, 0.8, names=["mine", "$theirs$"])
    summary = read_json(tmp_path / "a" / "space" / "space.json")
    assert summary["runs"]["$theirs$"] == {"yield": 0, "int_div1": None, "circles": None}
    assert summary["runs"]["mine"]["yield"] == 4


def test_the_screen_chooses_the_molecules(tmp_path):
    path = write(tmp_path, "a", FIRST) / "molecules.csv"
    assert len(read_good("a", path, 0.8).smiles) == 4
    assert len(read_good("a", path, 0.79).smiles) == 5  # control


def test_names_are_as_long_as_needed(tmp_path):
    assert default_names([tmp_path / "x" / "mara_0.85", tmp_path / "x" / "reinvent"]) == ["mara_0.85", "reinvent"]
    assert default_names([tmp_path / "x" / "0", tmp_path / "y" / "0"]) == ["x/0", "y/0"]
    (tmp_path / "scores.csv").touch()
    assert default_names([tmp_path / "scores.csv"]) == ["scores"]


@pytest.mark.parametrize(
    ("runs", "screen", "names", "message"),
    [
        (["a", "missing"], 0.8, [], r"^RUN: no file .*missing; give the folder of a finished run"),
        (["a", "a"], 0.8, [], r"^RUN: must be different runs"),
        (["a"], 0.8, ["b", "c"], r"^--names: must be 1 different names, one for each run, got b,c"),
        (["a"], 0.91, [], r"^--screen: must be a score that at least 3 molecules of the runs reach, got 0.91"),
    ],
)
def test_what_is_refused_is_one_line(tmp_path, runs, screen, names, message):
    write(tmp_path, "a", FIRST)
    with pytest.raises(ConfigError, match=message):
        map_runs([tmp_path / Path(run) for run in runs], screen, names)
