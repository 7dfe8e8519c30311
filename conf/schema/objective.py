"""The objective: divergence, reward transforms and beta schedules, with the options of each."""

from dataclasses import dataclass, fields
from typing import Any

from conf.schema.base import ConfigError, Section, check_range, key, option, yaml_text
from conf.schema.equivalence import EQUIVALENCES, EquivalenceSection
from core.rules import (
    ALGORITHMS,
    ANCHORS,
    AUTO,
    BY_ANSWER_COUNT,
    CLASSES,
    DIVERGENCE_PLACEMENTS,
    LEVELS,
    MASSES,
    MEAN,
    PLACEMENTS,
)

KL_SAMPLES = 32  # of objective.kl_samples=null
DIVERGENCE_METRICS = (  # keys of metrics.jsonl, those that can be trusted at any distance from the reference
    "kl/reverse_nats",
    *(f"kl/{direction}_from_reference_nats" for direction in DIVERGENCE_PLACEMENTS if direction != "reverse"),
)


@dataclass
class ObjectiveConfig(Section):
    """E[R] - beta D(policy, reference) + entropy_coef H(policy)."""

    beta: float = key("coefficient of the divergence D between policy and reference, reward units per nat", low=0)
    direction: str = key(
        "D: reverse KL(policy || reference), forward KL(reference || policy), or another divergence",
        choices=tuple(DIVERGENCE_PLACEMENTS),
        import_path=True,
    )
    direction_options: dict[str, Any] = key("options of a divergence of your own (docs/extending.md)")
    level: str = key(
        "sequence: D of whole completions, as in the paper; reward_to_go: the same reverse KL as a return of "
        "per-token "
        "terms; token: each token sees its own term alone, which has another optimum",
        choices=LEVELS,
    )
    placement: str = key(
        "reward: subtract D from the reward; loss: add it to the loss; reference: add it to the loss, estimated from "
        "completions of the reference",
        choices=PLACEMENTS,
    )
    entropy_coef: float = key("coefficient of an entropy bonus, reward units per nat", low=0)
    alpha: float | None = key("with direction=alpha, the order of the divergence, neither 0 nor 1; otherwise null")
    max_log_weight: Any = key(
        "with direction=forward or alpha, a cap on the log of the weights, log(reference / policy) or (alpha - 1) "
        "log(policy / reference), nats; auto: a cap that leaves the optimum where it is; null: no cap, which is "
        "dangerous over sequences, where a weight can be any power of e",
        low=0,
    )
    reward_range: float = key("highest minus lowest reward, reward units, for max_log_weight=auto", above=0)
    kl_samples: int | None = key(
        "completions of the reference, sampled once, on which the divergence is measured at each step; null: 32, or "
        "0 where training's own completions are enough (direction=reverse, or forward with placement=reference)",
        low=0,
        high=10**7,
    )
    gamma: float = key("discount of the return per token; 1: no discount", above=0, high=1)
    length_normalised: bool = key("divide each completion's loss by its number of tokens")
    token_mean: bool = key(
        "divide the loss by the mean number of tokens of the batch's completions: the mean over all tokens (DAPO)"
    )
    skip_tied_groups: bool = key("leave out groups whose raw rewards are all equal; otherwise the KL term moves them")

    @property
    def measured_on(self) -> int:
        """Completions of the reference on which the divergence is measured; 0: none."""
        if self.kl_samples is not None:
            return self.kl_samples
        measured = self.direction == "reverse" or (self.direction, self.placement) == ("forward", "reference")
        return 0 if measured else KL_SAMPLES

    def check(self, prefix: str) -> None:
        """Check the one key that is a number or a text."""
        cap = self.max_log_weight
        if cap is not None and cap != AUTO and (isinstance(cap, bool) or not isinstance(cap, int | float)):
            raise ConfigError(f"{prefix}max_log_weight: must be auto, a number or null, got {yaml_text(cap)}")


