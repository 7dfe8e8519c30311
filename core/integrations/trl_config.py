"""MaraGRPOConfig: TRL's GRPOConfig with MARA's keys, and the keys of TRL that would change the optimum."""

from dataclasses import dataclass, field, fields
from typing import Any

from .estimator import SETTINGS, MaraSettings

SUPPORTED = ("1.16",)  # releases whose private methods are overridden in `trl.py`
INSTALL = "pip install 'trl>=1.16,<1.17'"

try:
    import trl
except ModuleNotFoundError as error:
    if error.name != "trl":
        raise
    raise ImportError(f"{__package__}.trl: trl is not installed: {INSTALL}") from None
if ".".join(trl.__version__.split(".")[:2]) not in SUPPORTED:
    raise ImportError(f"{__package__}.trl needs TRL {' or '.join(SUPPORTED)}, got {trl.__version__}: {INSTALL}")

SAMPLED_IS_SCORED = "the policy must be sampled as it is, because its KL is computed"
PER_TOKEN_ENTROPY = "an entropy bonus per token moves the optimum"
ALLOWED: dict[str, tuple[tuple[Any, ...], str]] = {  # key of GRPOConfig: allowed values, and the reason
    "beta": (
        (0.0,),
        "mara_beta sets the KL term in the reward; a second one in the loss is per token and moves the optimum",
    ),
    "scale_rewards": (
        ("none",),
        "dividing by a standard deviation gives each group a different effective beta",
    ),
    "multi_objective_aggregation": (
        ("sum_then_normalize",),
        "the threshold does not apply to rewards that are normalised one by one",
    ),
    "loss_type": (
        ("dr_grpo",),
        "a loss that is divided by lengths, or reweighted, makes the effective beta depend on them",
    ),
    "num_iterations": (
        (1,),
        "a second pass over the same completions is off-policy: their reward contains the KL of the earlier policy",
    ),
    "entropy_coef": ((0.0,), PER_TOKEN_ENTROPY),
    "use_adaptive_entropy": ((False,), PER_TOKEN_ENTROPY),
    "top_entropy_quantile": ((1.0,), "tokens left out of the loss are missing from the sequence's KL"),
    "off_policy_mask_threshold": ((None,), "it drops samples depending on the sign of their advantage"),
    "sync_ref_model": ((False,), "the optimum is defined by a fixed reference"),
    "temperature": ((1.0,), SAMPLED_IS_SCORED),
    "top_p": ((1.0,), SAMPLED_IS_SCORED),
    "top_k": ((0, None), SAMPLED_IS_SCORED),
    "min_p": ((None, 0.0), SAMPLED_IS_SCORED),
    "repetition_penalty": ((1.0,), SAMPLED_IS_SCORED),
    "generation_kwargs": ((None, {}), SAMPLED_IS_SCORED),
}


HELP = {  # of the keys of MARA; without a default they are None
    "beta": "Coefficient of the sequence's KL in the reward, in reward units per nat; > 0.",
    "threshold": "Completions whose weighted sum of rewards is at least this are good.",
    "quantile": "Instead of mara_threshold: this quantile of each group's rewards, in [0, 1].",
    "reference_quantile": "Instead of mara_threshold: this quantile of the rewards of mara_reference_samples "
    "completions of the reference, once for each prompt.",
    "floor": "With a quantile: lower bound of the threshold.",
    "direction": "reverse: KL(policy || reference); forward: KL(reference || policy).",
    "algorithm": "1 augments the reward, 2 anchors the reference; auto is 1 for reverse and 2 for forward KL.",
    "level": "What becomes equally likely: each good sequence, or each good answer (the trainer's argument answer).",
    "mass": "How the reference's mass of an answer is estimated: remembered, group or reference.",
    "anchor": "group, cross_fitted, remembered, or auto: group where the anchors of groups cancel, else remembered.",
    "max_log_weight": "Cap on log(reference / policy) of a sequence under forward KL, nats. None: a cap that leaves "
    "the optimum where it is; inf: no cap, which is dangerous over sequences.",
    "reward_range": "Highest minus lowest weighted sum of rewards, for mara_max_log_weight=None.",
    "reference_samples": "Completions of the reference for each prompt, where they are needed.",
}
DEFAULTS = {setting.name: setting.default for setting in fields(MaraSettings)}


def _key(name: str) -> Any:
    return field(default=DEFAULTS[name], metadata={"help": HELP[name]})


@dataclass
class MaraGRPOConfig(trl.GRPOConfig):
    """GRPOConfig with MARA's keys, and defaults for which the optimum is uniform over the good completions.

    Raises:
        ValueError: a key of MARA is out of range, or a key of TRL would change the optimum; the message says why.
    """

    scale_rewards: str = "none"
    loss_type: str = "dr_grpo"
    disable_dropout: bool = True  # the policy that samples must be the one that is scored

    mara_beta: float | None = _key("beta")
    mara_threshold: float | None = _key("threshold")
    mara_quantile: float | None = _key("quantile")
    mara_reference_quantile: float | None = _key("reference_quantile")
    mara_floor: float | None = _key("floor")
    mara_direction: str = _key("direction")
    mara_algorithm: str = _key("algorithm")
    mara_level: str = _key("level")
    mara_mass: str = _key("mass")
    mara_anchor: str = _key("anchor")
    mara_max_log_weight: float | None = _key("max_log_weight")
    mara_reward_range: float = _key("reward_range")
    mara_reference_samples: int = _key("reference_samples")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check()

    def check(self) -> None:
        """Raise ValueError if the optimum would not be MARA's."""
        for key, (values, reason) in ALLOWED.items():
            value = getattr(self, key)
            if value not in values:
                raise ValueError(f"{key}: must be {values[0]!r} with MARA ({reason}), got {value!r}")
        if self.gradient_accumulation_steps % (self.steps_per_generation or 1):
            raise ValueError(
                "steps_per_generation: must divide gradient_accumulation_steps with MARA (later updates on the same "
                "completions are off-policy: their reward contains the KL of the earlier policy), got "
                f"{self.steps_per_generation} and {self.gradient_accumulation_steps}"
            )
        if self.delta is not None and self.delta < 1:
            raise ValueError(f"delta: must be None or >= 1 (below 1 it removes the gradient), got {self.delta}")
        self.mara_settings().check("mara_")

    def mara_settings(self) -> MaraSettings:
        """The keys of MARA."""
        return MaraSettings(**{name: getattr(self, f"mara_{name}") for name in SETTINGS})

    def objective_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `core.objective.make_objective`."""
        return self.mara_settings().objective_arguments()
