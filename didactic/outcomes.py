"""What a grid ended with: trained policies beside their exact optima."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from core.targets import forward_crossover_beta, reverse_crossover_beta
from didactic.cells import Cell
from didactic.families import Gaussian, Policies
from didactic.gaussian import minimisers, moments


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
