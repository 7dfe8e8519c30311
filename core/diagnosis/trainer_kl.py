"""What the KL settings of TRL, verl and OpenRLHF are, as measured in docs/kl.md, found by a run's own settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

TRL, VERL, OPENRLHF = "trl", "verl", "openrlhf"
TITLES = {TRL: "TRL", VERL: "verl", OPENRLHF: "OpenRLHF"}
NONE, ZERO = "none of these", "0"
REVERSE, FORWARD, WHOLE = "reverse KL of tokens", "forward KL of tokens", "reverse KL of sequences"
VARIATION, DIFFERENCE = "twice the total variation of tokens", f"{WHOLE} minus {FORWARD}"
AT_OLD = f"{REVERSE} at the old policy's prefixes"

# (gradient on policy, gradient off policy) of each row of docs/kl.md, by trainer.
MEASURED: dict[str, tuple[tuple[str, str], ...]] = {
    TRL: (
        *((FORWARD, NONE), (NONE, NONE), (NONE, NONE), (REVERSE, AT_OLD)),
        *((NONE, NONE), (NONE, NONE), (NONE, NONE), (NONE, NONE), (NONE, NONE)),
        *((WHOLE, NONE), (NONE, NONE), (WHOLE, NONE)),
    ),
    VERL: (
        *((ZERO, NONE), (NONE, NONE), (VARIATION, NONE), (NONE, NONE), (REVERSE, NONE)),
        *((NONE, NONE), (FORWARD, NONE), (NONE, NONE), (REVERSE, NONE), (NONE, NONE)),
        *((WHOLE, NONE), (WHOLE, NONE), (NONE, NONE), (NONE, NONE), (NONE, NONE)),
        *((NONE, NONE), (DIFFERENCE, NONE), (DIFFERENCE, NONE), (NONE, NONE), (NONE, NONE)),
    ),
    OPENRLHF: (
        *((ZERO, NONE), (REVERSE, NONE), (FORWARD, NONE), (REVERSE, AT_OLD)),
        *((WHOLE, NONE), (NONE, NONE), (DIFFERENCE, NONE)),
    ),
}
SAME_OPTIMUM = {f"{VERL} 19", f"{VERL} 20"}  # not the gradient, but the optimum, of the reverse KL of sequences

# The KL settings of each trainer by the end of their names, with the defaults of the releases that were measured.
DEFAULTS: dict[str, dict[str, str]] = {
    TRL: {
        "algorithm": "grpo",
        "beta": "0.0",
        "use_bias_correction_kl": "true",
        "importance_sampling_level": "token",
        "loss_type": "dapo",
        "scale_rewards": "group",
    },
    VERL: {
        "use_kl_loss": "false",
        "kl_loss_coef": "0.001",
        "kl_loss_type": "low_var_kl",
        "loss_agg_mode": "token-mean",
        "use_kl_in_reward": "false",
        "kl_coef": "0.001",
        "kl_penalty": "kl",
        "adv_estimator": "gae",
        "norm_adv_by_std_in_grpo": "true",
    },
    OPENRLHF: {
        "algo.kl.use_loss": "false",
        "algo.kl.init_coef": "0.01",
        "algo.kl.estimator": "k1",
        "algo.kl.unbiased_gradient": "false",
        "algo.advantage.estimator": "gae",
    },
}
OWN = "docs/mara.md"  # the row of runs of this project, whose KL terms are tested there
RLOO_BETA = "0.05"  # the default of TRL's RLOOConfig


@dataclass(frozen=True)
class KlFact:
    """What the KL of a run is.

    Attributes:
        row: of docs/kl.md, such as `verl 7`; OWN for a run of this project; empty if the combination was not
            measured, or there is no KL term.
        setting: the settings that decide, as a user writes them.
        gradient: that of the KL term on policy, in words; empty if it was not measured.
        off_policy: the same for samples of an older policy.
        beta: coefficient of the KL; 0: there is no KL term.
        divides_by_spread: whether the KL is in the loss, beside advantages that are divided by the standard deviation
            of a group's rewards.
    """

    row: str
    setting: str
    gradient: str
    off_policy: str
    beta: float
    divides_by_spread: bool = False

    @property
    def measured(self) -> bool:
        """Whether the combination of settings is in docs/kl.md."""
        return bool(self.row)

    @property
    def as_named(self) -> bool:
        """Whether its gradient, or at least its optimum, is that of the divergence that the settings name.

        That is KL(policy || reference), or in a run of this project any divergence.
        """
        return self.row == OWN or self.gradient in (REVERSE, WHOLE) or self.row in SAME_OPTIMUM

    @property
    def source(self) -> str:
        """Where the gradient is documented."""
        return self.row if self.row == OWN else f"{self.row} in docs/kl.md"

    @property
    def direction(self) -> str:
        """The divergence whose optimum is compared: forward where the gradient is that of the forward KL."""
        return "forward" if self.gradient.startswith("forward KL") else "reverse"


def kl_fact(trainer: str, settings: Mapping[str, str]) -> KlFact:
    """Look a run's KL up.

    Args:
        trainer: trl, verl or openrlhf.
        settings: the trainer's settings, by the end of their names as in DEFAULTS; the others have their defaults.

    Raises:
        KeyError: a setting is not in DEFAULTS.
        ValueError: the coefficient is no number.
    """
    for name in settings:
        DEFAULTS[trainer][name]
    if trainer == TRL and settings.get("algorithm", "grpo").lower() != "grpo":
        settings = {"beta": RLOO_BETA, **settings}
    values = {name: str(value) for name, value in {**DEFAULTS[trainer], **settings}.items()}
    number, beta, shown = FINDERS[trainer](values)
    text = ", ".join(f"{name}={values[name]}" for name in shown)
    if beta == 0 or not number:
        return KlFact("", text, "", "", beta)
    row, (gradient, off_policy) = f"{TITLES[trainer]} {number}", MEASURED[trainer][number - 1]
    return KlFact(row, text, gradient, off_policy, beta, _divides_by_spread(trainer, values))


def _divides_by_spread(trainer: str, values: Mapping[str, str]) -> bool:
    if trainer == TRL:
        return values["algorithm"].lower() == "grpo" and values["scale_rewards"].lower() in ("group", "true")
    if trainer == VERL:
        by_std = values["adv_estimator"] == "grpo" and _is_true(values["norm_adv_by_std_in_grpo"])
        return by_std and _is_true(values["use_kl_loss"])
    return _is_true(values["algo.kl.use_loss"]) and values["algo.advantage.estimator"] == "group_norm"


def _is_true(value: str) -> bool:
    return value.lower() in ("true", "1", "yes", "on")


def _trl(values: Mapping[str, str]) -> tuple[int, float, tuple[str, ...]]:
    """The row of docs/kl.md (0: none), the coefficient, and the settings that decide."""
    beta, algorithm = float(values["beta"]), values["algorithm"].lower()
    if algorithm != "grpo":
        return {"rloo": 10, "gmpo": 11, "a2po": 12}.get(algorithm, 0), beta, ("algorithm", "beta")
    shown: tuple[str, ...] = ("beta", "use_bias_correction_kl", "importance_sampling_level", "loss_type")
    column = {
        **dict.fromkeys(("dr_grpo", "luspo", "dapo", "cispo", "vespo"), 1),
        **dict.fromkeys(("grpo", "sapo"), 2),
        "bnpo": 3,
    }.get(values["loss_type"], 0)
    if not column:
        return 0, beta, shown
    block = 0 if not _is_true(values["use_bias_correction_kl"]) else 3
    if block and values["importance_sampling_level"] != "token":
        block = 6
    return block + column, beta, shown


def _verl(values: Mapping[str, str]) -> tuple[int, float, tuple[str, ...]]:
    """As `_trl`."""
    by_length = values["loss_agg_mode"] == "seq-mean-token-mean"
    in_loss, in_reward = _is_true(values["use_kl_loss"]), _is_true(values["use_kl_in_reward"])
    if in_loss and in_reward:
        both = ("use_kl_loss", "kl_loss_type", "use_kl_in_reward", "kl_penalty")
        return 0, float(values["kl_loss_coef"]) + float(values["kl_coef"]), both
    if in_loss:
        kinds = (("kl", "k1"), ("abs",), ("mse", "k2", "mse+", "k2+"), ("low_var_kl", "k3"))
        last = ("kl+", "k1+", "abs+", "low_var_kl+", "k3+")
        pair = next((n for n, names in enumerate((*kinds, last)) if values["kl_loss_type"] in names), None)
        number = 0 if pair is None else 2 * pair + 1 + by_length
        return number, float(values["kl_loss_coef"]), ("use_kl_loss", "kl_loss_coef", "kl_loss_type", "loss_agg_mode")
    shown = ("use_kl_in_reward", "kl_coef", "kl_penalty", "adv_estimator", "loss_agg_mode")
    if not in_reward:
        return 0, 0.0, ("use_kl_loss", "use_kl_in_reward")
    kind = values["kl_penalty"].removesuffix("+")
    column = {"kl": 0, "k1": 0, "abs": 1, "mse": 2, "k2": 2, "low_var_kl": 3, "k3": 3}.get(kind)
    estimator, number = values["adv_estimator"], 0
    if column is not None and estimator in ("rloo", "remax") and not by_length:
        number = 11 + 2 * column + (estimator == "remax")
    elif column == 0 and estimator == "rloo":
        number = 19
    elif column == 0 and estimator == "grpo" and _is_true(values["norm_adv_by_std_in_grpo"]) and not by_length:
        number = 20
    return number, float(values["kl_coef"]), shown


def _openrlhf(values: Mapping[str, str]) -> tuple[int, float, tuple[str, ...]]:
    """As `_trl`."""
    beta, kind = float(values["algo.kl.init_coef"]), values["algo.kl.estimator"]
    column = {"k1": 1, "k2": 2, "k3": 3}.get(kind, 0)
    if _is_true(values["algo.kl.use_loss"]):
        in_loss = ("algo.kl.use_loss", "algo.kl.init_coef", "algo.kl.estimator", "algo.kl.unbiased_gradient")
        unbiased = column and _is_true(values["algo.kl.unbiased_gradient"])
        return 4 if unbiased else column, beta, in_loss
    known = values["algo.advantage.estimator"] in ("rloo", "dr_grpo", "group_norm", "flash_reinforce")
    shown = ("algo.kl.init_coef", "algo.kl.estimator", "algo.advantage.estimator")
    return 4 + column if column and known else 0, beta, shown


Finder = Callable[[Mapping[str, str]], tuple[int, float, tuple[str, ...]]]
FINDERS: dict[str, Finder] = {TRL: _trl, VERL: _verl, OPENRLHF: _openrlhf}
