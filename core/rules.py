"""Which choices of an objective go together: one table, each refusal with its reason and its way out.

Standard library only: the configuration's schema and `core.objective` both read it, one without loading torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

# The names by which the built-in choices go; functions and records are in `core.divergences`, `core.advantages`, ...
DIVERGENCE_PLACEMENTS: dict[str, tuple[str, ...]] = {  # each with the placements it has a form for
    "reverse": ("reward", "loss", "reference"),
    "forward": ("reward", "loss", "reference"),
    "jensen_shannon": ("reward", "reference"),
    "alpha": ("reward", "loss", "reference"),
}
LEVELS = ("sequence", "token")
PLACEMENTS = ("reward", "loss", "reference")
ADVANTAGES = ("leave_one_out", "centred", "group_normalised", "no_baseline", "max_at_k", "pass_at_k")
ALGORITHMS = ("auto", "1", "2")
LOSSES = ("policy_gradient", "reinvent")
ADVANTAGES_WITH_K = ("max_at_k", "pass_at_k")
GOOD_SAMPLE_TRANSFORMS = ("mara", "unlikely", "differential_smoothing", "ucpo")  # they treat good samples differently
REWARD_KEEPING_TRANSFORMS = ("identity", "differential_smoothing", "ucpo")  # they leave the rewards as they are


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What an objective is put together from; names as in the configuration.

    beta, final_beta: reward units per nat, of the first and, with a linear or cosine schedule, the last step.
    threshold: whether one is given. updates: of one batch of completions.
    """

    direction: str
    level: str = "sequence"
    placement: str = "reward"
    transform: str = "identity"
    algorithm: str = "auto"
    advantage: str = "leave_one_out"
    advantage_k: int | None = None
    loss: str = "policy_gradient"
    alpha: float | None = None
    max_log_weight: float | None = None
    entropy_coef: float = 0.0
    gamma: float = 1.0
    length_normalised: bool = False
    skip_tied_groups: bool = False
    threshold: bool = False
    beta: float = 1.0
    beta_schedule: str = "constant"
    final_beta: float | None = None
    updates: int = 1

    @property
    def mara(self) -> bool:
        return self.transform == "mara"

    @property
    def mara_algorithm(self) -> int:
        return mara_algorithm(self.direction, self.algorithm)

    @property
    def kl_in_sequence_reward(self) -> bool:
        return (self.placement, self.level) == ("reward", "sequence")


def mara_algorithm(direction: str, algorithm: str | int = "auto") -> int:
    """MARA's algorithm, 1 (augment the reward) or 2 (anchor the reference); `auto` is 1 under reverse KL, else 2."""
    if algorithm == "auto":
        return 1 if direction == "reverse" else 2
    return int(algorithm)


@dataclass(frozen=True)
class Violation:
    """key: the name of the choice to change, a field of `Choices`. text: what is wrong and what to do."""

    key: str
    text: str


@dataclass(frozen=True)
class Rule:
    """A refused combination.

    key: the field of `Choices` that the message is about. refuses: whether the rule is broken.
    text: what is wrong and what to do; may hold {field} for any field of `Choices`.
    """

    key: str
    refuses: Callable[[Choices], bool]
    text: str

    def violation(self, choices: Choices) -> Violation | None:
        if not self.refuses(choices):
            return None
        shown = {name: _show(value) for name, value in vars(choices).items()}
        return Violation(self.key, self.text.format(**shown))


def first_violation(choices: Choices) -> Violation | None:
    """The first rule that the choices break, in the order of `RULES`; None where they break none."""
    violations = (rule.violation(choices) for rule in RULES)
    return next((violation for violation in violations if violation is not None), None)


def check_choices(choices: Choices) -> None:
    """Raise ValueError, with the reason and the way out, where the choices break a rule."""
    violation = first_violation(choices)
    if violation is not None:
        raise ValueError(f"{violation.key}: {violation.text}")