@dataclass
class ThresholdConfig(Section):
    """Which samples are good: rewards of at least `value`, or of at least a group's quantile and `floor`."""

    kind: str = key(
        "constant: value is a reward; reference_quantile: value is a quantile of the rewards of the reference's "
        "completions, taken once for each prompt; quantile: of each group's own rewards, which follows the policy",
        choices=("constant", "reference_quantile", "quantile"),
    )
    value: float | None = key(
        "lowest good reward or, with a quantile, the quantile, in [0, 1]; null: no sample is good"
    )
    floor: float | None = key("with a quantile, a lower bound of the threshold; null: no bound")

    def check(self, prefix: str) -> None:
        """Check that a floor comes with a quantile, and that a quantile lies in [0, 1]."""
        if self.floor is not None and self.value is None:
            raise ConfigError(f"{prefix}floor: must be null without {prefix}value, got {self.floor}")
        if self.floor is not None and self.kind == "constant":
            raise ConfigError(
                f"{prefix}floor: is only used with kind=quantile or reference_quantile; set it to null, got "
                f"{self.floor}"
            )
        if self.value is not None and self.kind != "constant":
            check_range(f"{prefix}value", self.value, low=0, high=1, note=f" with kind={self.kind}")

    def options(self) -> dict[str, Any] | None:
        """Return the keyword arguments of `core.objective.make_threshold`; None if no sample is good."""
        return None if self.value is None else {"kind": self.kind, "value": self.value, "floor": self.floor}


def _check_option_name(group: str, prefix: str, section: Any) -> None:
    """Raise ConfigError if only `name` was changed, since the keys of the other option are then missing."""
    expected = type(section).name
    if section.name != expected:
        raise ConfigError(
            f"{prefix}name: must be {expected} here, got {section.name}; choose another option with {group}=NAME"
        )


# --- reward transforms: one option each; the functions are in `core` ------------------------------------------


@dataclass
class TransformConfig(Section):
    """A reward transform. Every transform has a threshold, because the share of good samples is always logged."""

    name: str = key("set by transform=NAME")
    threshold: ThresholdConfig = key("which samples are good")
    reference_samples: int = key(
        "completions of the reference for each prompt, sampled once, with threshold.kind=reference_quantile or "
        "mass=reference",
        low=1,
        high=10**6,
    )

    def check(self, prefix: str) -> None:
        """Check that the name is that of the option."""
        _check_option_name("transform", prefix, self)

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of the transform, without the threshold."""
        shared = {field.name for field in fields(TransformConfig)}
        return {name: value for name, value in vars(self).items() if name not in shared}


@option("transform", "identity")
@dataclass
class IdentityConfig(TransformConfig):
    """Plain KL-regularised RL: the rewards are not changed."""

    name: str = "identity"


@option("transform", "mara")
@dataclass
class MaraConfig(TransformConfig, EquivalenceSection):
    """Mode-anchored reward augmentation (MARA)."""

    name: str = "mara"
    algorithm: str = key(
        "1 augments the reward, 2 anchors the reference; auto: 1 under reverse KL, otherwise 2",
        choices=ALGORITHMS,
    )
    level: str = key(
        "what becomes equally likely: each good sequence, as in the paper, or each good answer, by all its spellings",
        choices=CLASSES,
    )
    mass: str = key(
        "with level=answer, how the reference's probability of an answer is estimated: remembered (the mean over the "
        "steps of the run), group (from each group alone), reference (counted once, in completions of the reference)",
        choices=MASSES,
    )
    anchor: str = key(
        "where the likeliest good sample is looked for: remembered (the prompt's groups so far), group, cross_fitted "
        "(the other half of the group); auto: group where its bias cancels, otherwise remembered",
        choices=ANCHORS,
    )
    equivalence: str = key(
        "with level=answer, when completions are the same: answer (the same answer to the task, or molecule), "
        "scaffold "
        "(of molecules), or exact, embedding or classifier as in llm.evaluate",
        choices=("answer", "scaffold", *EQUIVALENCES),
    )

    def check(self, prefix: str) -> None:
        """Check that the model of the equivalence is given, and the keys of answers."""
        super().check(prefix)
        self.check_models(prefix, self.equivalence)
        if self.level == "sequence" and self.mass != "remembered":
            raise ConfigError(
                f"{prefix}mass: is only used with level=answer; set it to remembered, got {self.mass}: the mass of a "
                "sequence is its probability"
            )

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of MARA; the package computes the classes from the completions."""
        return {name: getattr(self, name) for name in ("algorithm", "level", "mass", "anchor")}


