"""The objective: divergence, reward transform, beta schedule, and the options of each."""

from dataclasses import dataclass
from typing import Any

from conf.schema.base import ConfigError, Section, check_range, key, option
from conf.schema.equivalence import EQUIVALENCES, EquivalenceSection
from core.rules import ALGORITHMS, DIVERGENCE_PLACEMENTS, LEVELS, PLACEMENTS

DIVERGENCE_METRICS = tuple(f"kl/{direction}_nats" for direction in DIVERGENCE_PLACEMENTS)  # keys of metrics.jsonl


@dataclass
class ObjectiveConfig(Section):
    """E[R] - beta D(policy, reference) + entropy_coef H(policy)."""

    beta: float = key("weight of the divergence D between policy and reference, reward units per nat", low=0)
    direction: str = key(
        "D: reverse KL(policy || reference), forward KL(reference || policy), or another divergence",
        choices=tuple(DIVERGENCE_PLACEMENTS),
        import_path=True,
    )
    direction_options: dict[str, Any] = key("options of a divergence of your own (docs/extending.md)")
    level: str = key("sequence, as in the paper; token: another objective with another optimum", choices=LEVELS)
    placement: str = key(
        "where D stands: subtracted from the reward, a term of the loss, or on completions of the reference",
        choices=PLACEMENTS,
    )
    entropy_coef: float = key("weight of an entropy bonus, reward units per nat", low=0)
    alpha: float | None = key("of direction=alpha, neither 0 nor 1; null otherwise")
    max_log_weight: float | None = key(
        "cap on log(reference / policy) with direction=forward, nats; null: no cap", low=0
    )
    gamma: float = key("discount of the per-token return", above=0, high=1)
    length_normalised: bool = key("divide each completion's loss by its number of tokens")
    skip_tied_groups: bool = key("leave out groups whose raw rewards are all equal; else the KL term moves them")


@dataclass
class ThresholdConfig(Section):
    """What counts as good: a reward of `value`, or each group's `value`-quantile and at least `floor`."""

    kind: str = key(
        "constant: value is a reward; quantile: of each group's rewards", choices=("constant", "quantile")
    )
    value: float | None = key("rewards of at least this are good; null: nothing is")
    floor: float | None = key("with kind=quantile, no threshold below this reward; null: none")

    def check(self, prefix: str) -> None:
        if self.floor is not None and self.value is None:
            raise ConfigError(f"{prefix}floor: must be null without {prefix}value, got {self.floor}")
        if self.floor is not None and self.kind == "constant":
            raise ConfigError(f"{prefix}floor: only used with kind=quantile; set it to null, got {self.floor}")
        if self.value is not None and self.kind == "quantile":
            check_range(f"{prefix}value", self.value, low=0, high=1, note=" with kind=quantile")

    def options(self) -> dict[str, Any] | None:
        """Keyword arguments of `core.objective.make_threshold`; None where nothing is good."""
        return None if self.value is None else {"kind": self.kind, "value": self.value, "floor": self.floor}


def check_option_name(group: str, prefix: str, section: Any) -> None:
    """Raise ConfigError where `name` was changed alone, which does not bring the keys of another option."""
    expected = type(section).name
    if section.name != expected:
        raise ConfigError(
            f"{prefix}name: must be {expected} here, got {section.name}; choose another option with {group}=NAME"
        )


# --- reward transforms: an option each, its function in `core` ------------------------------------------------


