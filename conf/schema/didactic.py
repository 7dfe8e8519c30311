"""python -m didactic: policies over a few outcomes, trained side by side as the cells of a grid."""

from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from conf.schema.base import ConfigError, Section, key, option, yaml_text
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
from core.rules import AUTO, DIVERGENCE_PLACEMENTS

PROBLEMS = ("table", "plateaus", "two_bumps", "bimodal")
FAMILIES = ("categorical", "gaussian")
STARTS = ("uniform", "reference")
SAMPLED_ONLY: dict[str, Any] = {  # keys that only sampling uses, with the value they must have with gradient=exact
    "objective.placement": "reward",
    "objective.max_log_weight": AUTO,
    "objective.skip_tied_groups": False,
    "advantage": "leave_one_out",
}


@dataclass
class ProblemConfig(Section):
    """Outcomes with a reference and a reward; except for `table`, they are defined in `didactic.problems`."""

    name: str = key("outcomes with a reference and a reward", choices=PROBLEMS)
    ref: list[float] | None = key("with problem.name=table, the reference's probabilities", default=None, low=0)
    reward: list[float] | None = key("with problem.name=table, one reward per outcome", default=None)

    def check(self, prefix: str) -> None:
        """Check that a table, and only a table, has both lists, and that the probabilities sum to 1."""
        if self.name != "table":
            if self.ref is not None or self.reward is not None:
                raise ConfigError(f"{prefix}name: must be table with {prefix}ref or {prefix}reward, got {self.name}")
            return
        if not self.ref or not self.reward or len(self.ref) != len(self.reward):
            raise ConfigError(
                f"{prefix}reward: must be a list as long as {prefix}ref, got {yaml_text(self.reward)} and "
                f"{yaml_text(self.ref)}"
            )
        if not abs(sum(self.ref) - 1) <= 1e-6:
            raise ConfigError(f"{prefix}ref: must be probabilities that sum to 1, got {self.ref}")


@dataclass
class DidacticObjectiveConfig(ObjectiveConfig):
    """The objective, where `beta` and `direction` may be lists; each cell of the grid checks its own values."""

    beta: Any = key("coefficient of the divergence D between policy and reference, reward units per nat; or a list")
    direction: Any = key("D; or a list", choices=tuple(DIVERGENCE_PLACEMENTS), import_path=True)

    def check(self, prefix: str) -> None:
        """Check that no key is about the tokens of a completion, or about measuring what is known exactly."""
        super().check(prefix)
        if self.kl_samples is not None:
            raise ConfigError(
                f"{prefix}kl_samples: must be null in this package, where the divergence is computed exactly, got "
                f"{self.kl_samples}"
            )
        one_token = "in this package, where a completion is one token"
        if self.level != "sequence":
            raise ConfigError(f"{prefix}level: must be sequence {one_token}, got {self.level}")
        if self.gamma != 1:
            raise ConfigError(f"{prefix}gamma: must be 1 {one_token}, got {self.gamma}")
        if self.length_normalised:
            raise ConfigError(f"{prefix}length_normalised: must be false {one_token}, got true")


@option("transform", "both")
@dataclass
class BothTransformsConfig(MaraConfig):
    """Train with identity and with mara, side by side."""

    name: str = "both"


@option("beta_schedule", "both")
@dataclass
class BothSchedulesConfig(AdaptiveBetaConfig):
    """Train with a constant and with an adaptive beta, side by side."""

    name: str = "both"


@dataclass
class CellConfig(RunConfig):
    """One policy of the grid, configured like a run of another package."""

    family: str = key("family of policies", choices=FAMILIES)
    start: str = key("policy before the first step", choices=STARTS)


