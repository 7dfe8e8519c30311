"""Maps of chemical space: good molecules of several runs on the first two principal components of fingerprints."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rdkit import DataStructs
from scipy.linalg import eigh

from chem.csv_metrics import read_scored_file
from chem.metrics import BITS, circles, collect_molecules, fingerprints, int_div1
from chem.report import format_number
from conf.schema.base import ConfigError
from launch.analysis.csv_cells import csv_cell
from launch.analysis.figures import panels, plain_label, save_figure
from launch.analysis.palette import GREY, styles
from launch.analysis.sweep_runs import run_method
from launch.cli.next_steps import path_override
from launch.runs.atomic import make_folder, replacing
from launch.runs.closing import command, show_next, show_pictures
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.run_folder import write_json

MAX_COLUMNS = 3  # panels in a row
NAME_WIDTH = 40  # characters of a run's name in a title


class GoodMolecules(NamedTuple):
    """The good molecules of a run.

    Attributes:
        name: of the run.
        smiles: canonical, distinct, in the order in which they were generated.
        score: [N].
        bits: [N, BITS] Morgan fingerprints, 0 or 1.
        int_div1: as in `chem.metrics`; None without molecules, as circles.
        circles: as in `chem.metrics`.
    """

    name: str
    smiles: list[str]
    score: np.ndarray
    bits: np.ndarray
    int_div1: float | None
    circles: int | None


def map_runs(runs: Sequence[Path], screen: float, names: Sequence[str] = (), out: Path | None = None) -> None:
    """Write space.png, space.csv and space.json, and print a table.

    Args:
        runs: run folders, or CSV files of molecules and scores.
        screen: score from which a molecule is good.
        names: one for each run; by default those of the folders or files.
        out: the folder to write to; by default `space` in the first run, or beside the first file.

    Raises:
        ConfigError: a file is missing, names do not fit the runs, or fewer than three molecules are good.
    """
    paths = [scored_file(run) for run in runs]
    names = list(names) or default_names(runs)
    if len(names) != len(runs) or len(set(names)) < len(names):
        raise ConfigError(f"--names: must be {len(runs)} different names, one for each run, got {','.join(names)}")
    found = [read_good(name, path, screen) for name, path in zip(names, paths, strict=True)]
    distinct = {smiles: bits for run in found for smiles, bits in zip(run.smiles, run.bits, strict=True)}
    if len(distinct) < 3:
        raise ConfigError(
            f"--screen: must be a score that at least 3 molecules of the runs reach, got {screen:g}, which "
            f"{len(distinct)} reach"
        )
    mean, axes, shares = principal_axes(np.stack(list(distinct.values())))
    places = [(run.bits - mean) @ axes for run in found]
    out = out or paths[0].parent / "space"
    make_folder(out)
    write_places(out / "space.csv", found, places)
    figures = {
        run.name: {"yield": len(run.smiles), "int_div1": run.int_div1, "circles": run.circles} for run in found
    }
    write_json(out / "space.json", {"screen": screen, "explained_variance": shares.tolist(), "runs": figures})
    methods = [run_method(run) or name for run, name in zip(runs, names, strict=True)]
    draw_places(out / "space.png", found, places, shares, screen, methods)
    console.print(yield_table(figures, screen))
    show_pictures([out / "space.png"])
    if all(run.is_dir() for run in runs):
        show_next([command("launch.collect", *runs, "--out", out / "collected")])
    else:
        show_next([command("chem.evaluate", path_override("file", path)) for path in paths[:2]])


def scored_file(run: Path) -> Path:
    """The table of molecules of a run folder, or the file itself.

    Raises:
        ConfigError: it is missing.
    """
    path = run / "molecules.csv" if run.is_dir() else run
    if not path.is_file():
        raise ConfigError(f"RUN: no file {path}; give the folder of a finished run of chem, or a CSV file")
    return path


def default_names(runs: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as are needed to make them different."""
    parts = [run.absolute().with_suffix("" if run.is_file() else run.suffix).parts for run in runs]
    for length in range(1, max(map(len, parts))):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("RUN: must be different runs, got one of them twice")


