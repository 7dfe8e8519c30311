"""Figures of a run and of a sweep: scores over oracle calls, valid share and scaffolds, and drawings of molecules."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from launch.analysis.artifacts import fold_curves
from launch.analysis.figures import (
    draw_band,
    draw_line,
    integer_ticks,
    legend_below,
    note_if_empty,
    panels,
    save_figure,
    smoothed,
    smoothing_text,
)
from launch.analysis.labels import metric_label
from launch.analysis.palette import GREY, Style, method_colours
from launch.analysis.sweep_runs import SweepRow, run_method
from launch.runs.atomic import replacing

Metrics = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl
CURVES = ("reward/raw", "valid", "scaffolds")  # the first over oracle calls, the others over steps
COLUMNS, CELL = 4, (320, 240)  # molecules in a row, and the pixels of each
SMILES_WIDTH = 24  # characters of a SMILES below a drawing


def draw_run(folder: Path, metrics: Metrics, scores: Sequence[float]) -> Path:
    """Write the figure of one run.

    Args:
        folder: of the run.
        metrics: its lines of metrics.jsonl.
        scores: of each oracle call, to be drawn as dots; NaN where there is none.
    """
    method = run_method(folder)
    style = Style(method_colours([method])[method], "-", "o")
    figure, grid = panels(1, len(CURVES), (4.2, 3.5))
    axes = grid[0]
    calls = range(1, len(scores) + 1)
    axes[0].plot(calls, scores, ".", color=GREY, markersize=4, alpha=0.6, markeredgewidth=0, rasterized=True)
    rows = [{**row, "steps": row["step"] + 1} for row in metrics]
    for panel, key in zip(axes, CURVES, strict=True):
        draw_line(panel, *smoothed(rows, key, x_axis(key)), style)
    ends = [a["oracle/calls"] for a, b in pairwise(metrics) if a.get("stage") != b.get("stage")]
    for number, end in enumerate(ends):  # another oracle: scores are not comparable
        label = "another stage" if number == 0 else None
        axes[0].axvline(end, color="black", linestyle=":", linewidth=1, label=label)
    if ends:
        axes[0].legend()
    describe_axes(axes, [metrics])
    axes[0].set_title("score of each molecule (dots), mean of a step (line)")
    return save_figure(figure, folder / "figure.png")


def draw_sweep(rows: Sequence[SweepRow], path: Path) -> Path:
    """Write the figure of a sweep: means over the seeds of each configuration with their standard errors.

    Over oracle calls, the calls of a step differ between seeds a little, so its point is at their mean.
    """
    figure, grid = panels(1, len(CURVES), (4.2, 3.5))
    axes = grid[0]
    for row in rows:
        metrics = [[{**line, "steps": line["step"] + 1} for line in run.metrics] for run in row.runs]
        for panel, key in zip(axes, CURVES, strict=True):
            steps, mean, error = fold_curves([dict(zip(*smoothed(m, key, "steps"), strict=True)) for m in metrics])
            if x_axis(key) == "oracle/calls":
                calls = [{line["steps"]: line["oracle/calls"] for line in m} for m in metrics]
                steps = [sum(of_run[step] for of_run in calls) / len(calls) for step in steps]
            draw_band(panel, steps, mean, error, row.style, row.label)
    describe_axes(axes, [run.metrics for row in rows for run in row.runs])
    legend_below(figure, *axes)
    return save_figure(figure, path)


def x_axis(key: str) -> str:
    """What a metric is drawn over: oracle calls or the number of steps."""
    return "oracle/calls" if key == "reward/raw" else "steps"


def describe_axes(axes: Sequence[Axes], runs: Sequence[Metrics]) -> None:
    """Set titles and labels, and say where there is nothing to draw."""
    smoothing = smoothing_text([len(metrics) for metrics in runs])
    titles = ("mean score of a step", metric_label("valid"), metric_label("scaffolds"))
    for panel, title, label in zip(axes, titles, ("oracle calls", "step", "step"), strict=True):
        panel.set(title=title, xlabel=f"{label}{smoothing}")
        integer_ticks(panel)
        note_if_empty(panel, "no valid molecule in any step")


def draw_molecules(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Draw molecules with their labels, four in a row, as PNG to `path` and as SVG beside it.

    Args:
        path: the PNG file.
        rows: each with smiles and score.
    """
    molecules = [Chem.MolFromSmiles(row["smiles"]) for row in rows]
    width, height = CELL[0] * COLUMNS, CELL[1] * -(-len(molecules) // COLUMNS)
    for canvas, file_path in (
        (rdMolDraw2D.MolDraw2DSVG(width, height, *CELL), path.with_suffix(".svg")),
        (rdMolDraw2D.MolDraw2DCairo(width, height, *CELL), path),
    ):
        options: Any = canvas.drawOptions()
        options.legendFontSize, options.legendFraction = 14, 0.12
        canvas.DrawMolecules(molecules, legends=[molecule_label(row) for row in rows])
        canvas.FinishDrawing()
        text = canvas.GetDrawingText()
        with replacing(file_path) as file:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def molecule_label(row: Mapping[str, Any]) -> str:
    """What is written below a drawing: the score and the SMILES, shortened if it is long."""
    return f"score {row['score']:.3f}  {short_smiles(row['smiles'])}"


def short_smiles(smiles: str) -> str:
    """A SMILES of at most SMILES_WIDTH characters, with dots where it is cut."""
    return smiles if len(smiles) <= SMILES_WIDTH else f"{smiles[: SMILES_WIDTH - 3]}..."


def molecule_svg(smiles: str) -> str:
    """Drawing of a molecule as SVG."""
    canvas = rdMolDraw2D.MolDraw2DSVG(240, 180)
    canvas.DrawMolecule(Chem.MolFromSmiles(smiles))
    canvas.FinishDrawing()
    return str(canvas.GetDrawingText())
