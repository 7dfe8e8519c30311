"""Pareto fronts and curves, and the files they are drawn to."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from launch.analysis import plots, table
from launch.analysis.artifacts import Artifacts, Curves
from launch.analysis.base_model import base_model
from launch.analysis.figures import finite_points
from launch.analysis.metric_columns import MetricColumns
from launch.analysis.palette import METHOD_COLOURS
from launch.analysis.table import CollectedRun, Row
from launch.analysis.uncertainty import standard_error


def test_curves_are_means_over_the_seeds(sweep):
    rows = table.fold_seeds(table.read_runs(sweep))
    steps, mean, error = plots.metric_curve(rows[0], "reward/raw")
    assert (steps, mean.tolist()) == ([0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5])
    assert error == pytest.approx(0.5)
    assert plots.metric_curve(rows[0], "loss")[0] == [0, 1, 3]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, still open."""
    figures = []

    def save(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return path

    monkeypatch.setattr(plots, "save_figure", save)
    yield figures
    plt.close("all")


def collected(metrics=(), **fields):
    """A run with lines of metrics, results and artifacts."""
    columns = MetricColumns()
    for line in metrics:
        columns.add(line["step"], line)
    return CollectedRun(Path("run"), "llm", [], "finished", metrics=columns, **fields)


def row(label, *runs):
    """A row of runs, each given by its results, metrics and artifacts."""
    return Row({"method": label}, [collected(**run) for run in runs])


def test_a_point_has_the_errors_of_its_seeds(drawn, tmp_path):
    rows = [
        row("a", {"results": {"x": 1.0, "y": 4.0}}, {"results": {"x": 3.0, "y": 4.0}}),
        row("b", {"results": {"x": 5.0, "y": 1.0}}),
        row("c", {"results": {"x": 5.0}}),
    ]
    assert plots.draw_pareto(rows, "x", "y", tmp_path / "pareto.png") == tmp_path / "pareto.png"
    (axes,) = drawn[0].axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["front", "a", "b"]  # c has no y
    assert axes.lines[0].get_xydata().tolist() == [[2, 4], [5, 1]]
    (x_bar,) = axes.containers[0].lines[2][0].get_segments()
    error = standard_error([1.0, 3.0])
    assert x_bar[:, 0].tolist() == pytest.approx([2 - error, 2 + error])


def test_the_metrics_of_interest_come_first_and_others_only_without_them(drawn, tmp_path):
    metrics = [{"step": s, "loss": 1.0, "a": 2.0, "reward/raw": 3.0} for s in range(2)]
    plots.draw_curves([row("a", {"metrics": metrics})], tmp_path / "curves.png")
    plots.draw_curves([row("a", {"metrics": [{"step": 0, "b": 1.0, "a": 2.0}]})], tmp_path / "curves.png")
    assert [axes.get_title() for axes in drawn[0].axes] == ["reward", "loss"]
    assert [axes.get_title() for axes in drawn[1].axes] == ["a", "b"]
    (line,) = drawn[0].axes[0].lines
    assert line.get_xydata().tolist() == [[0, 3], [1, 3]]


def test_each_title_of_a_package_is_a_file(drawn, tmp_path):
    curves = {title: Curves("calls", {"good": {0: 1.0, 5: 2.0}}) for title in ("Yield, all of it!", "\u00e9")}
    paths = plots.draw_artifact_curves([row("a", {"artifacts": Artifacts(curves=curves)})], tmp_path)
    assert [path.name for path in paths] == ["yield_all_of_it.png", "artifact.png"]
    assert [axes.get_xlabel() for figure in drawn for axes in figure.axes] == ["calls", "calls"]


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_short_run_has_curves(drawn, tmp_path, steps):
    metrics = [{"step": step, "reward/raw": 1.0} for step in range(steps)]
    plots.draw_curves([row("a", {"metrics": metrics}), row("b", {"metrics": metrics[:1]})], tmp_path / "curves.png")
    (axes,) = drawn[0].axes
    assert finite_points(axes) == steps + 1


def test_the_base_is_marked(drawn, tmp_path):
    results = {"x": 1.0, "y": 2.0, "base.x": 0.5, "base.y": 0.25, "base.correct": 0.75}
    metrics = [{"step": 0, "correct": 0.9}]
    rows = [row("a", {"results": results, "metrics": metrics}), row("b", {"results": results, "metrics": metrics})]
    plots.draw_pareto(rows, "x", "y", tmp_path / "pareto.png", base_model(rows))
    plots.draw_curves(rows, tmp_path / "curves.png", base_model(rows))
    (base,) = [line for line in drawn[0].axes[0].lines if line.get_label() == "base"]
    assert base.get_xydata().tolist() == [[0.5, 0.25]]
    (level,) = [line for line in drawn[1].axes[0].lines if line.get_label() == "base"]
    assert set(level.get_ydata()) == {0.75}


def test_a_method_has_one_colour_in_all_plots(drawn, tmp_path):
    metrics = [{"step": 0, "reward/raw": 1.0}, {"step": 1, "reward/raw": 2.0}]
    artifacts = Artifacts(curves={"Yield": Curves("calls", {"good": {0: 1.0, 5: 2.0}})})
    run = {"results": {"x": 1.0, "y": 2.0}, "metrics": metrics, "artifacts": artifacts}
    run = {**run, "config": {"transform.name": "mara"}}
    rows = [row("a", run), row("b", run | {"config": {"transform.name": "identity"}})]
    plots.draw_pareto(rows, "x", "y", tmp_path / "pareto.png")
    plots.draw_curves(rows, tmp_path / "curves.png")
    plots.draw_artifact_curves(rows, tmp_path)
    points = {line.get_label(): line.get_color() for line in drawn[0].axes[0].lines}
    assert points == {"a": METHOD_COLOURS["mara_reverse"], "b": METHOD_COLOURS["vanilla_reverse"]}
    for figure in drawn[1:]:
        assert [line.get_color() for line in figure.axes[0].lines] == [
            METHOD_COLOURS["mara_reverse"],
            METHOD_COLOURS["vanilla_reverse"],
        ]