@option("transform", "unlikely")
@dataclass
class UnlikelyConfig(TransformConfig):
    """Good samples get R (1 - strength rank/G), where the least likely sample of a group has rank 0."""

    name: str = "unlikely"
    strength: float = key("share of its reward that the likeliest good sample of a group loses", low=0, high=1)


@option("transform", "differential_smoothing")
@dataclass
class DifferentialSmoothingConfig(TransformConfig):
    """Good samples get advantage - correct_coef log pi, the others get advantage + wrong_coef log pi."""

    name: str = "differential_smoothing"
    correct_coef: float = key("good samples get advantage - correct_coef log pi; reward units per nat", low=0)
    wrong_coef: float = key("other samples get advantage + wrong_coef log pi; reward units per nat", low=0)


@option("transform", "ucpo")
@dataclass
class UcpoConfig(TransformConfig):
    """Good samples that are less likely than the other good samples of their group get a larger advantage."""

    name: str = "ucpo"
    coef: float = key(
        "good samples get advantage + coef (-log q - H(q)), where q is the softmax of log pi over them", low=0
    )


@dataclass
class DiversityConfig(TransformConfig, EquivalenceSection):
    """A transform that compares completions with each other."""

    equivalence: str = key(
        "when completions are the same: answer (the same answer to the task), or exact, embedding or classifier as "
        "in llm.evaluate",
        choices=("answer", *EQUIVALENCES),
    )

    @property
    def compared_by(self) -> str:
        """What it takes of the completions: classes in the group, or counts of the answers of earlier steps."""
        return "counts" if self.name in BY_ANSWER_COUNT else "classes"

    def check(self, prefix: str) -> None:
        """Check that the model of the equivalence is given."""
        super().check(prefix)
        self.check_models(prefix, self.equivalence)

    def options(self) -> dict[str, Any]:
        """Return the transform's own options; the package computes the diversity from the completions."""
        shared = {field.name for field in fields(DiversityConfig)}
        return {name: value for name, value in vars(self).items() if name not in shared}


@option("transform", "darling")
@dataclass
class DarlingConfig(DiversityConfig):
    """The reward is multiplied by the completion's diversity within its group."""

    name: str = "darling"


@option("transform", "ips")
@dataclass
class IpsConfig(DiversityConfig):
    """IPS-GRPO: the reward is divided by the share of the group that is in the completion's class."""

    name: str = "ips"


@option("transform", "custom")
@dataclass
class CustomTransformConfig(TransformConfig):
    """A transform of your own, given by import path (docs/extending.md)."""

    name: str = "custom"
    function: str = key("package.module:name of a function, or of a dataclass whose instances are called")
    arguments: dict[str, Any] = key("fields of that dataclass")


@option("transform", "dra")
@dataclass
class DraConfig(DiversityConfig):
    """DRA-GRPO: the reward is divided by 1 plus the completion's summed similarity to the others of its group."""

    name: str = "dra"
    similarity: str = key(
        "similarity of two completions. classes: 1 if they are equivalent (transform.equivalence), else 0; "
        "embedding: the cosine similarity of their embeddings (transform.embedder)",
        choices=("classes", "embedding"),
    )

    def check(self, prefix: str) -> None:
        """Check that the embedder is given if it is used."""
        super().check(prefix)
        if self.similarity == "embedding" and self.embedder is None:
            raise ConfigError(
                f"{prefix}embedder: must be a folder or hub name with {prefix}similarity=embedding, got null"
            )

    @property
    def compared_by(self) -> str:
        """What it takes of the completions: classes in the group, or the similarity of embeddings."""
        return self.similarity

    def options(self) -> dict[str, Any]:
        """Return nothing: the package computes the similarities from the completions."""
        return {}