def read_good(name: str, path: Path, screen: float) -> GoodMolecules:
    """Read the good molecules of a CSV file."""
    molecules = collect_molecules(*read_scored_file(path, None, "score"))
    good = np.flatnonzero(molecules.good(screen))
    smiles = [molecules.smiles[row] for row in good]
    prints = fingerprints(smiles)
    bits = np.zeros((len(prints), BITS))
    for row, fingerprint in zip(bits, prints, strict=True):
        DataStructs.ConvertToNumpyArray(fingerprint, row)
    count = len(circles(prints)) if prints else None
    return GoodMolecules(name, smiles, molecules.score[good], bits, int_div1(prints), count)


def principal_axes(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First two principal components.

    Args:
        bits: [N, D], at least three rows.

    Returns:
        The mean [D], the axes [D, 2], whose largest entries are positive, and the shares of the variance along
        them [2].
    """
    mean = bits.mean(0)
    covariance = np.cov(bits.T, bias=True)
    last = len(covariance) - 1
    values, vectors = eigh(covariance, subset_by_index=[last - 1, last])  # in ascending order
    axes = vectors[:, ::-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return mean, axes, values[::-1] / max(np.trace(covariance), np.finfo(float).tiny)


def write_places(path: Path, runs: Sequence[GoodMolecules], places: Sequence[np.ndarray]) -> None:
    """Write a CSV with the coordinates of each good molecule."""
    with replacing(path) as file, file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["run", "smiles", "score", "pc1", "pc2"])
        for run, place in zip(runs, places, strict=True):
            for smiles, score, (x, y) in zip(run.smiles, run.score.tolist(), place.tolist(), strict=True):
                writer.writerow(map(csv_cell, [run.name, smiles, score, round(x, 4), round(y, 4)]))


def draw_places(
    path: Path,
    runs: Sequence[GoodMolecules],
    places: Sequence[np.ndarray],
    shares: np.ndarray,
    screen: float,
    methods: Sequence[str],
) -> None:
    """Draw a panel for each run.

    Args:
        path: the PNG file.
        runs: the good molecules of each.
        places: their coordinates, [N, 2] each.
        shares: of the variance along the two axes.
        screen: score from which a molecule is good.
        methods: of the runs, by which they have their colours.
    """
    columns = 2 if len(runs) == 4 else min(len(runs), MAX_COLUMNS)
    lines = -(-len(runs) // columns)
    figure, grid = panels(lines, columns, (4.4, 4.4 + 0.4 / lines), sharex=True, sharey=True)
    everything = np.concatenate(list(places))
    size = 5 if len(everything) > 500 else 8
    dots = {"marker": ".", "linestyle": "", "markeredgewidth": 0, "rasterized": True}
    for axes, run, place, style in zip(grid.flat, runs, places, styles(methods), strict=False):
        axes.plot(*everything.T, color=GREY, alpha=0.5, markersize=0.7 * size, **dots)
        axes.plot(*place.T, color=style.colour, alpha=0.6, markersize=size, **dots)
        name = run.name if len(run.name) <= NAME_WIDTH else f"...{run.name[3 - NAME_WIDTH :]}"
        values = f"IntDiv1 {format_number(run.int_div1)}, #Circles {format_number(run.circles)}"
        axes.set_title(f"{plain_label(name)}\n{len(run.smiles):,} molecules, {values}", fontsize="medium")
        axes.set(xlabel=f"PC 1 ({shares[0]:.1%} of the variance)", ylabel=f"PC 2 ({shares[1]:.1%} of the variance)")
        axes.label_outer()
    for axes in grid.flat[len(runs) :]:
        axes.axis("off")
    figure.suptitle(f"Morgan fingerprints of the molecules with a score of {screen:g} or more; grey: all runs")
    save_figure(figure, path)


def yield_table(figures: dict[str, dict[str, Any]], screen: float) -> FittedTable:
    """Table with one row per run."""
    table = FittedTable(f"Molecules with a score of {screen:g} or more")
    table.add_column("run", "label")
    for name in ("yield", "IntDiv1", "#Circles"):
        table.add_column(name)
    for name, row in figures.items():
        table.add_row(name, *map(format_number, row.values()))
    return table
