"""Which choices of an objective can be combined: one table of rules, each with its reason and an alternative.

`conf.schema` and `core.objective` both apply this table. It uses the standard library only, so that the configuration
is checked without loading torch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

# The names of the built-in choices. Their functions are in `core.divergences`, `core.advantages` and so on.
DIVERGENCE_PLACEMENTS: dict[str, tuple[str, ...]] = {  # the placements at which each divergence can be used
    "reverse": ("reward", "loss", "reference"),
    "forward": ("reward", "loss", "reference"),
    "jensen_shannon": ("reward", "reference"),
    "alpha": ("reward", "loss", "reference"),
}
LEVELS = ("sequence", "token", "reward_to_go")
PLACEMENTS = ("reward", "loss", "reference")
WEIGHTED = ("forward", "alpha")  # divergences whose gradient holds a power of ref / pi, which is capped
AUTO = "auto"  # max_log_weight: the cap that leaves the optimum where it is
MEAN = "mean"  # baseline of the historical exploration: the mean bonus of the group
GROUP_NORMALISED = ("group_normalised", "group_normalised_sample_std", "batch_normalised")  # divided by a std
ADVANTAGES = (
    "leave_one_out",
    "centred",
    *GROUP_NORMALISED,
    "mean_normalised",
    "no_baseline",
    "max_at_k",
    "pass_at_k",
)
ALGORITHMS = ("auto", "1", "2")
CLASSES = ("sequence", "answer")
MASSES = ("remembered", "group", "reference")
ANCHORS = ("auto", "group", "cross_fitted", "remembered")
TOKEN_LOSSES = ("cispo", "clip_cov", "kl_cov")  # these are defined on the ratios of tokens
LOSSES = ("policy_gradient", "reinvent", *TOKEN_LOSSES, "flowrl")
RATIOS = ("token", "sequence", "geometric_mean")
ADVANTAGES_WITH_K = ("max_at_k", "pass_at_k")
CORRECTIONS = ("truncate", "mask", "none")  # of completions that another program sampled
GOOD_SAMPLE_TRANSFORMS = ("mara", "unlikely", "gapo", "differential_smoothing", "ucpo")  # these ask what is good
BY_ANSWER_COUNT = ("historical_exploration",)  # these count the answers of earlier steps
# These do not change the rewards:
REWARD_KEEPING_TRANSFORMS = (
    "identity",
    "differential_smoothing",
    "ucpo",
    "uniqueness",
    "batch_exploration",
    "historical_exploration",
)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The choices that define an objective, with their names in the configuration.

    Attributes:
        classes: MARA's level: what becomes equally likely, good sequences or good answers.
        mass: how the masses of answers are estimated.
        anchor: how MARA's anchor is chosen.
        loss: what the gradient is that of, see `core.losses`.
        ratio: of the policy to the one that sampled, as in `core.losses.clipped_policy_gradient`.
        token_mean: whether the loss is divided by the mean number of tokens of the batch's completions.
        match_coef: of the distribution-matching term.
        redraw: how many times a group whose rewards tie is drawn again.
        threshold: whether a threshold is given.
        beta: of the first step, reward units per nat.
        final_beta: of the last step, with a linear or cosine schedule.
        updates: updates on one batch of completions.
        sampler_correction: how completions that another program sampled are weighted; None: the policy samples them.
        sampler_bound: the largest of those weights; None: there is no bound.
        behind: steps by which the weights that sample are older than the policy.
        kl_samples: completions of the reference on which the divergence is measured; None: it is computed exactly.
    """

    direction: str
    level: str = "sequence"
    placement: str = "reward"
    transform: str = "identity"
    algorithm: str = "auto"
    classes: str = "sequence"
    mass: str = "remembered"
    anchor: str = "auto"
    advantage: str = "leave_one_out"
    advantage_k: int | None = None
    loss: str = "policy_gradient"
    alpha: float | None = None
    max_log_weight: float | str | None = AUTO
    entropy_coef: float = 0.0
    gamma: float = 1.0
    length_normalised: bool = False
    skip_tied_groups: bool = False
    ratio: str = "token"
    token_mean: bool = False
    match_coef: float = 0.0
    redraw: int = 0
    threshold: bool = False
    beta: float = 1.0
    beta_schedule: str = "constant"
    final_beta: float | None = None
    updates: int = 1
    kl_samples: int | None = None
    sampler_correction: str | None = None
    sampler_bound: float | None = None
    behind: int = 0

    @property
    def mara(self) -> bool:
        """Whether the transform is MARA."""
        return self.transform == "mara"

    @property
    def mara_algorithm(self) -> int:
        """The algorithm of MARA that these choices mean, 1 or 2."""
        return mara_algorithm(self.direction, self.algorithm)

    @property
    def mara_anchor(self) -> str:
        """How MARA's anchor is chosen: auto is remembered where the anchors of groups would not cancel, else group.

        They cancel only in a baseline over rewards that include the KL term, and exactly so under reverse KL only.
        """
        if self.anchor != "auto":
            return self.anchor
        cancels = self.direction == "reverse" and self.placement == "reward" and self.advantage != "no_baseline"
        return "group" if cancels and self.classes == "sequence" else "remembered"

    @property
    def needs_masses(self) -> bool:
        """Whether MARA needs the masses of classes or an anchor that is remembered."""
        return self.mara and (self.classes == "answer" or self.mara_anchor == "remembered")

    @property
    def kl_in_sequence_reward(self) -> bool:
        """Whether the KL term is subtracted from the reward of the whole sequence."""
        return (self.placement, self.level) == ("reward", "sequence")

    @property
    def zero_advantages(self) -> bool:
        """Whether all advantages are 0 at the optimum, so that no weight of a completion can move it."""
        return self.kl_in_sequence_reward and self.advantage != "no_baseline"