@option("transform", "gapo")
@dataclass
class GapoConfig(DiversityConfig):
    """GAPO: good completions get 1 less the share of their answer among the group's good ones, the others -1."""

    name: str = "gapo"
    answers: int | None = key("number of good answers that there are, L: 1/L is added; null: many", low=1)


@option("transform", "uniqueness")
@dataclass
class UniquenessConfig(DiversityConfig):
    """Uniqueness-aware RL: the advantage is divided by a power of how many of the group are equivalent."""

    name: str = "uniqueness"
    strength: float = key("the advantage is divided by the number to this power", low=0, high=1)


@option("transform", "batch_exploration")
@dataclass
class BatchExplorationConfig(DiversityConfig):
    """Outcome-based exploration: the advantage is lower the more others of the group are equivalent."""

    name: str = "batch_exploration"
    coef: float = key("subtracted from the advantage, times the share of the group that are equivalent others", low=0)


@option("transform", "historical_exploration")
@dataclass
class HistoricalExplorationConfig(DiversityConfig):
    """Outcome-based exploration over a run: the advantage is higher the less often the answer was sampled."""

    name: str = "historical_exploration"
    coef: float = key(
        "factor of the bonus min(1, 1/sqrt(N)), where N samples of earlier steps have the answer", low=0
    )
    baseline: Any = key("subtracted from the bonus: a number in [0, 1] (UCB-Con), or mean: of the group (UCB-Mean)")

    def check(self, prefix: str) -> None:
        """Check the one key that is a number or a text."""
        super().check(prefix)
        baseline = self.baseline
        number = isinstance(baseline, int | float) and not isinstance(baseline, bool)
        if baseline != MEAN and not (number and 0 <= baseline <= 1):
            raise ConfigError(f"{prefix}baseline: must be mean or a number in [0, 1], got {yaml_text(baseline)}")


# --- schedules of beta: one option each; the functions are in `core.schedules` ----------------------------------


@dataclass
class BetaScheduleConfig(Section):
    """How beta changes over a run."""

    name: str = key("set by beta_schedule=NAME")

    def check(self, prefix: str) -> None:
        """Check that the name is that of the option."""
        _check_option_name("beta_schedule", prefix, self)

    def options(self) -> dict[str, Any]:
        """Return the options of `core.schedules.make_schedule`."""
        return {name: value for name, value in vars(self).items() if name != "name"}


@option("beta_schedule", "constant")
@dataclass
class ConstantBetaConfig(BetaScheduleConfig):
    """beta is objective.beta at every step."""

    name: str = "constant"


@option("beta_schedule", "adaptive")
@dataclass
class AdaptiveBetaConfig(BetaScheduleConfig):
    """beta starts at objective.beta and is adapted so that the KL approaches a target."""

    name: str = "adaptive"
    kl_target: float = key(
        "target of the KL, nats; after each step beta *= 1 + .1 clip(KL / kl_target - 1, -.2, .2)", above=0
    )


@option("beta_schedule", "linear")
@dataclass
class LinearBetaConfig(BetaScheduleConfig):
    """beta changes linearly from objective.beta at the first step to `final` at the last step."""

    name: str = "linear"
    final: float = key("beta at the last step, reward units per nat", low=0)


@option("beta_schedule", "cosine")
@dataclass
class CosineBetaConfig(LinearBetaConfig):
    """beta changes from objective.beta at the first step to `final` at the last step along half a cosine."""

    name: str = "cosine"


@option("beta_schedule", "automatic")
@dataclass
class AutomaticBetaConfig(BetaScheduleConfig):
    """beta starts at objective.beta and is then a quantile of the betas at which pairs of good samples tie."""

    name: str = "automatic"
    quantile: float = key(
        "quantile of |dR| / |d log reference| over the pairs of good samples of each group", low=0, high=1
    )
    low: float = key("lower bound of beta, reward units per nat", above=0)
    high: float = key("upper bound of beta, reward units per nat", above=0)

    def check(self, prefix: str) -> None:
        """Check that the upper bound is not below the lower one."""
        super().check(prefix)
        check_range(f"{prefix}high", self.high, low=self.low, note=f" ({prefix}low)")
