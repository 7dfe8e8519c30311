"""The figures of a run and of a sweep, by their data, and the labels of molecules."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from chem.figures import SMILES_WIDTH, draw_molecules, draw_run, draw_sweep, molecule_label, short_smiles
from launch.analysis import figures
from launch.analysis.figures import finite_points
from launch.analysis.palette import METHOD_COLOURS, Style
from launch.analysis.sweep_runs import SweepRow, SweepRun

STYLE = Style("#123456", "-", "o")
ROWS = [{"smiles": "CCO", "score": 0.5}, {"smiles": "c1ccccc1" * 4, "score": 0.25}]


def metrics(steps, shift=0.0, **changes):
    values = {"reward/raw": 0.5, "valid": 0.9 + shift, "scaffolds": 0.8}
    return [{"step": i, "oracle/calls": 10 * (i + 1), **values, **changes} for i in range(steps)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, still open."""
    kept: list[Any] = []
    monkeypatch.setattr(figures.plt, "close", kept.append)
    yield kept
    monkeypatch.undo()
    plt.close("all")


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_short_run_has_curves(tmp_path, drawn, steps):
    (tmp_path / "config.yaml").write_text("transform: {name: identity}\nloss: reinvent")
    draw_run(tmp_path, metrics(steps), [0.1, math.nan, 0.3])
    assert [finite_points(axes) for axes in drawn[0].axes] == [2 + steps, steps, steps]
    curve = drawn[0].axes[0].lines[-1]
    assert (curve.get_color(), curve.get_marker()) == (METHOD_COLOURS["reinvent"], "o")
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "figure.png", "figure.svg"}


def test_a_run_without_a_valid_molecule_says_so(tmp_path, drawn):
    nothing = dict.fromkeys(("reward/raw", "scaffolds"))
    draw_run(tmp_path, metrics(3, **nothing), [])
    texts = [[text.get_text() for text in axes.texts] for axes in drawn[0].axes]
    assert texts == [["no valid molecule in any step"], [], ["no valid molecule in any step"]]


def test_a_sweep_is_drawn_with_the_errors_of_its_seeds(tmp_path, drawn):
    runs = [SweepRun(str(shift), tmp_path, {}, metrics(3, shift)) for shift in (0.0, 0.1)]
    draw_sweep([SweepRow("vanilla", STYLE, runs)], tmp_path / "figure.png")
    valid = drawn[0].axes[1]
    assert list(valid.lines[0].get_ydata()) == pytest.approx([0.95] * 3)
    (band,) = valid.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (pytest.approx(0.9), pytest.approx(1.0))  # 0.1 / 2, over n - 1
    assert drawn[0].legends[0].get_texts()[0].get_text() == "vanilla"


def test_another_stage_is_marked(tmp_path, drawn):
    rows = [{**row, "stage": 1 + (row["step"] > 1)} for row in metrics(4)]
    draw_run(tmp_path, rows, [])
    marks = [line for line in drawn[0].axes[0].lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in marks] == [20]
    assert [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()] == ["another stage"]
    draw_run(tmp_path, metrics(4), [])
    assert drawn[1].axes[0].get_legend() is None  # control


def test_molecules_have_labels(tmp_path):
    assert molecule_label(ROWS[0]) == "score 0.500  CCO"
    assert len(short_smiles(ROWS[1]["smiles"])) == SMILES_WIDTH
    assert short_smiles(ROWS[1]["smiles"]).endswith("...")
    draw_molecules(tmp_path / "molecules.png", ROWS)
    labelled = np.asarray(Image.open(tmp_path / "molecules.png").convert("L"))
    assert (labelled[-40:, :320] < 128).any()  # below the first drawing
    assert not (labelled[-40:, 640:] < 128).any()  # control: there is no third molecule
    assert (tmp_path / "molecules.svg").read_text().startswith("<?xml")


def test_svg_is_the_same_each_time(tmp_path):
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        draw_run(tmp_path / name, metrics(3), [0.5])
        texts.append((tmp_path / name / "figure.svg").read_text())
    assert texts[0] == texts[1]
