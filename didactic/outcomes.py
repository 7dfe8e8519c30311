"""Trained policies of a grid, compared with their exact optima."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from core.targets import forward_crossover_beta, reverse_crossover_beta
from didactic.cells import Cell
from didactic.families import Gaussian, Policies
from didactic.gaussian import minimisers, target_moments


@dataclass(frozen=True)
class Outcome:
    """A cell after training.

    Attributes:
        cell: the cell.
        logp: [A] log-probabilities of its policy.
        beta: beta after the last step.
    """

    cell: Cell
    logp: Tensor
    beta: float

    @property
    def policy(self) -> Tensor:
        """[A] probabilities of the trained policy."""
        return self.logp.exp()

    @property
    def target(self) -> Tensor | None:
        """[A] probabilities of the exact optimum, or None."""
        return self.cell.target(self.beta)


def mode_switches(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """The beta at which the favoured mode switches, by direction; only for cells without a transform.

    Returns:
        For each direction `predicted`, the exact beta, or None if there is no formula; and `seen`, the betas of the
        two trained policies between which the mode switches, or None unless it switches exactly once.
    """
    switches = {}
    outcomes = [o for o in outcomes if o.cell.config.transform.name == "identity" and o.cell.objective.has_target]
    for direction in dict.fromkeys(outcome.cell.objective.direction for outcome in outcomes):
        by_beta = [o for o in outcomes if o.cell.objective.direction == direction]
        by_beta.sort(key=lambda outcome: outcome.beta)
        problem = by_beta[0].cell.problem
        a, b = (mode.start for mode in problem.modes)
        ref, reward = problem.ref_logp, problem.reward
        predicted = None
        if direction == "reverse":
            predicted = float(reverse_crossover_beta(ref[a], ref[b], reward[a], reward[b]))
        elif direction == "forward" and not by_beta[0].cell.objective.entropy_coef:
            predicted = float(forward_crossover_beta(ref, reward, a, b))
        favours_b = [bool(outcome.logp[b] > outcome.logp[a]) for outcome in by_beta]
        pairs = zip(pairwise(by_beta), pairwise(favours_b), strict=True)
        seen = [[lower.beta, upper.beta] for (lower, upper), (before, after) in pairs if before != after]
        switches[direction] = {"predicted": predicted, "seen": seen[0] if len(seen) == 1 else None}
    return switches


def gaussian_fits(outcomes: Sequence[Outcome], policies: Policies) -> dict[str, dict[str, Any]]:
    """Mean and standard deviation of each trained Gaussian, and the nearest minimum found by quadrature."""
    rows = policies.rows.get("gaussian", [])
    if not rows:
        return {}
    family = policies.parts["gaussian"]
    assert isinstance(family, Gaussian)
    fits: dict[str, dict[str, Any]] = {}
    for index, row in enumerate(rows):
        cell = outcomes[row].cell
        direction = cell.objective.direction
        if (
            direction not in ("reverse", "forward")
            or cell.config.transform.name != "identity"
            or not cell.objective.has_target
            or not outcomes[row].beta
        ):
            continue  # the quadrature has no formula for it
        mean, std = family.mean[index].item(), family.log_std[index].exp().item()
        entropy_weight = cell.objective.entropy_coef / outcomes[row].beta
        minima = minimisers(direction, entropy_weight)
        nearest = min(minima, key=lambda m: math.hypot(m["mean"] - mean, m["std"] - std))
        name = cell.label or direction
        fits[name] = {"mean": mean, "std": std, "minimiser": nearest, "all_minima": minima}
        if direction == "forward" and not entropy_weight:
            fits[name]["moments"] = target_moments()
    return fits