def biased_correction(correction: str | None, bound: float | None) -> bool:
    """Whether the weights of completions that another program sampled are not exactly policy / sampler."""
    return correction == "none" or (correction is not None and bound is not None)


def mara_algorithm(direction: str, algorithm: str | int = "auto") -> int:
    """Return 1 (augment the reward) or 2 (anchor the reference); auto is 1 under reverse KL, else 2."""
    if algorithm == "auto":
        return 1 if direction == "reverse" else 2
    return int(algorithm)


@dataclass(frozen=True)
class Violation:
    """A broken rule.

    Attributes:
        key: the field of `Choices` to change.
        text: what is wrong, why, and what to set instead. It continues the sentence that starts with the key.
    """

    key: str
    text: str


@dataclass(frozen=True)
class Rule:
    """A combination of choices that is rejected.

    Attributes:
        key: the field of `Choices` that the message is about.
        rejects: whether choices break the rule.
        text: as in `Violation`; {field} stands for the value of that field of `Choices`.
    """

    key: str
    rejects: Callable[[Choices], bool]
    text: str

    def violation(self, choices: Choices) -> Violation | None:
        """Return the violation if the choices break the rule, else None."""
        if not self.rejects(choices):
            return None
        values = {name: _yaml(value) for name, value in vars(choices).items()}
        return Violation(self.key, self.text.format(**values))


def first_violation(choices: Choices) -> Violation | None:
    """Return the first rule in `RULES` that the choices break, or None."""
    violations = (rule.violation(choices) for rule in RULES)
    return next((violation for violation in violations if violation is not None), None)


def check_choices(choices: Choices) -> None:
    """Raise ValueError if the choices break a rule."""
    violation = first_violation(choices)
    if violation is not None:
        raise ValueError(f"{violation.key}: {violation.text}")


def _yaml(value: object) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _known_name(key: str, names: tuple[str, ...], import_path: bool = False) -> Rule:
    """Reject a name that is not in `names`, nor an import path package.module:name where that is allowed."""
    allowed = ", ".join([*names, *(["package.module:name"] if import_path else [])])
    return Rule(
        key,
        lambda c: getattr(c, key) not in names and not (import_path and ":" in getattr(c, key)),
        f"must be one of {allowed}, got {{{key}}}",
    )


def _is_no_alpha(c: Choices) -> bool:
    return c.alpha is None or c.alpha in (0, 1) or not math.isfinite(c.alpha)


