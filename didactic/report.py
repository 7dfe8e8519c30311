"""What a run ends with: summary.json, a table and a picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from conf.schema.didactic import DidacticConfig
from core import stats
from didactic.families import Policies
from didactic.figures import draw
from didactic.outcomes import Outcome, gaussians, switches
from didactic.problems import Problem
from launch.runs.console import console
from launch.runs.run import Run

SHOWN_OUTCOMES = 10  # policies over at most as many are written out


def report_run(
    run: Run,
    config: DidacticConfig,
    problem: Problem,
    outcomes: Sequence[Outcome],
    policies: Policies,
    beta_history: Sequence[Sequence[float]],
) -> None:
    """summary.json, the closing table and figure.png."""
    summary: dict[str, Any] = {
        "gradient": config.gradient,
        "problem": problem.name,
        "steps": config.steps,
        "cells": [summarise(outcome) for outcome in outcomes],
    }
    if problem.name == "two_bumps":
        summary["switch"] = switches(outcomes)
    if problem.name == "bimodal":
        summary["gaussian"] = gaussians(outcomes, policies)
    run.finish(summary)
    title = f"{problem.name}, {config.gradient} gradient"
    console.print(cell_table(title, [("", cell) for cell in summary["cells"]]))
    for direction, switch in summary.get("switch", {}).items():
        seen = (
            "not seen" if switch["seen"] is None else f"seen between {switch['seen'][0]:g} and {switch['seen'][1]:g}"
        )
        exact = "no formula" if switch["predicted"] is None else f"{switch['predicted']:.4f} (exact)"
        console.print(f"{direction}: the favoured mode switches at beta {exact}, {seen}")
    for name, fit in summary.get("gaussian", {}).items():
        console.print(
            f"{name} Gaussian: mean {fit['mean']:.4f}, std {fit['std']:.4f}; nearest minimum by quadrature "
            f"{fit['minimiser']['mean']:.4f}, {fit['minimiser']['std']:.4f}"
        )
    draw(problem, outcomes, beta_history, run.folder / "figure.png")


def summarise(outcome: Outcome) -> dict[str, Any]:
    """One cell in numbers; shares and entropies of the trained policy, and `exact_` ones of its target."""
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
    if len(policy) <= SHOWN_OUTCOMES:
        row["policy"] = policy.tolist()
    if target is not None:
        row["exact_mode_shares"] = [float(target[mode].sum()) for mode in problem.modes]
        row["total_variation"] = float(stats.total_variation(policy, target))
        if len(policy) <= SHOWN_OUTCOMES:
            row["exact_policy"] = target.tolist()
    good = cell.good()
    if good is not None and bool(good.any()):
        row["good_share"] = float(policy[good].sum())
        row["coefficient_of_variation"] = float(stats.coefficient_of_variation(policy[good]))
        row["coverage"] = float(stats.mode_coverage(policy[good]))
        if target is not None:
            row["exact_coefficient_of_variation"] = float(stats.coefficient_of_variation(target[good]))
    return row


def cell_table(title: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    """One row a cell: its settings, and the trained policy beside its exact target."""
    cells = [cell for _, cell in rows]
    axes = [
        axis
        for axis in ("family", "direction", "transform", "beta_schedule", "beta", "start")
        if axis in ("direction", "transform", "beta") or len({cell[axis] for cell in cells}) > 1
    ]
    if any(cell["beta_final"] != cell["beta"] for cell in cells):
        axes.append("beta_final")
    table = Table(title=title, title_justify="left")
    named = any(name for name, _ in rows)
    if named:
        table.add_column("run")
    for axis in axes:
        table.add_column(axis.replace("_", " "))
    for column in ("reward", "KL, nats", "mode shares", "exact", "variation over good", "TV to exact"):
        table.add_column(column, justify="right")
    for name, row in rows:
        values = [f"{row[axis]:.3g}" if isinstance(row[axis], float) else row[axis] for axis in axes]
        numbers = [f"{row['reward']:.3f}", f"{row['kl_nats']:.3f}"]
        shares = [_shares(row.get(key)) for key in ("mode_shares", "exact_mode_shares")]
        last = [_number(row.get(key)) for key in ("coefficient_of_variation", "total_variation")]
        table.add_row(*([name] if named else []), *values, *numbers, *shares, *last)
    return table


def report_sweep(runs: Sequence[Path]) -> None:
    """One table over all cells of all runs of a sweep, by the names of the run folders."""
    rows = []
    for run in runs:
        rows += [(run.name, cell) for cell in json.loads((run / "summary.json").read_text())["cells"]]
    console.print(cell_table(f"sweep, {len(runs)} runs", rows))


def _shares(values: Sequence[float] | None) -> str:
    return "-" if values is None else " ".join(f"{value:.3f}" for value in values)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
