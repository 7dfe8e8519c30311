"""What a run ends with: summary.json, a table and a picture."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from conf.schema.didactic import DidacticConfig
from core import stats
from core.targets import forward_crossover_beta, reverse_crossover_beta
from didactic.cells import Cell
from didactic.families import Gaussian, Policies
from didactic.problems import Problem
from launch.runs.console import console
from launch.runs.run import Run

SHOWN_OUTCOMES = 10  # policies over at most as many are written out


@dataclass(frozen=True)
class Outcome:
    """A cell at the end: logp [A] of its policy, and the beta then in force."""

    cell: Cell
    logp: Tensor
    beta: float

    @property
    def policy(self) -> Tensor:
        return self.logp.exp()

    @property
    def target(self) -> Tensor | None:
        return self.cell.target(self.beta)


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
    from didactic.figures import draw  # matplotlib takes a second to load

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


def switches(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """For each direction, the beta at which the two modes tie: exactly, and between which trained policies.

    Of vanilla cells; MARA has no switch. None where no formula or no single change of sides is known.
    """
    found = {}
    outcomes = [o for o in outcomes if o.cell.config.transform.name == "identity" and o.cell.objective.has_target]
    for direction in dict.fromkeys(outcome.cell.objective.direction for outcome in outcomes):
        some = [o for o in outcomes if o.cell.objective.direction == direction]
        some.sort(key=lambda outcome: outcome.beta)
        problem = some[0].cell.problem
        a, b = (mode.start for mode in problem.modes)
        ref, reward = problem.ref_logp, problem.reward
        predicted = None
        if direction == "reverse":
            predicted = float(reverse_crossover_beta(ref[a], ref[b], reward[a], reward[b]))
        elif direction == "forward" and not some[0].cell.objective.entropy_coef:
            predicted = float(forward_crossover_beta(ref, reward, a, b))
        favours_b = [bool(o.logp[b] > o.logp[a]) for o in some]
        seen = [[some[i].beta, some[i + 1].beta] for i in range(len(some) - 1) if favours_b[i] != favours_b[i + 1]]
        found[direction] = {"predicted": predicted, "seen": seen[0] if len(seen) == 1 else None}
    return found


def gaussians(outcomes: Sequence[Outcome], policies: Policies) -> dict[str, dict[str, Any]]:
    """Where each Gaussian ended, and the minimum found by quadrature that is nearest to it."""
    from didactic.gaussian import minimisers, moments

    rows = policies.rows.get("gaussian", [])
    if not rows:
        return {}
    family = policies.parts["gaussian"]
    assert isinstance(family, Gaussian)
    found = {}
    for place, row in enumerate(rows):
        cell = outcomes[row].cell
        direction = cell.objective.direction
        if (
            direction not in ("reverse", "forward")
            or cell.config.transform.name != "identity"
            or not cell.objective.has_target
            or not outcomes[row].beta
        ):
            continue  # the quadrature knows these alone
        mean, std = family.mean[place].item(), family.log_std[place].exp().item()
        weight = cell.objective.entropy_coef / outcomes[row].beta
        minima = minimisers(direction, weight)
        nearest = min(minima, key=lambda m: math.hypot(m["mean"] - mean, m["std"] - std))
        name = cell.label or direction
        found[name] = {"mean": mean, "std": std, "minimiser": nearest, "all_minima": minima}
        if direction == "forward" and not weight:
            found[name]["moments"] = moments()
    return found


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
