"""A cell of a grid: one policy, its objective and its exact optimum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from conf.schema.didactic import CellConfig, DidacticConfig
from core import stats
from core.classes import GroupFacts, Masses
from core.mara import Anchor, group_anchor, reference_quantile, select_anchor
from core.objective import Objective, make_objective
from core.schedules import StepStatistics, make_schedule, run_progress
from core.targets import forward_kl_target, reverse_kl_target
from core.transforms import Transformed, class_diversity
from didactic.problems import Problem


@dataclass(frozen=True)
class Cell:
    """One policy and its objective on a problem.

    Attributes:
        config: settings of the cell.
        problem: the bandit.
        objective: what the policy maximises.
        axes: settings that a grid can vary, by name.
        varied: names of those that its grid varies.
    """

    config: CellConfig
    problem: Problem
    objective: Objective
    axes: dict[str, str | float]
    varied: tuple[str, ...]

    @property
    def label(self) -> str:
        """The varied settings, e.g. `reverse/mara/beta=0.1`."""
        values = ((name, self.axes[name]) for name in self.varied)
        return "/".join(f"{name}={value:g}" if isinstance(value, float) else value for name, value in values)

    def start_logp(self) -> Tensor:
        """[A] log-probabilities of the policy before the first step."""
        ref = self.problem.ref_logp
        return ref if self.config.start == "reference" else torch.zeros_like(ref).log_softmax(-1)

    def transformed(self, beta: float) -> Transformed:
        """Reward and reference after the transform, with all outcomes as one group."""
        reward, ref_logp = self.problem.reward, self.problem.ref_logp
        inputs: dict[str, Any] = {"masses": Masses(None, None)} if "masses" in self.objective.transform_inputs else {}
        return self.objective.apply_transform(reward, ref_logp, beta=beta, **inputs)

    def masses(self, facts: GroupFacts) -> Masses:
        """The anchor over all outcomes, which is the one that a run would end up remembering."""
        good = self.good()
        assert good is not None
        anchor = group_anchor(self.problem.reward, self.problem.ref_logp, good)
        return Masses(None, Anchor(*(value.expand(facts.reward.shape) for value in anchor)))

    def target(self, beta: float) -> Tensor | None:
        """[A] probabilities of the optimum over all distributions; None if it has no closed form."""
        if not self.objective.has_target:
            return None
        reward, ref_logp = self.transformed(beta)
        direction, entropy_coef = self.objective.direction, self.objective.entropy_coef
        if direction == "reverse" and beta + entropy_coef > 0:
            return reverse_kl_target(ref_logp, reward, beta, entropy_coef).exp()
        if direction == "forward" and entropy_coef == 0:
            target = forward_kl_target(ref_logp, reward, beta)
            cap = self.objective.max_log_weight
            if isinstance(cap, float) and bool((ref_logp - target > cap).any()):
                return None  # the cap moves the optimum
            return target.exp()
        return None

    def good(self) -> Tensor | None:
        """[A] bool, True for outcomes whose reward reaches the threshold; None without a threshold."""
        if self.objective.threshold is None:
            return None
        reward, ref_logp = self.problem.reward, self.problem.ref_logp
        return select_anchor(reward, ref_logp, self.objective.threshold(reward, None))[1]

    def divergence(self, logp: Tensor) -> Tensor:
        """Divergence of policies from the problem's own reference: [..., A] -> [...], nats."""
        return self.objective.exact_divergence(logp, self.problem.ref_logp)

    def metrics(self, logp: Tensor, beta: float) -> dict[str, Tensor]:
        """Exact metrics of a policy with log-probabilities [A]; the names are those of `Objective.loss`."""
        policy = logp.exp()
        metrics = {"reward/raw": (policy * self.problem.reward).sum()}
        if self.objective.is_expected_reward:
            metrics["reward/augmented"] = (policy * self.transformed(beta).reward).sum()
        metrics |= {
            self.objective.divergence_metric: self.divergence(logp),
            "policy/entropy_nats": stats.entropy(policy),
        }
        good = self.good()
        if good is not None:
            metrics["mara/good_share"] = policy[good].sum()
        return metrics

    def next_beta(self, beta: float, divergence: float, step: int) -> float:
        """Beta for the step after `step`.

        Args:
            beta: beta at `step`.
            divergence: divergence of the policy at `step`, nats.
            step: from 0.
        """
        settings = self.config.beta_schedule
        schedule = make_schedule(settings.name, self.config.objective.beta, settings.options())
        progress = run_progress(step + 1, self.config.steps)
        statistics = StepStatistics(progress, divergence, self.problem.reward, self.problem.ref_logp, self.good())
        return schedule(beta, statistics)