def _needs_no_kl_samples(c: Choices) -> bool:
    """Whether training's own completions measure the divergence at any distance from the reference."""
    return c.direction == "reverse" or (c.direction, c.placement) == ("forward", "reference")


def _lacks_placement(c: Choices) -> bool:
    return c.placement not in DIVERGENCE_PLACEMENTS.get(c.direction, PLACEMENTS)


_SET_THRESHOLD = "set it to the lowest reward that counts as good or, with kind=quantile, to a number in [0, 1]"


def _needed_by_loss(loss: str, *needs: tuple[str, object, str]) -> list[Rule]:
    """Rules that a loss needs certain choices. Each need: the field, its value, and why."""
    return [
        Rule(
            name,
            lambda c, name=name, needed=needed: c.loss == loss and getattr(c, name) != needed,  # type: ignore[misc]
            f"must be {_yaml(needed)} with loss={loss}, got {{{name}}}: {reason}",
        )
        for name, needed, reason in needs
    ]


RULES: tuple[Rule, ...] = (
    # --- names
    _known_name("direction", tuple(DIVERGENCE_PLACEMENTS), import_path=True),
    _known_name("level", LEVELS),
    _known_name("placement", PLACEMENTS),
    _known_name("algorithm", ALGORITHMS),
    _known_name("classes", CLASSES),
    _known_name("mass", MASSES),
    _known_name("anchor", ANCHORS),
    _known_name("advantage", ADVANTAGES, import_path=True),
    _known_name("loss", LOSSES),
    _known_name("ratio", RATIOS),
    # --- the divergence
    Rule(
        "direction",
        lambda c: c.mara and c.direction not in DIVERGENCE_PLACEMENTS,
        f"must be one of {', '.join(DIVERGENCE_PLACEMENTS)} with transform=mara, got {{direction}}: MARA's "
        f"optimum is "
        "uniform for strictly convex f-divergences, which is not known of a divergence of your own",
    ),
    Rule(
        "algorithm",
        lambda c: c.mara and c.direction not in ("reverse", "forward") and c.mara_algorithm == 1,
        "must be auto or 2 with direction={direction}, got {algorithm}: Algorithm 1 is uniform under reverse KL only",
    ),
    Rule(
        "alpha",
        lambda c: c.direction == "alpha" and _is_no_alpha(c),
        "must be a finite number other than 0 and 1 with direction=alpha, got {alpha}; instead of 0 use "
        "direction=forward, instead of 1 use direction=reverse",
    ),
    Rule(
        "alpha",
        lambda c: c.direction != "alpha" and c.alpha is not None,
        "is only used with direction=alpha; set it to null, got {alpha} with direction={direction}",
    ),
    Rule(
        "placement",
        _lacks_placement,
        "cannot be {placement} with direction={direction}, because this divergence has no elementary {placement} "
        "term; use placement=reward",
    ),
    Rule(
        "max_log_weight",
        lambda c: isinstance(c.max_log_weight, str) and c.max_log_weight != AUTO,
        "must be auto, a number or null, got {max_log_weight}",
    ),
    Rule(
        "max_log_weight",
        lambda c: (
            isinstance(c.max_log_weight, int | float) and (c.direction not in WEIGHTED or c.placement == "reference")
        ),
        "is only used with direction=forward or alpha and placement=reward or loss; set it to auto, got "
        "{max_log_weight} with direction={direction} and placement={placement}",
    ),
    Rule(
        "level",
        lambda c: c.level == "reward_to_go" and (c.direction, c.placement) != ("reverse", "reward"),
        "must be sequence or token with direction={direction} and placement={placement}, got {level}: only the "
        "reverse KL is a sum over tokens, and only a reward has a return",
    ),
    Rule(
        "level",
        lambda c: c.placement == "reference" and c.level != "sequence",
        "must be sequence with placement=reference, got {level}: the divergence is estimated from whole completions "
        "of the reference",
    ),
    Rule(
        "length_normalised",
        lambda c: c.length_normalised and c.level != "sequence" and c.placement == "reward",
        "cannot be true with level={level} and placement=reward, because the length-normalised loss takes no "
        "per-token "
        "reward; use placement=loss or level=sequence",
    ),
    Rule(
        "gamma",
        lambda c: c.gamma != 1 and c.updates > 1,
        "must be 1 with several updates per batch (update.epochs * update.minibatches = {updates}), got {gamma}: the "
        "clipped loss supports no discount",
    ),
    # --- beta and its schedule
    Rule(
        "beta",
        lambda c: c.direction == "forward" and not c.beta > 0,
        "must be > 0 with direction=forward, got {beta}: the forward-KL optimum is not defined at 0; to train "
        "without a KL term, use direction=reverse",
    ),
    Rule(
        "beta",
        lambda c: c.mara and not c.beta > 0,
        "must be > 0 with transform=mara, got {beta}: MARA compensates for the KL term; to train without a KL term, "
        "use transform=identity",
    ),
    Rule(
        "beta",
        lambda c: c.beta_schedule == "adaptive" and not c.beta > 0,
        "must be > 0 with beta_schedule=adaptive, got {beta}: the schedule multiplies beta, so 0 would stay 0",
    ),
    Rule(
        "kl_samples",
        lambda c: c.beta_schedule == "adaptive" and c.kl_samples == 0 and not _needs_no_kl_samples(c),
        "must be > 0 with beta_schedule=adaptive and direction={direction}, got {kl_samples}: the estimate from the "
        "policy's own completions stops growing once the policy has left the reference",
    ),
    Rule(
        "final_beta",
        lambda c: c.final_beta is not None and not c.final_beta > 0 and (c.mara or c.direction == "forward"),
        "must be > 0 with transform=mara or direction=forward, which need a KL term at every step, got {final_beta} "
        "with transform={transform} and direction={direction}",
    ),
    # --- thresholds
    Rule(
        "threshold",
        lambda c: c.transform in GOOD_SAMPLE_TRANSFORMS and not c.threshold,
        "must be given with transform={transform}, which treats good samples differently; " + _SET_THRESHOLD,
    ),
    Rule(
        "threshold",
        lambda c: c.advantage == "pass_at_k" and not c.threshold,
        "must be given with advantage=pass_at_k, which counts good samples; " + _SET_THRESHOLD,
    ),
    Rule(
        "threshold",
        lambda c: c.beta_schedule == "automatic" and not c.threshold,
        "must be given with beta_schedule=automatic, which compares pairs of good samples; " + _SET_THRESHOLD,
    ),
    # --- advantages
    Rule(
        "advantage_k",
        lambda c: c.advantage == "pass_at_k" and c.advantage_k is None,
        "must be given with advantage=pass_at_k; set it to the size of the subsets, a whole number >= 1",
    ),
    Rule(
        "advantage_k",
        lambda c: c.advantage not in ADVANTAGES_WITH_K and c.advantage_k is not None,
        "is only used with advantage=max_at_k or pass_at_k; set it to null, got {advantage_k} with "
        "advantage={advantage}",
    ),
    Rule(
        "advantage_k",
        lambda c: c.advantage == "pass_at_k" and c.advantage_k is not None and c.advantage_k < 1,
        "must be >= 1 with advantage=pass_at_k, got {advantage_k}: it is the size of the subsets",
    ),
    Rule(
        "advantage_k",
        lambda c: c.advantage == "max_at_k" and c.advantage_k is not None and c.advantage_k < 2,
        "must be >= 2 with advantage=max_at_k, got {advantage_k}: the maximum of a subset is compared with that of "
        "its other samples",
    ),
    Rule(
        "transform",
        lambda c: c.advantage == "pass_at_k" and c.transform not in REWARD_KEEPING_TRANSFORMS,
        f"must be one of {', '.join(REWARD_KEEPING_TRANSFORMS)} with advantage=pass_at_k, got {{transform}}: the "
        "advantage depends on which samples are good, not on their rewards",
    ),
    Rule(
        "advantage",
        lambda c: c.transform == "darling" and c.advantage in GROUP_NORMALISED,
        "cannot be {advantage} with transform=darling, which is defined without division by the standard "
        "deviation; use advantage=centred or leave_one_out",
    ),
    # --- MARA
    Rule(
        "placement",
        lambda c: c.mara and c.placement == "reference" and (c.mara_algorithm == 1 or c.direction != "forward"),
        "cannot be reference with transform=mara unless direction=forward and Algorithm 2 are used, whose terms "
        "do not "
        "grow with the policy; use placement=reward; got direction={direction} and algorithm={algorithm}",
    ),
    Rule(
        "anchor",
        lambda c: c.mara and c.placement != "reward" and c.mara_algorithm == 2 and c.mara_anchor != "remembered",
        "must be auto or remembered with MARA's Algorithm 2 and placement={placement}, got {anchor}: only a baseline "
        "over rewards that include the KL term cancels an anchor that differs from group to group",
    ),
    Rule(
        "anchor",
        lambda c: c.mara and c.mara_anchor == "cross_fitted" and not c.kl_in_sequence_reward,
        "cannot be cross_fitted unless the KL term is in the reward of the sequence, where each half has its own "
        "baseline; use placement=reward and level=sequence, or anchor=remembered; got placement={placement} and "
        "level={level}",
    ),
    Rule(
        "advantage",
        lambda c: c.mara and c.advantage in ("max_at_k", "mean_normalised"),
        "cannot be {advantage} with transform=mara, whose optimum is that of the expected reward; use "
        "advantage=leave_one_out or transform=identity",
    ),
    Rule(
        "level",
        lambda c: c.mara and c.mara_algorithm == 2 and c.level != "sequence",
        "must be sequence with MARA's Algorithm 2, got {level}: the algorithm replaces log-probabilities of whole "
        "sequences",
    ),
    Rule(
        "length_normalised",
        lambda c: c.mara and c.length_normalised,
        "must be false with transform=mara: a length-normalised loss makes the effective beta depend on length, and "
        "MARA's guarantee needs the same beta for all samples",
    ),
    Rule(
        "gamma",
        lambda c: c.mara and c.gamma != 1,
        "must be 1 with transform=mara, got {gamma}: a discount makes the effective beta depend on length, and "
        "MARA's guarantee needs the same beta for all samples",
    ),
    Rule(
        "advantage",
        lambda c: c.mara and c.advantage in GROUP_NORMALISED and not c.kl_in_sequence_reward,
        "cannot be {advantage} with transform=mara unless the KL term is in the reward that is normalised, or "
        "the policy collapses onto the rarest good sample; use placement=reward and level=sequence, or "
        "advantage=leave_one_out; got placement={placement} and level={level}",
    ),
    # --- losses and ratios of several updates
    Rule(
        "token_mean",
        lambda c: c.token_mean and c.length_normalised,
        "must be false with length_normalised=true, which divides by the length of each completion already",
    ),
    Rule(
        "token_mean",
        lambda c: c.token_mean and c.mara and not c.kl_in_sequence_reward,
        "must be false with transform=mara unless the KL term is in the reward of the sequence: the division by the "
        "batch's tokens makes the effective beta depend on the batch; got placement={placement} and level={level}",
    ),
    Rule(
        "length_normalised",
        lambda c: c.ratio == "geometric_mean" and not c.length_normalised,
        "must be true with ratio=geometric_mean, whose gradient is divided by the length of each completion",
    ),
    Rule(
        "ratio",
        lambda c: c.loss in TOKEN_LOSSES and c.ratio != "token",
        "must be token with loss={loss}, which is defined on tokens, got {ratio}",
    ),
    Rule(
        "gamma",
        lambda c: c.loss in (*TOKEN_LOSSES, "flowrl") and c.gamma != 1,
        "must be 1 with loss={loss}, got {gamma}: the loss supports no discount",
    ),
    *_needed_by_loss(
        "flowrl",
        ("direction", "reverse", "the loss has the gradient of a reverse KL"),
        ("level", "sequence", "the loss is computed from whole completions"),
        ("placement", "reward", "the loss holds its KL term with the reward"),
        ("entropy_coef", 0, "the loss has no entropy term"),
        ("length_normalised", True, "the loss holds means over tokens"),
        ("transform", "identity", "the loss takes the rewards as the advantage normalises them"),
    ),
    Rule(
        "advantage",
        lambda c: c.loss == "flowrl" and c.advantage in ADVANTAGES_WITH_K,
        "cannot be {advantage} with loss=flowrl, whose advantage normalises the rewards; use "
        "advantage=group_normalised",
    ),
    Rule(
        "beta",
        lambda c: c.loss == "flowrl" and not c.beta > 0,
        "must be > 0 with loss=flowrl, got {beta}: its coefficient of the reward is 1 / beta",
    ),
    Rule(
        "match_coef",
        lambda c: c.match_coef != 0 and c.mara,
        "must be 0 with transform=mara, got {match_coef}: the term has an optimum of its own",
    ),
    Rule(
        "redraw",
        lambda c: c.mara and c.redraw > 0,
        "must be 0 with transform=mara, got {redraw}: the KL term also moves groups whose rewards tie, and masses "
        "are estimated from all groups",
    ),
    # --- completions that another program samples
    Rule(
        "sampler_correction",
        lambda c: c.sampler_correction is not None and c.sampler_correction not in CORRECTIONS,
        f"must be one of {', '.join(CORRECTIONS)}, got {{sampler_correction}}",
    ),
    Rule(
        "sampler_bound",
        lambda c: c.sampler_bound is not None and not c.sampler_bound >= 1,
        "must be >= 1, the weight of a completion that sampler and policy give the same probability, got "
        "{sampler_bound}",
    ),
    Rule(
        "sampler_correction",
        lambda c: c.behind > 0 and c.sampler_correction == "none",
        "cannot be none where completions are sampled one step ahead, with older weights than the policy's; use "
        "truncate",
    ),
    Rule(
        "sampler_correction",
        lambda c: c.mara and c.sampler_correction == "mask" and c.sampler_bound is not None,
        "cannot be mask with transform=mara and a bound: a completion that the policy prefers to the sampler by "
        "more than the bound then has no gradient, so that other policies than MARA's optimum are fixed points; use "
        "truncate",
    ),
    Rule(
        "sampler_correction",
        lambda c: c.mara and c.sampler_correction == "none" and not c.zero_advantages,
        "cannot be none with transform=mara unless the KL term is in the reward of the sequence and a baseline is "
        "subtracted, so that all advantages are 0 at the optimum; use truncate with no bound",
    ),
    Rule(
        "sampler_bound",
        lambda c: (
            c.mara and c.sampler_correction == "truncate" and c.sampler_bound is not None and not c.zero_advantages
        ),
        "must be null with transform=mara unless the KL term is in the reward of the sequence and a baseline is "
        "subtracted, got {sampler_bound}: only where all advantages are 0 do bounded weights leave the optimum where "
        "it is; use placement=reward and level=sequence, or no bound; got placement={placement}, level={level} and "
        "advantage={advantage}",
    ),
    # --- REINVENT's loss: a policy gradient without a baseline, with the sequence's reverse KL in the reward
    *_needed_by_loss(
        "reinvent",
        ("direction", "reverse", "the loss has the gradient of the reverse KL"),
        ("level", "sequence", "the loss is computed from whole sequences"),
        ("placement", "reward", "the loss has its KL term in the reward"),
        ("entropy_coef", 0, "the loss has no entropy term"),
        ("length_normalised", False, "the loss is computed from sums over tokens"),
        ("gamma", 1, "the loss is computed from whole sequences, without a discount"),
        ("skip_tied_groups", False, "the loss is defined on all samples"),
        ("advantage", "no_baseline", "the loss has no baseline"),
    ),
    Rule(
        "beta",
        lambda c: c.loss == "reinvent" and not c.beta > 0,
        "must be > 0 with loss=reinvent, got {beta}: its sigma is 1 / beta",
    ),
    Rule(
        "transform",
        lambda c: c.loss == "reinvent" and c.transform not in ("identity", "mara"),
        "must be identity or mara with loss=reinvent, got {transform}: the other transforms are for advantages, "
        "which this loss does not have",
    ),
)