@dataclass
class DidacticConfig(RunConfig):
    """Policies over a few outcomes, trained side by side.

    `objective.direction`, `objective.beta`, `family` and `start` may be lists; `transform` and `beta_schedule` may be
    `both`. Every combination of their values is a cell of the grid.
    """

    objective: DidacticObjectiveConfig = key("E[R] - beta D(policy, reference) + entropy_coef H(policy)")
    problem: ProblemConfig = key("outcomes with a reference and a reward")
    family: Any = key(
        "family of policies: categorical (one logit per outcome) or gaussian (mean and standard deviation); or a list"
    )
    start: Any = key("policy before the first step: uniform or reference; or a list")
    gradient: str = key(
        "exact: computed over all outcomes; sampled: estimated from samples, as for language models",
        choices=("exact", "sampled"),
    )
    samples: int = key("with gradient=sampled, number of samples per step", high=10**6)
    log_every: int = key("steps between lines of metrics.jsonl", low=1)

    def check(self, prefix: str) -> None:
        """Check every cell, and the keys that cells share."""
        self.check_group_size("samples", self.samples)
        level = getattr(self.transform, "level", "sequence")
        if level != "sequence":
            raise ConfigError(
                f"transform.level: must be sequence in this package, whose outcomes are answers, got {level}"
            )
        if self.gradient == "exact":
            self._check_exact()
        cells = self.cells()
        if self.optimizer.max_grad_norm is not None and len(cells) > 1:
            raise ConfigError(
                f"optimizer.max_grad_norm: must be null with several cells, whose gradients share one norm, got "
                f"{self.optimizer.max_grad_norm}"
            )
        directions = {cell.objective.direction for cell in cells}
        if directions != {"forward"} and min(self.problem.ref or [1.0]) == 0:
            raise ConfigError(
                "problem.ref: must be > 0 everywhere unless direction=forward, because a policy gives every outcome "
                f"some probability and the divergence would be infinite, got {self.problem.ref}"
            )

    def cells(self) -> list[CellConfig]:
        """Return a configuration for each cell of the grid, checked like that of a run."""
        shared = {field.name: getattr(self, field.name) for field in fields(RunConfig)}
        objective = {field.name: getattr(self.objective, field.name) for field in fields(ObjectiveConfig)}
        grid = product(
            _axis("family", self.family, str),
            _axis("objective.direction", self.objective.direction, str),
            self._transforms(),
            self._beta_schedules(),
            _axis("objective.beta", self.objective.beta, float),
            _axis("start", self.start, str),
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
            values = {name: value for name, value in vars(self.transform).items() if name != "name"}
            shared = {field.name: values[field.name] for field in fields(TransformConfig) if field.name != "name"}
            return [IdentityConfig(**shared), MaraConfig(**values)]
        return [self.transform]

    def _beta_schedules(self) -> list[BetaScheduleConfig]:
        if isinstance(self.beta_schedule, BothSchedulesConfig):
            return [ConstantBetaConfig(), AdaptiveBetaConfig(kl_target=self.beta_schedule.kl_target)]
        return [self.beta_schedule]

    def _check_exact(self) -> None:
        """Reject options that only sampling uses with gradient=exact."""
        if not isinstance(self.transform, IdentityConfig | MaraConfig):
            raise ConfigError(
                f"transform: must be identity or mara with gradient=exact, because the others need samples; use "
                f"gradient=sampled, got {self.transform.name}"
            )
        for name, default in SAMPLED_ONLY.items():
            section, _, last = name.rpartition(".")
            value = getattr(getattr(self, section) if section else self, last)
            if value != default:
                raise ConfigError(
                    f"{name}: is only used with gradient=sampled; set it to {yaml_text(default)}, got "
                    f"{yaml_text(value)}"
                )


def _axis(name: str, value: Any, kind: type[str] | type[float]) -> list[Any]:
    """Return the values of an axis of the grid, given one value or a list of them, as a list of texts or numbers."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{name}: must be a value or a list of values, got []")
    for item in values:
        if kind is float and (isinstance(item, bool) or not isinstance(item, int | float)):
            raise ConfigError(f"{name}: must be a number or a list of numbers, got {yaml_text(item)}")
    values = [kind(item) for item in values]
    if len(set(values)) < len(values):
        raise ConfigError(f"{name}: must not repeat a value, got {value}")
    return values