def make_cells(config: DidacticConfig, problem: Problem) -> list[Cell]:
    """The grid of a configuration."""
    configs = config.cells()
    axes = [_axes(cell) for cell in configs]
    varied = tuple(name for name in axes[0] if len({cell_axes[name] for cell_axes in axes}) > 1)
    return [
        Cell(cell, problem, _make_objective(cell, problem), cell_axes, varied)
        for cell, cell_axes in zip(configs, axes, strict=True)
    ]


def _make_objective(cell: CellConfig, problem: Problem) -> Objective:
    objective, threshold = cell.build_objective(make_objective), cell.transform.threshold
    if threshold.kind != "reference_quantile" or threshold.value is None:
        return objective
    exact = reference_quantile(problem.reward, problem.ref_logp, threshold.value, threshold.floor)
    return objective.with_thresholds(exact)


def exact_loss(cells: Sequence[Cell], logp: Tensor, betas: Sequence[float]) -> Tensor:
    """Minus the objective of each cell, E_pi[R'] - beta D(pi, ref') + entropy_coef H(pi): [C, A] -> [C].

    R' and ref' are the outputs of the transform, with all outcomes as one group.
    """
    transformed = [cell.transformed(beta) for cell, beta in zip(cells, betas, strict=True)]
    reward, ref_logp = (torch.stack(part) for part in zip(*transformed, strict=True))
    policy = logp.exp()
    beta = torch.tensor(betas, dtype=logp.dtype)
    loss = -(policy * reward).sum(-1)
    for direction in dict.fromkeys(cell.objective.direction for cell in cells):
        rows = [i for i, cell in enumerate(cells) if cell.objective.direction == direction]
        objective = cells[rows[0]].objective
        divergence = objective.exact_divergence(logp[rows], ref_logp[rows])
        loss = loss.index_add(0, torch.tensor(rows), beta[rows] * divergence)
    entropy_coef = cells[0].objective.entropy_coef  # one value for the grid
    return loss + entropy_coef * (policy * logp).sum(-1) if entropy_coef else loss


def sampled_loss(cell: Cell, logp: Tensor, beta: float, uniforms: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one group of G sampled outcomes, each treated as a completion of one token.

    Args:
        cell: its objective is estimated.
        logp: [A] log-probabilities of the policy, with gradient.
        beta: reward units per nat.
        uniforms: [G] in [0, 1), one for each sample.

    Returns:
        Loss and metrics, as in `Objective.loss`.
    """
    outcomes = sample_outcomes(logp.detach().exp(), uniforms)
    problem = cell.problem
    diversity = class_diversity(outcomes).to(logp.dtype).unsqueeze(0)
    return cell.objective.loss(
        problem.reward[outcomes].unsqueeze(0),
        logp[outcomes].reshape(1, -1, 1),
        problem.ref_logp[outcomes].reshape(1, -1, 1),
        torch.ones(1, len(outcomes), 1, dtype=torch.bool),
        beta=beta,
        diversity=diversity,
        masses=cell.masses,
    )


def sample_outcomes(probability: Tensor, uniforms: Tensor) -> Tensor:
    """Sample by inverting the cumulative distribution: probability [A], uniforms [G] in [0, 1) -> [G] indices."""
    cumulative = probability.cumsum(-1)
    return torch.searchsorted(cumulative, uniforms * cumulative[-1], right=True)


def _axes(cell: CellConfig) -> dict[str, str | float]:
    return {
        "family": cell.family,
        "direction": cell.objective.direction,
        "transform": cell.transform.name,
        "beta_schedule": cell.beta_schedule.name,
        "beta": cell.objective.beta,
        "start": cell.start,
    }
