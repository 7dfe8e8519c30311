"""Metrics of a CSV file of molecules and scores: read it, compute the metrics, print and draw them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chem.figures import draw_molecules
from chem.files import file_hash, find_file
from chem.metrics import ScoredMolecules, collect_molecules, run_metrics, yield_curve
from chem.molecule_files import (
    Molecules,
    canonical_smiles,
    distinct_molecules,
    format_counts,
    read_molecule_file,
    read_molecules,
)
from chem.report import format_number, screen_table
from conf.schema.base import ConfigError
from conf.schema.chem import ChemEvaluateConfig
from launch.analysis.figures import draw_line, integer_ticks, panels, save_figure
from launch.analysis.palette import BLUE, GREY, Style, shade
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.run import Run


def evaluate_file(config: ChemEvaluateConfig, run: Run) -> None:
    """Write summary.json, figure.png and molecules.png for a CSV file, and print its tables."""
    path = find_file("file", config.file)
    smiles, scores = read_scored_file(path, config.smiles_column, config.score_column)
    counts = distinct_molecules(smiles, canonical_smiles).counts
    run.info(f"{path.name}: {format_counts(counts)}")
    molecules = collect_molecules(smiles, scores)
    known = read_known(config, run)
    row = run_metrics(molecules, config.screens, known and set(known.smiles), config.circle_distance)
    files = {"file_counts": counts} | ({"known": known.counts} if known else {})
    run.finish({**row, "file": path.name, "sha256": file_hash(path), **files})
    console.print(overall_table(row))
    console.print(screen_table([(path.name, row)], config.screens))
    draw_yield(run.folder / "figure.png", molecules, config.screens)
    scored = [n for n, score in enumerate(molecules.score) if not math.isnan(score)]
    order = sorted(scored, key=lambda n: -molecules.score[n])
    if order:
        best = [{"smiles": molecules.smiles[n], "score": float(molecules.score[n])} for n in order[: config.shown]]
        draw_molecules(run.folder / "molecules.png", best)


def read_known(config: ChemEvaluateConfig, run: Run) -> Molecules | None:
    """The molecules of `known`, None without it.

    Raises:
        ConfigError: there is no molecule in the file.
    """
    if config.known is None:
        return None
    molecules = read_molecules(
        "known", find_file("known", config.known), config.known_smiles_column, column_key="known_smiles_column"
    )
    run.info(f"known: {format_counts(molecules.counts)}")
    return molecules


def read_scored_file(
    path: Path, smiles_column: str | None, score_column: str
) -> tuple[list[str], list[float | None]]:
    """Read SMILES, unchanged, and scores; an empty score means that the oracle gave none.

    Raises:
        ConfigError: a column is missing, or a score is not a finite number; the message has its line.
    """
    table = read_molecule_file("file", path, smiles_column, {"score_column": score_column})
    scores = [
        parse_score(text, f"{path.name}, line {line}")
        for text, line in zip(table.columns[score_column], table.lines, strict=True)
    ]
    return table.smiles, scores


def parse_score(text: str, place: str) -> float | None:
    """The score in a cell, None if it is empty.

    Args:
        text: content of the cell.
        place: file and line, for the error message.

    Raises:
        ConfigError: not a finite number.
    """
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"score_column: scores must be finite numbers or empty, got {text} ({place})")
    return value


def overall_table(row: Mapping[str, Any]) -> FittedTable:
    """Table of the metrics that do not depend on a screen."""
    names = ("generated", "calls", "unscored", "validity", "uniqueness", "novelty", "scaffolds")
    table = FittedTable("All molecules")
    for name in names:
        table.add_column(name)
    table.add_row(*(format_number(row[name]) for name in names))
    return table


def draw_yield(path: Path, molecules: ScoredMolecules, screens: Sequence[float]) -> None:
    """Draw the number of good molecules and the scores over the oracle calls."""
    figure, grid = panels(1, 2, (4.6, 3.5))
    left, right = grid[0]
    calls = range(1, len(molecules.smiles) + 1)
    for number, screen in enumerate(screens):
        style = Style(shade(BLUE, number, len(screens)), "-", "o")
        draw_line(left, calls, yield_curve(molecules.good(screen)), style, f"{screen:g}")
    left.set(xlabel="oracle calls", title="molecules with a score at or above the screen")
    left.legend(title="screen")
    right.plot(calls, molecules.score, ".", color=GREY, markersize=3, markeredgewidth=0, rasterized=True)
    right.set(xlabel="oracle calls", title="score of each molecule")
    for axes in (left, right):
        integer_ticks(axes)
    save_figure(figure, path)