def _show(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _names(key: str, known: tuple[str, ...], own: bool = False) -> Rule:
    """Refuse a name that is not known; `own`: an import path package.module:name is another legal one."""
    allowed = ", ".join([*known, *(["package.module:name"] if own else [])])
    return Rule(
        key,
        lambda c: getattr(c, key) not in known and not (own and ":" in getattr(c, key)),
        f"must be one of {allowed}, got {{{key}}}",
    )


def _not_finite_alpha(c: Choices) -> bool:
    return c.alpha is None or c.alpha in (0, 1) or not math.isfinite(c.alpha)


def _lacks_form(c: Choices) -> bool:
    return c.placement not in DIVERGENCE_PLACEMENTS.get(c.direction, PLACEMENTS)


RULES: tuple[Rule, ...] = (
    # --- names
    _names("direction", tuple(DIVERGENCE_PLACEMENTS), own=True),
    _names("level", LEVELS),
    _names("placement", PLACEMENTS),
    _names("algorithm", ALGORITHMS),
    _names("advantage", ADVANTAGES, own=True),
    _names("loss", LOSSES),
    # --- the divergence
    Rule(
        "direction",
        lambda c: c.mara and c.direction not in ("reverse", "forward"),
        "must be reverse or forward with transform=mara, whose optimum is known under these two, got {direction}",
    ),
    Rule(
        "alpha",
        lambda c: c.direction == "alpha" and _not_finite_alpha(c),
        "must be finite with direction=alpha, and neither 0 (use direction=forward) nor 1 (use direction=reverse), "
        "got {alpha}",
    ),
    Rule(
        "alpha",
        lambda c: c.direction != "alpha" and c.alpha is not None,
        "only used with direction=alpha; set it to null, got {alpha} with direction={direction}",
    ),
    Rule(
        "placement",
        _lacks_form,
        "the divergence {direction} has no form for placement={placement}; use placement=reward",
    ),
    Rule(
        "max_log_weight",
        lambda c: c.max_log_weight is not None and (c.direction, c.placement) != ("forward", "reward"),
        "only used with direction=forward and placement=reward; set it to null, got {max_log_weight} with "
        "direction={direction}, placement={placement}",
    ),
    Rule(
        "level",
        lambda c: c.placement == "reference" and c.level != "sequence",
        "must be sequence with placement=reference, where the divergence is computed on whole completions of the "
        "reference, got {level}",
    ),
    Rule(
        "length_normalised",
        lambda c: c.length_normalised and (c.level, c.placement) == ("token", "reward"),
        "a length-normalised loss has no per-token reward; use placement=loss or level=sequence",
    ),
    Rule(
        "gamma",
        lambda c: c.gamma != 1 and c.updates > 1,
        "must be 1 with several updates of a batch (update.epochs * update.minibatches = {updates}), got {gamma}",
    ),
    # --- beta and its schedule
    Rule(
        "beta",
        lambda c: c.direction == "forward" and not c.beta > 0,
        "must be > 0 with direction=forward, got {beta}",
    ),
    Rule(
        "beta",
        lambda c: c.mara and not c.beta > 0,
        "must be > 0 with transform=mara, which undoes the pull of the KL term; use transform=identity without one, "
        "got {beta}",
    ),
    Rule(
        "beta",
        lambda c: c.beta_schedule == "adaptive" and not c.beta > 0,
        "must be > 0 with beta_schedule=adaptive, which multiplies it, got {beta}",
    ),
    Rule(
        "final_beta",
        lambda c: c.final_beta is not None and not c.final_beta > 0 and (c.mara or c.direction == "forward"),
        "must be > 0 with transform=mara or direction=forward, got {final_beta} with transform={transform}, "
        "direction={direction}",
    ),
    # --- thresholds
    Rule(
        "threshold",
        lambda c: c.transform in GOOD_SAMPLE_TRANSFORMS and not c.threshold,
        "must be given with transform={transform}: the reward from which a sample is good, or with kind=quantile a "
        "number in [0, 1]",
    ),
    Rule(
        "threshold",
        lambda c: c.advantage == "pass_at_k" and not c.threshold,
        "must be given with advantage=pass_at_k: the reward from which a sample is good, or with kind=quantile a "
        "number in [0, 1]",
    ),
    Rule(
        "threshold",
        lambda c: c.beta_schedule == "automatic" and not c.threshold,
        "must be given with beta_schedule=automatic, which looks at pairs of good samples: the reward from which a "
        "sample is good, or with kind=quantile a number in [0, 1]",
    ),
    # --- advantages
    Rule(
        "advantage_k",
        lambda c: c.advantage == "pass_at_k" and c.advantage_k is None,
        "must be given with advantage=pass_at_k, a whole number >= 1",
    ),
    Rule(
        "advantage_k",
        lambda c: c.advantage not in ADVANTAGES_WITH_K and c.advantage_k is not None,
        "only used with advantage=max_at_k or pass_at_k; set it to null, got {advantage_k} with "
        "advantage={advantage}",
    ),
    Rule(
        "advantage_k",
        lambda c: c.advantage == "pass_at_k" and c.advantage_k is not None and c.advantage_k < 1,
        "must be >= 1 with advantage=pass_at_k, got {advantage_k}",
    ),
    Rule(
        "advantage_k",
        lambda c: c.advantage == "max_at_k" and c.advantage_k is not None and c.advantage_k < 2,
        "must be >= 2 with advantage=max_at_k, got {advantage_k}",
    ),
    Rule(
        "transform",
        lambda c: c.advantage == "pass_at_k" and c.transform not in REWARD_KEEPING_TRANSFORMS,
        "must be identity with advantage=pass_at_k, which sees only which samples are good and not what "
        "transform={transform} does to their rewards",
    ),
    Rule(
        "advantage",
        lambda c: c.transform == "darling" and c.advantage == "group_normalised",
        "must be centred or leave_one_out with transform=darling, which is defined without division by the standard "
        "deviation, got {advantage}",
    ),
    # --- MARA
    Rule(
        "placement",
        lambda c: c.mara and c.placement == "reference",
        "must be reward with transform=mara: the reference's completions are not drawn from the anchored reference, "
        "got {placement}",
    ),
    Rule(
        "advantage",
        lambda c: c.mara and c.advantage == "max_at_k",
        "must not be max_at_k with transform=mara, whose optimum is that of the expected reward; use "
        "advantage=leave_one_out or transform=identity",
    ),
    Rule(
        "level",
        lambda c: c.mara and c.mara_algorithm == 2 and c.level == "token",
        "must be sequence with MARA's Algorithm 2, which replaces log-probabilities of whole sequences, got {level}",
    ),
    Rule(
        "placement",
        lambda c: c.mara and c.mara_algorithm == 2 and c.placement != "reward",
        "must be reward with MARA's Algorithm 2, where the baseline removes the effect of which anchor a group has, "
        "got {placement}; under direction=reverse algorithm=1 works with it, too",
    ),
    Rule(
        "length_normalised",
        lambda c: c.mara and c.length_normalised,
        "must be false with transform=mara: a length-normalised loss makes the effective beta depend on length",
    ),
    Rule(
        "gamma",
        lambda c: c.mara and c.gamma != 1,
        "must be 1 with transform=mara: a discount makes the effective beta depend on length, got {gamma}",
    ),
    Rule(
        "advantage",
        lambda c: c.mara and c.advantage == "group_normalised" and not c.kl_in_sequence_reward,
        "group_normalised with transform=mara needs the KL term inside the reward before normalising, or the policy "
        "collapses onto the rarest good sample; set placement=reward and level=sequence, or advantage=leave_one_out; "
        "got placement={placement}, level={level}",
    ),
    # --- REINVENT's loss: a policy gradient without a baseline, with the sequence's reverse KL in the reward
    *(
        Rule(
            name,
            lambda c, name=name, needed=needed: c.loss == "reinvent" and getattr(c, name) != needed,  # type: ignore[misc]
            f"must be {_show(needed)} with loss=reinvent, got {{{name}}}",
        )
        for name, needed in {
            "direction": "reverse",
            "level": "sequence",
            "placement": "reward",
            "entropy_coef": 0,
            "length_normalised": False,
            "gamma": 1,
            "skip_tied_groups": False,
            "advantage": "no_baseline",
        }.items()
    ),
    Rule(
        "beta",
        lambda c: c.loss == "reinvent" and not c.beta > 0,
        "must be > 0 with loss=reinvent, whose sigma is 1 / beta, got {beta}",
    ),
    Rule(
        "transform",
        lambda c: c.loss == "reinvent" and c.transform not in ("identity", "mara"),
        "must be identity or mara with loss=reinvent, got {transform}",
    ),
)
