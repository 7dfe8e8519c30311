"""What every run has: seed, optimiser, engine, checkpoints; and what every run of KL-regularised RL has."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from conf.schema.base import ConfigError, Section, check_config, check_range, key
from conf.schema.objective import (
    BetaScheduleConfig,
    DarlingConfig,
    LinearBetaConfig,
    ObjectiveConfig,
    TransformConfig,
)
from core.rules import ADVANTAGES, Choices, first_violation

Built = TypeVar("Built")

ENGINES = ("torch", "zero1", "zero2", "zero3", "zero3_offload")
LOGGERS = ("tensorboard", "wandb")
CONFIG_KEYS = {  # of a field of `core.rules.Choices`, where it is not its own name
    **{name: f"objective.{name}" for name in ("direction", "level", "placement", "alpha", "max_log_weight", "beta")},
    **{name: f"objective.{name}" for name in ("entropy_coef", "gamma", "length_normalised", "skip_tied_groups")},
    "algorithm": "transform.algorithm",
    "threshold": "transform.threshold.value",
    "final_beta": "beta_schedule.final",
}


@dataclass
class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    lr: float = key("AdamW's learning rate", above=0)
    weight_decay: float = key("AdamW's weight decay", low=0)
    beta1: float = key("decay of AdamW's first moment", low=0, below=1)
    beta2: float = key("decay of AdamW's second moment", low=0, below=1)
    warmup_steps: int = key("updates of linear warm-up", low=0)
    decay: str = key("of the learning rate after the warm-up", choices=("constant", "linear", "cosine"))
    max_grad_norm: float | None = key("gradients are clipped to this norm; null: no clipping", above=0)


@dataclass
class EngineConfig(Section):
    """What steps the optimiser."""

    name: str = key("set by engine=NAME", choices=ENGINES, import_path=True)


@dataclass
class CheckpointConfig(Section):
    """When to save all that the next step needs, and what to keep; always at the end, and on a signal to stop."""

    every_seconds: float = key("seconds between checkpoints; one is always saved at the end and on a signal", low=0)
    every_steps: int | None = key("steps between checkpoints; null: every_seconds alone decides", low=1)
    keep: int = key("how many of the latest checkpoints to keep; 0: save none", low=0)
    best: str | None = key("a key of metrics.jsonl: the checkpoint with its best value is kept as well")
    best_mode: str = key("whether the best value is the largest or the smallest", choices=("max", "min"))


@dataclass
class JobConfig(Section):
    """What every command's run has, also one without training steps."""

    seed: int = key("the one seed that every random stream is derived from", low=0)
    threads: int | None = key("of torch on the CPU; null: torch's own choice. Results depend on their number", low=1)
    resume: str = key(
        "auto: continue the run that the folder holds, or start one; must: only continue; never: only start",
        choices=("auto", "must", "never"),
    )

    def __post_init__(self) -> None:
        check_config(self)


@dataclass
class TrainingConfig(JobConfig):
    """What every run that trains has."""

    optimizer: OptimizerConfig = key("AdamW and its learning-rate schedule")
    engine: EngineConfig = key("what steps the optimiser")
    checkpoint: CheckpointConfig = key("when to save, and what to keep")
    loggers: list[str] = key("where metrics go beside metrics.jsonl", choices=LOGGERS)


@dataclass
class RunConfig(TrainingConfig):
    """What every package's run of KL-regularised RL has.

    samples_reference: whether the package can sample completions from the reference.
    compares_texts: whether the package can compare completions by text, and not by the task's answer alone.
    """

    samples_reference: ClassVar[bool] = False
    compares_texts: ClassVar[bool] = False

    steps: int = key("training steps", low=1)
    objective: ObjectiveConfig = key("E[R] - beta D(policy, reference) + entropy_coef H(policy)")
    transform: TransformConfig = key("what a method does to rewards before the KL term")
    advantage: str = key(
        "leave_one_out (RLOO), centred (no std), group_normalised (GRPO), no_baseline, max_at_k, pass_at_k",
        choices=ADVANTAGES,
        import_path=True,
    )
    advantage_options: dict[str, Any] = key("options of an advantage of your own (docs/extending.md)")
    advantage_k: int | None = key(
        "k of pass_at_k, and of max_at_k (best-of-N training), where null is the whole group"
    )
    beta_schedule: BetaScheduleConfig = key("how beta changes over the run")

    def check(self, prefix: str) -> None:
        transform = self.transform
        if isinstance(transform, DarlingConfig) and not self.compares_texts and transform.equivalence != "answer":
            raise ConfigError(f"transform.equivalence: must be answer in this package, got {transform.equivalence}")
        if self.objective.placement == "reference" and not self.samples_reference:
            raise ConfigError(
                "objective.placement: must be reward or loss in this package, which samples no completions from the "
                "reference, got reference"
            )
        violation = first_violation(self.choices())
        if violation is not None:
            raise ConfigError(f"{CONFIG_KEYS.get(violation.key, violation.key)}: {violation.text}")

    def choices(self) -> Choices:
        """What `core.rules` decides on."""
        schedule, transform = self.beta_schedule, self.transform
        return Choices(
            **{name: getattr(self.objective, name) for name in OBJECTIVE_CHOICES},
            transform=transform.name,
            algorithm=getattr(transform, "algorithm", "auto"),
            threshold=transform.threshold.value is not None,
            advantage=self.advantage,
            advantage_k=self.advantage_k,
            beta_schedule=schedule.name,
            final_beta=schedule.final if isinstance(schedule, LinearBetaConfig) else None,
        )

    def check_group_size(self, name: str, size: int) -> None:
        """Raise ConfigError where a group is too small for the advantage."""
        low = 1 if self.advantage == "no_baseline" else 2
        if self.advantage_k is not None and self.advantage_k > low:
            check_range(name, size, low=self.advantage_k, note=" (advantage_k)")
        check_range(name, size, low=low)

    def build_objective(self, make: Callable[..., Built]) -> Built:
        """`make(**self.objective_arguments())`, `make` being `core.objective.make_objective`.

        Raises:
            ConfigError: a part cannot be found, or its options do not fit; names the configuration's key.
        """
        try:
            return make(**self.objective_arguments())
        except ValueError as error:
            name, colon, text = str(error).partition(": ")
            raise ConfigError(f"{CONFIG_KEYS.get(name, name)}{colon}{text}") from error

    def objective_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `core.objective.make_objective`."""
        o, transform = self.objective, self.transform
        custom = getattr(transform, "function", None)
        return {
            "transform": custom or transform.name,
            "transform_options": getattr(transform, "arguments", None) if custom else transform.options(),
            "threshold": transform.threshold.options(),
            "advantage": self.advantage,
            "advantage_options": self.advantage_options,
            "advantage_k": self.advantage_k,
            "direction": o.direction,
            "direction_options": o.direction_options,
            "level": o.level,
            "placement": o.placement,
            "entropy_coef": o.entropy_coef,
            "alpha": o.alpha,
            "max_log_weight": math.inf if o.max_log_weight is None else o.max_log_weight,
            "gamma": o.gamma,
            "length_normalised": o.length_normalised,
            "skip_tied_groups": o.skip_tied_groups,
        }


OBJECTIVE_CHOICES = (
    "direction",
    "level",
    "placement",
    "alpha",
    "max_log_weight",
    "beta",
    "entropy_coef",
    "gamma",
    "length_normalised",
    "skip_tied_groups",
)
