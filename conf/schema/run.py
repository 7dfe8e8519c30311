"""The keys of every run (seed, optimiser, engine, checkpoints), and of every run of KL-regularised RL."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from conf.schema.base import ConfigError, Section, check_config, check_range, key
from conf.schema.objective import (
    BetaScheduleConfig,
    DiversityConfig,
    DraConfig,
    LinearBetaConfig,
    MaraConfig,
    ObjectiveConfig,
    TransformConfig,
)
from core.rules import ADVANTAGES, Choices, first_violation

Built = TypeVar("Built")

ENGINES = ("torch", "zero1", "zero2", "zero3", "zero3_offload")
LOGGERS = ("tensorboard", "wandb")
CONFIG_KEYS = {  # the key of a field of `core.rules.Choices`, where it differs from the field's name
    **{name: f"objective.{name}" for name in ("direction", "level", "placement", "alpha", "max_log_weight", "beta")},
    **{name: f"objective.{name}" for name in ("entropy_coef", "gamma", "length_normalised", "skip_tied_groups")},
    **{name: f"transform.{name}" for name in ("algorithm", "mass", "anchor")},
    "classes": "transform.level",
    **{name: f"objective.{name}" for name in ("reward_range", "kl_samples", "token_mean")},
    "threshold": "transform.threshold.value",
    "final_beta": "beta_schedule.final",
}


@dataclass
class OptimizerConfig(Section):
    """AdamW and its learning-rate schedule."""

    lr: float = key("learning rate of AdamW", above=0)
    weight_decay: float = key("weight decay of AdamW", low=0)
    beta1: float = key("decay rate of AdamW's first moment", low=0, below=1)
    beta2: float = key("decay rate of AdamW's second moment", low=0, below=1)
    warmup_steps: int = key("updates of linear learning-rate warm-up", low=0, high=10**9)
    decay: str = key("learning-rate schedule after the warm-up", choices=("constant", "linear", "cosine"))
    max_grad_norm: float | None = key("clip gradients to this norm; null: no clipping", above=0)


@dataclass
class EngineConfig(Section):
    """How the model is trained: in plain PyTorch, with DeepSpeed, or with an engine of your own."""

    name: str = key("set by engine=NAME", choices=ENGINES, import_path=True)


@dataclass
class CheckpointConfig(Section):
    """When to save the complete state of a run, and which checkpoints to keep."""

    every_seconds: float = key(
        "seconds between checkpoints; one is also saved at the end and when a signal stops the run", low=0, high=10**9
    )
    every_steps: int | None = key("steps between checkpoints; null: only every_seconds applies", low=1)
    keep: int = key("number of latest checkpoints to keep; 0: save none", low=0, high=10**6)
    best: str | None = key("a metric in metrics.jsonl; the checkpoint with its best value is kept, too; null: none")
    best_mode: str = key(
        "max: the largest value of checkpoint.best is the best; min: the smallest", choices=("max", "min")
    )


@dataclass
class JobConfig(Section):
    """The keys of all commands, including those that do not train."""

    seed: int = key("seed from which all random streams are derived", low=0, high=math.inf)
    threads: int | None = key(
        "CPU threads of torch; null: torch's default. The results depend on this number", low=1, high=1024
    )
    resume: str = key(
        "auto: continue the run in the folder if there is one, otherwise start one; must: only continue, from its "
        "newest checkpoint; never: only start",
        choices=("auto", "must", "never"),
    )

    def __post_init__(self) -> None:
        check_config(self)


@dataclass
class TrainingConfig(JobConfig):
    """The keys of all commands that train."""

    optimizer: OptimizerConfig = key("AdamW and its learning-rate schedule")
    engine: EngineConfig = key("how the model is trained")
    checkpoint: CheckpointConfig = key("when to save, and which checkpoints to keep")
    loggers: list[str] = key("where to log metrics besides metrics.jsonl", choices=LOGGERS)


@dataclass
class RunConfig(TrainingConfig):
    """The keys of the packages' runs of KL-regularised RL.

    Attributes:
        samples_reference: whether the package can sample completions from the reference.
        equivalences: the values of `transform.equivalence` that the package supports.
        splits_weights: whether the package gathers weights that ZeRO 3 has split before it samples.
        config_keys: the key of a field of `core.rules.Choices`, where it differs from the field's name.
    """

    samples_reference: ClassVar[bool] = False
    splits_weights: ClassVar[bool] = False
    config_keys: ClassVar[dict[str, str]] = CONFIG_KEYS
    equivalences: ClassVar[tuple[str, ...]] = ("answer",)

    steps: int = key("training steps", low=1, high=10**9)
    objective: ObjectiveConfig = key("E[R] - beta D(policy, reference) + entropy_coef H(policy)")
    transform: TransformConfig = key("how rewards are changed before the KL term is applied")
    advantage: str = key(
        "leave_one_out (RLOO), centred (GRPO without its std), group_normalised (divided by the std), "
        "group_normalised_sample_std (that of n - 1: GRPO), mean_normalised (by the mean: MaxRL), "
        "batch_normalised (by mean and std of all groups: REINFORCE++), no_baseline (REINFORCE), "
        "max_at_k (best-of-k training), pass_at_k, or package.module:name",
        choices=ADVANTAGES,
        import_path=True,
    )
    advantage_options: dict[str, Any] = key("options of an advantage of your own (docs/extending.md)")
    advantage_k: int | None = key("k of advantage=pass_at_k and max_at_k; with max_at_k, null is the group size")
    beta_schedule: BetaScheduleConfig = key("how beta changes over the run")

    def check(self, prefix: str) -> None:
        """Check what the package supports, and the rules of `core.rules`."""
        transform = self.transform
        if isinstance(transform, (DiversityConfig, MaraConfig)) and transform.equivalence not in self.equivalences:
            raise ConfigError(
                f"transform.equivalence: must be {' or '.join(self.equivalences)} in this package, got "
                f"{transform.equivalence}"
            )
        if isinstance(transform, DraConfig) and not {"classes", *self.equivalences} >= {transform.similarity}:
            raise ConfigError(
                f"transform.similarity: must be classes in this package, which embeds no text, got "
                f"{transform.similarity}"
            )
        if self.engine.name.startswith("zero3") and not self.splits_weights:
            raise ConfigError(
                f"engine: must not split the weights in this package, got {self.engine.name}; use zero1 or zero2"
            )
        if self.objective.placement == "reference" and not self.samples_reference:
            raise ConfigError(
                "objective.placement: must be reward or loss in this package, which does not sample completions from "
                "the reference, got reference"
            )
        violation = first_violation(self.choices())
        if violation is not None:
            raise ConfigError(f"{self.config_keys.get(violation.key, violation.key)}: {violation.text}")

    def choices(self) -> Choices:
        """Return the choices that the rules of `core.rules` are about."""
        schedule, transform = self.beta_schedule, self.transform
        return Choices(
            **{name: getattr(self.objective, name) for name in OBJECTIVE_CHOICES},
            transform=transform.name,
            algorithm=getattr(transform, "algorithm", "auto"),
            classes=getattr(transform, "level", "sequence"),
            mass=getattr(transform, "mass", "remembered"),
            anchor=getattr(transform, "anchor", "auto"),
            threshold=transform.threshold.value is not None,
            advantage=self.advantage,
            advantage_k=self.advantage_k,
            beta_schedule=schedule.name,
            final_beta=schedule.final if isinstance(schedule, LinearBetaConfig) else None,
            kl_samples=self.objective.measured_on,
        )

    def check_group_size(self, name: str, size: int) -> None:
        """Raise ConfigError if a group is too small for the advantage."""
        low = 1 if self.advantage == "no_baseline" else 2
        if self.advantage_k is not None and self.advantage_k > low:
            check_range(name, size, low=self.advantage_k, note=" (advantage_k)")
        check_range(name, size, low=low, note=f" with advantage={self.advantage}")
        choices = self.choices()
        if choices.mara and choices.mara_anchor == "cross_fitted" and (size % 2 or size < 2 * low):
            raise ConfigError(
                f"{name}: must be even and >= {2 * low} with transform.anchor=cross_fitted, whose halves have "
                f"baselines of their own, got {size}"
            )

    def build_objective(self, make: Callable[..., Built]) -> Built:
        """`make(**self.objective_arguments())`, `make` being `core.objective.make_objective`.

        Raises:
            ConfigError: a part cannot be found, or its options do not fit; names the configuration's key.
        """
        try:
            return make(**self.objective_arguments())
        except ValueError as error:
            name, colon, text = str(error).partition(": ")
            raise ConfigError(f"{self.config_keys.get(name, name)}{colon}{text}") from error

    def objective_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `core.objective.make_objective`."""
        objective, transform = self.objective, self.transform
        import_path = getattr(transform, "function", None)
        return {
            "transform": import_path or transform.name,
            "transform_options": getattr(transform, "arguments", None) if import_path else transform.options(),
            "threshold": transform.threshold.options(),
            "advantage": self.advantage,
            "advantage_options": self.advantage_options,
            "advantage_k": self.advantage_k,
            "direction": objective.direction,
            "direction_options": objective.direction_options,
            "level": objective.level,
            "placement": objective.placement,
            "entropy_coef": objective.entropy_coef,
            "alpha": objective.alpha,
            "max_log_weight": objective.max_log_weight,
            "reward_range": objective.reward_range,
            "gamma": objective.gamma,
            "length_normalised": objective.length_normalised,
            "skip_tied_groups": objective.skip_tied_groups,
            "token_mean": objective.token_mean,
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
    "token_mean",
)
