"""python -m didactic: policies over a few outcomes, trained side by side."""

from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from conf.schema.base import ConfigError, Section, key, option, show
from conf.schema.objective import (
    AdaptiveBetaConfig,
    BetaScheduleConfig,
    ConstantBetaConfig,
    IdentityConfig,
    MaraConfig,
    ObjectiveConfig,
    TransformConfig,
)
from conf.schema.run import RunConfig
from core.rules import DIVERGENCE_PLACEMENTS

PROBLEMS = ("table", "plateaus", "two_bumps", "bimodal")
FAMILIES = ("categorical", "gaussian")
STARTS = ("uniform", "reference")
SAMPLED_ONLY: dict[str, Any] = {  # keys about sampling, with the value that they keep with gradient=exact
    "objective.placement": "reward",
    "objective.max_log_weight": None,
    "objective.skip_tied_groups": False,
    "advantage": "leave_one_out",
}


@dataclass
class ProblemConfig(Section):
    """Outcomes with a reference and a reward: `table` takes both lists, the others are in `didactic.problems`."""

    name: str = key("outcomes with a reference and a reward", choices=PROBLEMS)
    ref: list[float] | None = key("of problem.name=table: the reference's probabilities", default=None, low=0)
    reward: list[float] | None = key("of problem.name=table: one reward per outcome", default=None)

    def check(self, prefix: str) -> None:
        if self.name != "table":
            if self.ref is not None or self.reward is not None:
                raise ConfigError(f"{prefix}name: must be table with {prefix}ref or {prefix}reward, got {self.name}")
            return
        if not self.ref or not self.reward or len(self.ref) != len(self.reward):
            raise ConfigError(
                f"{prefix}reward: must be a list as long as {prefix}ref, got {show(self.reward)} and {show(self.ref)}"
            )
        if not abs(sum(self.ref) - 1) <= 1e-6:
            raise ConfigError(f"{prefix}ref: must be probabilities that sum to 1, got {self.ref}")


@dataclass
class DidacticObjectiveConfig(ObjectiveConfig):
    """`beta` and `direction` are one value or a list of values; each cell of the grid checks its own."""

    beta: Any = key("weight of the divergence D between policy and reference, reward units per nat; or a list")
    direction: Any = key("D; or a list", choices=tuple(DIVERGENCE_PLACEMENTS), import_path=True)

    def check(self, prefix: str) -> None:
        alone = "(a completion is one token)"
        if self.level != "sequence":
            raise ConfigError(f"{prefix}level: must be sequence {alone}, got {self.level}")
        if self.gamma != 1:
            raise ConfigError(f"{prefix}gamma: must be 1 {alone}, got {self.gamma}")
        if self.length_normalised:
            raise ConfigError(f"{prefix}length_normalised: must be false {alone}, got true")


@option("transform", "both")
@dataclass
class BothTransformsConfig(MaraConfig):
    """identity and mara, side by side."""

    name: str = "both"


@option("beta_schedule", "both")
@dataclass
class BothSchedulesConfig(AdaptiveBetaConfig):
    """constant and adaptive, side by side."""

    name: str = "both"


@dataclass
class CellConfig(RunConfig):
    """One policy of the grid: what another package would call a run."""

    family: str = key("of the policy", choices=FAMILIES)
    start: str = key("the policy before the first step", choices=STARTS)


@dataclass
class DidacticConfig(RunConfig):
    """Policies over a few outcomes, trained side by side.

    `objective.direction`, `objective.beta`, `family` and `start` are one value or a list of values; `transform` and
    `beta_schedule` may be `both`. All combinations are cells of the grid.
    """

    objective: DidacticObjectiveConfig = key("E[R] - beta D(policy, reference) + entropy_coef H(policy)")
    problem: ProblemConfig = key("outcomes with a reference and a reward")
    family: Any = key("categorical: a logit per outcome; gaussian: a mean and a standard deviation; or a list")
    start: Any = key("the policy before the first step: uniform or reference; or a list")
    gradient: str = key(
        "exact: over all outcomes; sampled: estimated as for language models", choices=("exact", "sampled")
    )
    samples: int = key("with gradient=sampled, draws from the policy at each step")
    log_every: int = key("steps between lines of metrics.jsonl", low=1)

    def check(self, prefix: str) -> None:
        self.check_group_size("samples", self.samples)
        if self.gradient == "exact":
            self._check_exact()
        cells = self.cells()
        if self.optimizer.max_grad_norm is not None and len(cells) > 1:
            raise ConfigError(
                f"optimizer.max_grad_norm: must be null with several cells, which share one gradient norm, got "
                f"{self.optimizer.max_grad_norm}"
            )
        directions = {cell.objective.direction for cell in cells}
        if directions != {"forward"} and min(self.problem.ref or [1.0]) == 0:
            raise ConfigError(
                "problem.ref: must be > 0 everywhere unless direction=forward (a softmax policy gives every outcome "
                f"some probability, so the divergence would be infinite), got {self.problem.ref}"
            )

    def cells(self) -> list[CellConfig]:
        """Every combination, each checked like a run."""
        shared = {f.name: getattr(self, f.name) for f in fields(RunConfig)}
        objective = {f.name: getattr(self.objective, f.name) for f in fields(ObjectiveConfig)}
        grid = product(
            one_or_more("family", self.family, str),
            one_or_more("objective.direction", self.objective.direction, str),
            self._transforms(),
            self._beta_schedules(),
            one_or_more("objective.beta", self.objective.beta, float),
            one_or_more("start", self.start, str),
        )
        return [
            CellConfig(
                **shared
                | {
                    "objective": ObjectiveConfig(**objective | {"beta": beta, "direction": direction}),
                    "transform": transform,
                    "beta_schedule": schedule,
                    "family": family,
                    "start": start,
                }
            )
            for family, direction, transform, schedule, beta, start in grid
        ]

    def _transforms(self) -> list[TransformConfig]:
        if isinstance(self.transform, BothTransformsConfig):
            threshold = self.transform.threshold
            return [
                IdentityConfig(threshold=threshold),
                MaraConfig(threshold=threshold, algorithm=self.transform.algorithm),
            ]
        return [self.transform]

    def _beta_schedules(self) -> list[BetaScheduleConfig]:
        if isinstance(self.beta_schedule, BothSchedulesConfig):
            return [ConstantBetaConfig(), AdaptiveBetaConfig(kl_target=self.beta_schedule.kl_target)]
        return [self.beta_schedule]

    def _check_exact(self) -> None:
        """Reject sampling-only options with gradient=exact."""
        if not isinstance(self.transform, IdentityConfig | MaraConfig):
            raise ConfigError(
                f"transform: must be identity or mara with gradient=exact (the others act on samples; use "
                f"gradient=sampled), got {self.transform.name}"
            )
        for name, kept in SAMPLED_ONLY.items():
            section, _, last = name.rpartition(".")
            value = getattr(getattr(self, section) if section else self, last)
            if value != kept:
                raise ConfigError(
                    f"{name}: only used with gradient=sampled; leave it at {show(kept)}, got {show(value)}"
                )


def one_or_more(name: str, value: Any, kind: type[str] | type[float]) -> list[Any]:
    """The value or the list of values of an axis of the grid, as a list of texts or numbers."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{name}: must be a value or a list of values, got []")
    for item in values:
        if kind is float and (isinstance(item, bool) or not isinstance(item, int | float)):
            raise ConfigError(f"{name}: must be a number or a list of numbers, got {show(item)}")
    values = [kind(item) for item in values]
    if len(set(values)) < len(values):
        raise ConfigError(f"{name}: must not repeat a value, got {value}")
    return values
