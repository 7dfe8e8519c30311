"""Report of a run: summary.json, a table and a figure."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conf.schema.didactic import DidacticConfig
from core import stats
from didactic.families import Policies
from didactic.figures import draw_figure
from didactic.outcomes import Outcome, gaussian_fits, mode_switches
from didactic.problems import Problem
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.run import Run

MAX_LISTED_OUTCOMES = 10  # policies over more outcomes are not listed in summary.json


def report_run(
    run: Run,
    config: DidacticConfig,
    problem: Problem,
    outcomes: Sequence[Outcome],
    policies: Policies,
    beta_history: Sequence[Sequence[float]],
) -> None:
    """Write summary.json and figure.png, and print the table."""
    summary: dict[str, Any] = {
        "gradient": config.gradient,
        "problem": problem.name,
        "steps": config.steps,
        "cells": [summarise(outcome) for outcome in outcomes],
    }
    if problem.name == "two_bumps":
        summary["switch"] = mode_switches(outcomes)
    if problem.name == "bimodal":
        summary["gaussian"] = gaussian_fits(outcomes, policies)
    run.finish(summary)
    title = f"{problem.name}, {config.gradient} gradient"
    console.print(cell_table(title, [("", cell) for cell in summary["cells"]]))
    for direction, switch in summary.get("switch", {}).items():
        console.print(switch_text(direction, switch))
    for name, fit in summary.get("gaussian", {}).items():
        console.print(
            f"{name} Gaussian: mean {fit['mean']:.4f}, std {fit['std']:.4f}; the nearest minimum by quadrature has "
            f"mean {fit['minimiser']['mean']:.4f}, std {fit['minimiser']['std']:.4f}"
        )
    draw_figure(problem, outcomes, beta_history, run.folder / "figure.png")


def switch_text(direction: str, switch: dict[str, Any]) -> str:
    """A line about the beta at which the favoured mode switches; see `mode_switches`."""
    predicted, seen = switch["predicted"], switch["seen"]
    exact = "at an unknown beta" if predicted is None else f"at beta {predicted:.4f} (exact)"
    trained = "do not switch exactly once" if seen is None else f"switch between {seen[0]:g} and {seen[1]:g}"
    return f"{direction}: the favoured mode switches {exact}; the trained policies {trained}"


def summarise(outcome: Outcome) -> dict[str, Any]:
    """Numbers of one cell: of the trained policy, of its target (`exact_`), and in `base` of the reference."""
    cell, policy, target = outcome.cell, outcome.policy, outcome.target
    problem = cell.problem
    shares = [float(policy[mode].sum()) for mode in problem.modes]
    row: dict[str, Any] = {
        **cell.axes,
        "beta_final": outcome.beta,
        "reward": float((policy * problem.reward).sum()),
        "kl_nats": float(cell.divergence(outcome.logp)),
        "entropy_nats": float(stats.entropy(policy)),
        "mode_shares": shares,
    }
    if len(policy) <= MAX_LISTED_OUTCOMES:
        row["policy"] = policy.tolist()
    if target is not None:
        row["exact_mode_shares"] = [float(target[mode].sum()) for mode in problem.modes]
        row["total_variation"] = float(stats.total_variation(policy, target))
        if len(policy) <= MAX_LISTED_OUTCOMES:
            row["exact_policy"] = target.tolist()
    reference = problem.ref_logp.exp()
    row["base"] = {
        "reward": float((reference * problem.reward).sum()),
        "entropy_nats": float(stats.entropy(reference)),
    }
    good = cell.good()
    if good is not None and bool(good.any()):
        row["good_share"] = float(policy[good].sum())
        row["coefficient_of_variation"] = float(stats.coefficient_of_variation(policy[good]))
        row["coverage"] = float(stats.mode_coverage(policy[good]))
        if target is not None:
            row["exact_coefficient_of_variation"] = float(stats.coefficient_of_variation(target[good]))
    return row


LEGEND = (
    "mode shares: probability of each mode, exact: at the optimum; variation over good: coefficient of variation of "
    "the good outcomes' probabilities; TV: total variation distance"
)


def cell_table(title: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> FittedTable:
    """Table with one row per cell: its settings, the trained policy and its exact target.

    Args:
        title: title of the table.
        rows: (name of the run, numbers of the cell) pairs; the names are shown if there are any.
    """
    cells = [cell for _, cell in rows]
    axes = [
        axis
        for axis in ("family", "direction", "transform", "beta_schedule", "beta", "start")
        if axis in ("direction", "transform", "beta") or len({cell[axis] for cell in cells}) > 1
    ]
    if any(cell["beta_final"] != cell["beta"] for cell in cells):
        axes.append("beta_final")
    table = FittedTable(title, LEGEND)
    has_names = any(name for name, _ in rows)
    if has_names:
        table.add_column("run", "label")
    for axis in axes:
        table.add_column(axis.replace("_", " "), "label")
    for column in ("reward", "KL, nats", "mode shares", "exact", "variation over good", "TV from exact"):
        table.add_column(column)
    for name, row in rows:
        values = [f"{row[axis]:.3g}" if isinstance(row[axis], float) else row[axis] for axis in axes]
        numbers = [f"{row['reward']:.3f}", f"{row['kl_nats']:.3f}"]
        shares = [_shares(row.get(key)) for key in ("mode_shares", "exact_mode_shares")]
        distances = [_number(row.get(key)) for key in ("coefficient_of_variation", "total_variation")]
        table.add_row(*([name] if has_names else []), *values, *numbers, *shares, *distances)
    return table


def report_sweep(folders: Sequence[Path], sweep: Path) -> None:
    """Print one table with the cells of all runs of a sweep, named by the run folders. `sweep` gets no files."""
    rows = []
    for run in folders:
        rows += [(run.name, cell) for cell in json.loads((run / "summary.json").read_text())["cells"]]
    console.print(cell_table(f"sweep, {len(folders)} runs", rows))


def _shares(values: Sequence[float] | None) -> str:
    return "-" if values is None else " ".join(f"{value:.3f}" for value in values)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
