"""A file of molecules and scores: read it, measure it, show it."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.table import Table

from chem.files import file_hash, find_file
from chem.metrics import ScoredMolecules, collect_molecules, metrics, yield_curve
from chem.oracles.synthesis.inventory import read_stock
from chem.report import draw_molecules, screen_table, shown
from conf.schema.base import ConfigError
from conf.schema.chem import ChemEvaluateConfig
from launch.runs.console import console
from launch.runs.run import Run


def evaluate_file(config: ChemEvaluateConfig, run: Run) -> None:
    """summary.json, the table, figure.png and molecules.png of a CSV file."""
    path = find_file("file", config.file)
    found = collect_molecules(*read_molecules(path, config.smiles_column, config.score_column))
    known = None if config.known is None else read_stock(find_file("known", config.known))
    row = metrics(found, config.screens, known, config.circle_distance)
    run.finish({**row, "file": path.name, "sha256": file_hash(path)})
    console.print(overall_table(row))
    console.print(screen_table([(path.name, row)], config.screens))
    draw_yield(run.folder / "figure.png", found, config.screens)
    scored = [n for n, score in enumerate(found.score) if not math.isnan(score)]
    order = sorted(scored, key=lambda n: -found.score[n])
    if order:
        best = [{"smiles": found.smiles[n], "score": float(found.score[n])} for n in order[: config.shown]]
        draw_molecules(run.folder / "molecules.png", best)
    run.info(f"pictures: {run.folder / 'figure.png'}" + (f", {run.folder / 'molecules.png'}" if order else ""))


def read_molecules(path: Path, smiles_column: str, score_column: str) -> tuple[list[str], list[float | None]]:
    """SMILES as they stand there, and scores; an empty score is one that the oracle did not give.

    Raises ConfigError, with the line, where a column is missing or a score is no finite number.
    """
    smiles, scores = [], []
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        for key, column in (("smiles_column", smiles_column), ("score_column", score_column)):
            if column not in (reader.fieldnames or []):
                columns = ", ".join(reader.fieldnames or []) or "none"
                raise ConfigError(f"{key}: must be a column of {path.name} ({columns}), got {column}")
        for row in reader:
            smiles.append(row[smiles_column] or "")
            scores.append(score_of(row[score_column], f"{path.name}, line {reader.line_num}"))
    return smiles, scores


def score_of(text: str | None, where: str) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"score_column: must hold finite numbers or nothing, got {text} ({where})")
    return value


def overall_table(row: Mapping[str, Any]) -> Table:
    names = ("generated", "calls", "unscored", "validity", "uniqueness", "novelty", "scaffolds")
    table = Table(title="All molecules", title_justify="left")
    for name in names:
        table.add_column(name, justify="right")
    table.add_row(*(shown(row[name]) for name in names))
    return table


def draw_yield(path: Path, found: ScoredMolecules, screens: Sequence[float]) -> None:
    """Good molecules over the oracle's calls, and the scores as they came."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    calls = range(1, len(found.smiles) + 1)
    for screen in screens:
        left.plot(calls, yield_curve(found.good(screen)), linewidth=1.2, label=f"{screen:g}")
    left.set(xlabel="oracle calls", title="molecules at or over the screen")
    left.legend(frameon=False, fontsize="small", title="screen")
    right.plot(calls, found.score, ".", markersize=2)
    right.set(xlabel="oracle calls", title="score")
    figure.savefig(path, dpi=130)
    plt.close(figure)