@dataclass
class TransformConfig(Section):
    """A reward transform. The good samples that its threshold defines are counted with every transform."""

    name: str = key("set by transform=NAME")
    threshold: ThresholdConfig = key("what counts as good")

    def check(self, prefix: str) -> None:
        check_option_name("transform", prefix, self)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the transform beside `threshold`."""
        own = vars(self).keys() - vars_of(TransformConfig)
        return {name: value for name, value in vars(self).items() if name in own}


def vars_of(section: type) -> set[str]:
    return set(section.__dataclass_fields__)  # type: ignore[attr-defined]


@option("transform", "identity")
@dataclass
class IdentityConfig(TransformConfig):
    """Vanilla KL-regularised RL: rewards as they are."""

    name: str = "identity"


@option("transform", "mara")
@dataclass
class MaraConfig(TransformConfig):
    """Mode-anchored reward augmentation."""

    name: str = "mara"
    algorithm: str = key(
        "1 augments the reward, 2 anchors the reference; auto: 1 under reverse KL, 2 under forward",
        choices=ALGORITHMS,
    )


@option("transform", "unlikely")
@dataclass
class UnlikelyConfig(TransformConfig):
    """Good samples get reward * (1 - strength rank/G), the least likely having rank 0."""

    name: str = "unlikely"
    strength: float = key("share of the reward that the likeliest good sample of a group loses", low=0, high=1)


@option("transform", "differential_smoothing")
@dataclass
class DifferentialSmoothingConfig(TransformConfig):
    """-correct_coef log pi is added to the advantage of good samples, wrong_coef log pi to that of the others."""

    name: str = "differential_smoothing"
    correct_coef: float = key("good samples: advantage - correct_coef log pi, reward units per nat", low=0)
    wrong_coef: float = key("the others: advantage + wrong_coef log pi, reward units per nat", low=0)


@option("transform", "ucpo")
@dataclass
class UcpoConfig(TransformConfig):
    """Good samples that are rarer than the group's other good ones get a larger advantage."""

    name: str = "ucpo"
    coef: float = key("advantage + coef (-log q - H(q)), q the softmax of log pi over good samples", low=0)


@option("transform", "darling")
@dataclass
class DarlingConfig(TransformConfig, EquivalenceSection):
    """The reward times a completion's diversity within its group."""

    name: str = "darling"
    equivalence: str = key(
        "what counts as the same: the task's answer, or texts by one of llm.evaluate's equivalences",
        choices=("answer", *EQUIVALENCES),
    )

    def check(self, prefix: str) -> None:
        super().check(prefix)
        self.check_models(prefix, self.equivalence)

    def options(self) -> dict[str, Any]:
        return {}  # the diversity is computed where the completions are


@option("transform", "custom")
@dataclass
class CustomTransformConfig(TransformConfig):
    """A transform of your own, named by import path (docs/extending.md)."""

    name: str = "custom"
    function: str = key("package.module:name of a function, or of a dataclass whose instances are called")
    arguments: dict[str, Any] = key("its options")


# --- schedules of beta: an option each, its function in `core.schedules` ---------------------------------------


@dataclass
class BetaScheduleConfig(Section):
    name: str = key("set by beta_schedule=NAME")

    def check(self, prefix: str) -> None:
        check_option_name("beta_schedule", prefix, self)

    def options(self) -> dict[str, Any]:
        """The options of `core.schedules.make_schedule`."""
        return {name: value for name, value in vars(self).items() if name != "name"}


@option("beta_schedule", "constant")
@dataclass
class ConstantBetaConfig(BetaScheduleConfig):
    """beta stays at objective.beta."""

    name: str = "constant"


@option("beta_schedule", "adaptive")
@dataclass
class AdaptiveBetaConfig(BetaScheduleConfig):
    """beta starts at objective.beta and is steered towards a KL budget."""

    name: str = "adaptive"
    kl_target: float = key("nats; after each step beta *= 1 + .1 clip(KL / kl_target - 1, -.2, .2)", above=0)


@option("beta_schedule", "linear")
@dataclass
class LinearBetaConfig(BetaScheduleConfig):
    """beta goes from objective.beta at the first step to `final` at the last, in a line."""

    name: str = "linear"
    final: float = key("beta of the last step, reward units per nat", low=0)


@option("beta_schedule", "cosine")
@dataclass
class CosineBetaConfig(LinearBetaConfig):
    """As linear, along half a cosine."""

    name: str = "cosine"


@option("beta_schedule", "automatic")
@dataclass
class AutomaticBetaConfig(BetaScheduleConfig):
    """beta starts at objective.beta and is then a quantile of what makes pairs of good samples tie."""

    name: str = "automatic"
    quantile: float = key("over pairs of a group's good samples, of |dR| / |d log reference|", low=0, high=1)
    low: float = key("lower bound of beta, reward units per nat", above=0)
    high: float = key("upper bound of beta, reward units per nat", above=0)

    def check(self, prefix: str) -> None:
        super().check(prefix)
        check_range(f"{prefix}high", self.high, low=self.low, note=f" ({prefix}low)")
