"""The type, domain and legal combinations of every configuration key.

Standard library only, so that --help and mistakes are answered without loading torch. A class is built, and so
checked, by OmegaConf.to_object. Every message starts with the key it is about.
"""

import math
import re
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import pairwise, product
from typing import Any

MISSING: Any = "???"  # OmegaConf's mark for a value that must be given


class ConfigError(ValueError):
    """A value that cannot be run with. The message names the key, what is allowed and what was found."""


class Direction(Enum):
    reverse = "reverse"
    forward = "forward"
    jensen_shannon = "jensen_shannon"
    alpha = "alpha"


class Level(Enum):
    sequence = "sequence"
    token = "token"


class Placement(Enum):
    reward = "reward"
    loss = "loss"
    reference = "reference"  # of completions sampled from the reference


class Advantage(Enum):
    leave_one_out = "leave_one_out"
    centred = "centred"
    group_normalised = "group_normalised"
    no_baseline = "no_baseline"
    max_at_k = "max_at_k"
    pass_at_k = "pass_at_k"


class ThresholdKind(Enum):
    constant = "constant"
    quantile = "quantile"


class Truncated(Enum):
    keep = "keep"
    drop = "drop"


class RewardFailure(Enum):
    stop = "stop"
    drop = "drop"


class Resume(Enum):
    auto = "auto"
    must = "must"
    never = "never"


class BestMode(Enum):
    max = "max"
    min = "min"


class Decay(Enum):
    constant = "constant"
    linear = "linear"
    cosine = "cosine"


@dataclass
class ObjectiveConfig:
    """E[R] - beta D(policy, reference) + entropy_coef H(policy)."""

    beta: float = MISSING  # reward units per nat
    direction: Direction = MISSING
    level: Level = MISSING
    placement: Placement = MISSING
    entropy_coef: float = MISSING  # reward units per nat
    alpha: float | None = None  # of the alpha divergence
    max_log_weight: float | None = None  # cap on log(reference / policy) under forward KL, nats; null: none
    gamma: float = MISSING  # discount of the per-token return
    length_normalised: bool = MISSING
    mask_tied: bool = MISSING  # leave out groups whose raw rewards are all equal

    def __post_init__(self) -> None:
        check_range("objective.beta", self.beta, low=0)
        check_range("objective.entropy_coef", self.entropy_coef, low=0)
        check_range("objective.gamma", self.gamma, above=0, high=1)
        if self.direction is not Direction.alpha and self.alpha is not None:
            raise ConfigError(
                f"objective.alpha: must be null with direction={self.direction.name}, found {self.alpha}"
            )
        if self.direction is Direction.alpha and (
            self.alpha is None or self.alpha in (0, 1) or not math.isfinite(self.alpha)
        ):
            raise ConfigError(
                f"objective.alpha: must be finite with direction=alpha, and neither 0 (use direction=forward) nor 1 "
                f"(use direction=reverse), found {show(self.alpha)}"
            )
        if self.max_log_weight is not None:
            check_range("objective.max_log_weight", self.max_log_weight, low=0)
            if (self.direction, self.placement) != (Direction.forward, Placement.reward):
                raise ConfigError(
                    "objective.max_log_weight: only used with direction=forward and placement=reward; set it to "
                    f"null, found {self.max_log_weight} with direction={self.direction.name}, "
                    f"placement={self.placement.name}"
                )
        if self.direction is Direction.forward and not self.beta > 0:
            raise ConfigError(f"objective.beta: must be > 0 under direction=forward, found {self.beta}")
        if self.direction is Direction.jensen_shannon and self.placement is Placement.loss:
            raise ConfigError(
                "objective.placement: Jensen-Shannon has no term for the loss, use placement=reward, found loss"
            )
        if self.length_normalised and (self.level, self.placement) == (Level.token, Placement.reward):
            raise ConfigError(
                "objective.length_normalised: a length-normalised loss has no per-token reward, use placement=loss "
                "or level=sequence, found true"
            )


@dataclass
class ThresholdConfig:
    """What counts as good: a reward of `value`, or each group's `value`-quantile and at least `floor`."""

    kind: ThresholdKind = MISSING
    value: float | None = MISSING  # null: nothing is called good
    floor: float | None = MISSING

    def __post_init__(self) -> None:
        if self.value is None:
            if self.floor is not None:
                raise ConfigError(
                    f"transform.threshold.floor: must be null without transform.threshold.value, found {self.floor}"
                )
            return
        if self.kind is ThresholdKind.quantile:
            check_range("transform.threshold.value", self.value, low=0, high=1, note=" with kind=quantile")
        else:
            check_range("transform.threshold.value", self.value)
            if self.floor is not None:
                raise ConfigError(
                    f"transform.threshold.floor: must be null with kind=constant, where value alone decides, "
                    f"found {self.floor}"
                )
        if self.floor is not None:
            check_range("transform.threshold.floor", self.floor)


@dataclass
class TransformConfig:
    """A reward transform; the threshold is logged with every one of them and used by those that need it."""

    name: str = MISSING
    threshold: ThresholdConfig = MISSING

    def __post_init__(self) -> None:
        check_name("transform", self)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the function of this name in `core.transforms`."""
        threshold = self.threshold
        if threshold.value is None:
            return {"threshold": None}
        return {"threshold": {"kind": threshold.kind.name, "value": threshold.value, "floor": threshold.floor}}


@dataclass
class IdentityConfig(TransformConfig):
    """Vanilla KL-regularised RL: rewards as they are."""

    name: str = "identity"


@dataclass
class MaraConfig(TransformConfig):
    """Mode-anchored reward augmentation."""

    name: str = "mara"
    algorithm: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("transform.algorithm", self.algorithm, ("auto", "1", "2"))
        check_threshold(self, "transform=mara")

    def options(self) -> dict[str, Any]:
        return {**super().options(), "algorithm": self.algorithm}


@dataclass
class GoodTransformConfig(TransformConfig):
    """One that treats good samples, rewards of transform.threshold and above, otherwise than the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold(self, f"transform={self.name}")


@dataclass
class UnlikelyConfig(GoodTransformConfig):
    """Good samples get reward * (1 - strength rank/G), the least likely having rank 0."""

    name: str = "unlikely"
    strength: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("transform.strength", self.strength, low=0, high=1)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "strength": self.strength}


@dataclass
class DifferentialSmoothingConfig(GoodTransformConfig):
    """-correct_coef log pi is added to the advantage of good samples, wrong_coef log pi to that of the others."""

    name: str = "differential_smoothing"
    correct_coef: float = MISSING  # reward units per nat
    wrong_coef: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("transform.correct_coef", self.correct_coef, low=0)
        check_range("transform.wrong_coef", self.wrong_coef, low=0)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "correct_coef": self.correct_coef, "wrong_coef": self.wrong_coef}


@dataclass
class UcpoConfig(GoodTransformConfig):
    """Good samples that are rarer than the group's other good ones get a larger advantage."""

    name: str = "ucpo"
    coef: float = MISSING  # reward units per nat

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("transform.coef", self.coef, low=0)

    def options(self) -> dict[str, Any]:
        return {**super().options(), "coef": self.coef}


@dataclass
class DarlingConfig(TransformConfig):
    """The reward times a completion's diversity within its group."""

    name: str = "darling"
    equivalence: str = MISSING
    embedder: str | None = MISSING  # these as in EvaluateConfig
    embedding_threshold: float = MISSING
    classifier: str | None = MISSING
    classifier_tokenizer: str | None = MISSING
    classifier_threshold: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("transform.equivalence", self.equivalence, ("answer", *EQUIVALENCES))
        check_equivalence("transform.", self)


@dataclass
class BetaScheduleConfig:
    name: str = MISSING

    def __post_init__(self) -> None:
        check_name("beta_schedule", self)

    def options(self) -> dict[str, Any]:
        """The options of `core.schedules.make_schedule`."""
        return {}


@dataclass
class ConstantBetaConfig(BetaScheduleConfig):
    """beta stays at objective.beta."""

    name: str = "constant"


@dataclass
class AdaptiveBetaConfig(BetaScheduleConfig):
    """beta starts at objective.beta and is steered towards a KL budget."""

    name: str = "adaptive"
    kl_target: float = MISSING  # nats

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("beta_schedule.kl_target", self.kl_target, above=0)

    def options(self) -> dict[str, Any]:
        return {"kl_target": self.kl_target}


@dataclass
class LinearBetaConfig(BetaScheduleConfig):
    """beta goes from objective.beta at the first step to `final` at the last, in a line."""

    name: str = "linear"
    final: float = MISSING  # reward units per nat

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("beta_schedule.final", self.final, low=0)

    def options(self) -> dict[str, Any]:
        return {"final": self.final}


@dataclass
class CosineBetaConfig(LinearBetaConfig):
    """As linear, along half a cosine."""

    name: str = "cosine"


@dataclass
class AutomaticBetaConfig(BetaScheduleConfig):
    """beta starts at objective.beta and is then a quantile of what makes pairs of good samples tie."""

    name: str = "automatic"
    quantile: float = MISSING
    low: float = MISSING  # reward units per nat
    high: float = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("beta_schedule.quantile", self.quantile, low=0, high=1)
        check_range("beta_schedule.low", self.low, above=0)
        check_range("beta_schedule.high", self.high, low=self.low, note=" (beta_schedule.low)")

    def options(self) -> dict[str, Any]:
        return {"quantile": self.quantile, "low": self.low, "high": self.high}


@dataclass
class OptimizerConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = MISSING
    weight_decay: float = MISSING
    beta1: float = MISSING
    beta2: float = MISSING
    warmup_steps: int = MISSING
    decay: Decay = MISSING
    max_grad_norm: float | None = MISSING  # null: no clipping

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, above=0)
        check_range("optimizer.weight_decay", self.weight_decay, low=0)
        check_range("optimizer.beta1", self.beta1, low=0, below=1)
        check_range("optimizer.beta2", self.beta2, low=0, below=1)
        check_range("optimizer.warmup_steps", self.warmup_steps, low=0)
        if self.max_grad_norm is not None:
            check_range("optimizer.max_grad_norm", self.max_grad_norm, above=0)


@dataclass
class EngineConfig:
    """What steps the optimiser."""

    name: str = MISSING

    def __post_init__(self) -> None:
        check_choice("engine.name", self.name, ("torch", "zero1", "zero2", "zero3", "zero3_offload"))


@dataclass
class CheckpointConfig:
    """When to save all that the next step needs, and what to keep; always at the end, and when asked to leave."""

    every_seconds: float = MISSING
    every_steps: int | None = MISSING
    keep: int = MISSING  # how many of the last; 0: no checkpoints at all
    best: str | None = MISSING  # a key of metrics.jsonl: the checkpoint with the best value is kept as well
    best_mode: BestMode = MISSING

    def __post_init__(self) -> None:
        check_range("checkpoint.every_seconds", self.every_seconds, low=0)
        if self.every_steps is not None:
            check_range("checkpoint.every_steps", self.every_steps, low=1)
        check_range("checkpoint.keep", self.keep, low=0)


@dataclass
class JobConfig:
    """What every command's run has, also one without training steps."""

    seed: int = MISSING
    threads: int | None = MISSING  # of torch on the CPU; null: torch's own choice
    resume: Resume = MISSING  # what to do where the run folder holds a run

    def __post_init__(self) -> None:
        check_range("seed", self.seed, low=0)
        if self.threads is not None:
            check_range("threads", self.threads, low=1)


@dataclass
class TrainingConfig(JobConfig):
    """What every run that trains has."""

    optimizer: OptimizerConfig = MISSING
    engine: EngineConfig = MISSING
    checkpoint: CheckpointConfig = MISSING
    writers: list[str] = MISSING  # beside metrics.jsonl

    def __post_init__(self) -> None:
        super().__post_init__()
        for writer in self.writers:
            check_choice("writers", writer, ("tensorboard", "wandb"))


@dataclass
class RunConfig(TrainingConfig):
    """What every package's run of KL-regularised RL has."""

    steps: int = MISSING
    objective: ObjectiveConfig = MISSING
    transform: TransformConfig = MISSING
    advantage: Advantage = MISSING
    advantage_k: int | None = MISSING  # of max_at_k (null: all of the group) and pass_at_k
    beta_schedule: BetaScheduleConfig = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("steps", self.steps, low=1)
        self._check_advantage()
        if isinstance(self.transform, DarlingConfig) and not isinstance(self, LlmConfig):
            check_choice("transform.equivalence", self.transform.equivalence, ("answer",))
        if self.objective.placement is Placement.reference and not isinstance(self, LlmConfig):
            raise ConfigError(
                "objective.placement: must be reward or loss where no completions are sampled from the reference, "
                "found reference"
            )
        check_objective(self.objective, self.transform, self.advantage, self.beta_schedule)

    def _check_advantage(self) -> None:
        if self.advantage is Advantage.pass_at_k:
            check_threshold(self.transform, "advantage=pass_at_k")
        if self.advantage_k is None:
            if self.advantage is Advantage.pass_at_k:
                raise ConfigError("advantage_k: must be >= 1 with advantage=pass_at_k, found null")
            return
        if self.advantage not in (Advantage.max_at_k, Advantage.pass_at_k):
            raise ConfigError(
                f"advantage_k: must be null with advantage={self.advantage.name} (it is for max_at_k and pass_at_k), "
                f"found {self.advantage_k}"
            )
        low = 1 if self.advantage is Advantage.pass_at_k else 2
        check_range("advantage_k", self.advantage_k, low=low, note=f" with advantage={self.advantage.name}")

    def objective_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `core.objective.make_objective`."""
        o = self.objective
        return {
            "transform": self.transform.name,
            "transform_options": self.transform.options(),
            "advantage": self.advantage.name,
            "advantage_k": self.advantage_k,
            "direction": o.direction.name,
            "level": o.level.name,
            "placement": o.placement.name,
            "entropy_coef": o.entropy_coef,
            "alpha": o.alpha,
            "max_log_weight": math.inf if o.max_log_weight is None else o.max_log_weight,
            "gamma": o.gamma,
            "length_normalised": o.length_normalised,
            "mask_tied": o.mask_tied,
        }


def check_objective(
    objective: ObjectiveConfig, transform: TransformConfig, advantage: Advantage, schedule: BetaScheduleConfig
) -> None:
    """Refuse combinations whose optimum is another one than the paper's, each with the way out (`core.objective`)."""
    if isinstance(schedule, AdaptiveBetaConfig) and not objective.beta > 0:
        raise ConfigError(f"objective.beta: must be > 0 with beta_schedule=adaptive, found {objective.beta}")
    if isinstance(schedule, AutomaticBetaConfig):
        check_threshold(transform, "beta_schedule=automatic")
    needs_beta = objective.direction is Direction.forward or isinstance(transform, MaraConfig)
    if isinstance(schedule, LinearBetaConfig) and needs_beta and not schedule.final > 0:
        why = "transform=mara" if isinstance(transform, MaraConfig) else "direction=forward"
        raise ConfigError(f"beta_schedule.final: must be > 0 with {why}, found {schedule.final}")
    if objective.placement is Placement.reference and objective.level is not Level.sequence:
        raise ConfigError(
            "objective.level: must be sequence with placement=reference, which is of whole completions of the "
            f"reference, found {objective.level.name}"
        )
    if isinstance(transform, DarlingConfig) and advantage is Advantage.group_normalised:
        raise ConfigError(
            "advantage: must be centred or leave_one_out with transform=darling (it is defined without division by "
            "the standard deviation), found group_normalised"
        )
    if advantage is Advantage.pass_at_k and isinstance(transform, MaraConfig | UnlikelyConfig | DarlingConfig):
        raise ConfigError(
            f"transform: must be identity with advantage=pass_at_k, which sees only which samples are good, and "
            f"nothing of what {transform.name} does to rewards, found {transform.name}"
        )
    if not isinstance(transform, MaraConfig):
        return
    if objective.placement is Placement.reference:
        raise ConfigError(
            "objective.placement: must be reward with transform=mara (the reference's completions are not drawn from "
            "the anchored one), found reference"
        )
    if advantage is Advantage.max_at_k:
        raise ConfigError(
            "advantage: must not be max_at_k with transform=mara, whose optimum is that of the expected reward; use "
            "advantage=leave_one_out or transform=identity, found max_at_k"
        )
    if not objective.beta > 0:
        raise ConfigError(
            f"objective.beta: must be > 0 with transform=mara (without a KL term there is no pull to undo; use "
            f"transform=identity), found {objective.beta}"
        )
    if objective.direction not in (Direction.reverse, Direction.forward):
        raise ConfigError(
            f"objective.direction: must be reverse or forward with transform=mara, found {objective.direction.name}"
        )
    algorithm = transform.algorithm
    if algorithm == "auto":
        algorithm = "1" if objective.direction is Direction.reverse else "2"
    if algorithm == "2" and objective.level is Level.token:
        raise ConfigError(
            "objective.level: must be sequence with MARA's Algorithm 2, whose anchor has no tokens of its own, "
            "found token"
        )
    if algorithm == "2" and objective.placement is not Placement.reward:
        raise ConfigError(
            "objective.placement: must be reward with MARA's Algorithm 2, where the baseline takes out which anchor "
            f"a group happens to have, found {objective.placement.name}"
        )
    if objective.length_normalised:
        raise ConfigError(
            "objective.length_normalised: must be false with transform=mara (it makes the effective beta depend on "
            "length), found true"
        )
    if objective.gamma != 1:
        raise ConfigError(
            f"objective.gamma: must be 1 with transform=mara (a discount makes the effective beta depend on "
            f"length), found {objective.gamma}"
        )
    in_reward = (objective.placement, objective.level) == (Placement.reward, Level.sequence)
    if advantage is Advantage.group_normalised and not in_reward:
        raise ConfigError(
            "advantage: group_normalised with transform=mara needs the KL inside the reward before normalising; use "
            "objective.placement=reward with objective.level=sequence, or advantage=leave_one_out, found "
            f"placement={objective.placement.name}, level={objective.level.name}"
        )


def check_range(
    key: str,
    value: float,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    note: str = "",
) -> None:
    """Raise ConfigError unless value is finite and within [low or (above, high] or below)."""
    bounds = [
        f"{sign} {bound}"
        for sign, bound in ((">=", low), (">", above), ("<=", high), ("<", below))
        if bound is not None
    ]
    inside = (
        (isinstance(value, int) or math.isfinite(value))  # isfinite overflows where an int has 309 digits
        and (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
        and (below is None or value < below)
    )
    if not inside:
        allowed = " and ".join(["finite", *bounds] if isinstance(value, float) else bounds)
        raise ConfigError(f"{key}: must be {allowed}{note}, found {value}")


def check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}: must be one of {', '.join(allowed)}, found {value}")


def check_dtype(key: str, value: str) -> None:
    check_choice(key, value, ("auto", "float32", "bfloat16"))


def check_device(key: str, value: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ConfigError(f"{key}: must be auto, cpu, cuda or cuda:N, found {value}")


def check_group_size(key: str, size: int, config: RunConfig) -> None:
    low = 1 if config.advantage is Advantage.no_baseline else 2
    if config.advantage_k is not None and config.advantage_k > low:
        check_range(key, size, low=config.advantage_k, note=" (advantage_k)")
    check_range(key, size, low=low)


def check_name(group: str, option: TransformConfig | BetaScheduleConfig) -> None:
    """The name comes with the option's file: another one alone would not bring that option's keys."""
    if option.name != type(option).name:
        raise ConfigError(
            f"{group}.name: must be {type(option).name} here; pick another with {group}=OPTION, found {option.name}"
        )


def check_threshold(transform: TransformConfig, what: str) -> None:
    if transform.threshold.value is None:
        raise ConfigError(
            "transform.threshold.value: must be a reward, or with kind=quantile a number in [0, 1], with "
            f"{what}, found null"
        )


def show(value: object) -> str:
    """A value as YAML would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "''" if value == "" else str(value)


# --- launchers ----------------------------------------------------------------------------------------------


@dataclass
class LocalLauncherConfig:
    """hydra/launcher=local: each job of a sweep a process of its own on this machine, under submitit."""

    _target_: str = "hydra_plugins.mara.ClusterLauncher"
    cluster: str = "local"
    name: str = "${hydra.job.name}"
    nodes: int = 1
    tasks_per_node: int = 1  # ranks of a job
    gpus_per_node: int | None = None
    array_parallelism: int = MISSING  # jobs that run at a time
    timeout_min: int = MISSING
    on_failure: str = MISSING  # continue, stop, retry:N
    wait: bool = True  # launch.submit does not
    dry_run: bool = False  # show what would be submitted

    def __post_init__(self) -> None:
        key = "hydra.launcher"
        check_choice(f"{key}.cluster", self.cluster, ("local", "slurm"))
        check_range(f"{key}.nodes", self.nodes, low=1)
        check_range(f"{key}.tasks_per_node", self.tasks_per_node, low=1)
        check_range(f"{key}.array_parallelism", self.array_parallelism, low=1, note=" (jobs that run at a time)")
        check_range(f"{key}.timeout_min", self.timeout_min, low=1, note=" (minutes; 0 would never end)")
        if self.gpus_per_node is not None:
            check_range(f"{key}.gpus_per_node", self.gpus_per_node, low=1, note=", or null for none")
            if self.tasks_per_node > self.gpus_per_node:
                raise ConfigError(
                    f"{key}.tasks_per_node: must be <= {key}.gpus_per_node, for a rank has a GPU of its own, found "
                    f"{self.tasks_per_node} ranks and {self.gpus_per_node} GPUs"
                )
        if not re.fullmatch(r"continue|stop|retry:[1-9]\d*", self.on_failure):
            raise ConfigError(
                f"{key}.on_failure: must be continue, stop or retry:N with N >= 1, found {show(self.on_failure)}"
            )


@dataclass
class SlurmLauncherConfig(LocalLauncherConfig):
    """hydra/launcher=slurm: each job of a sweep a task of a job array, or several where it has ranks."""

    cluster: str = "slurm"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    comment: str | None = None
    cpus_per_task: int | None = None
    mem_gb: float | None = None  # of a node
    signal_delay_s: int = MISSING  # before the time limit a run is told to save and leave
    setup: list[str] = field(default_factory=list)  # lines of shell before the job
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # of sbatch, as --key=value

    def __post_init__(self) -> None:
        super().__post_init__()
        key = "hydra.launcher"
        if self.cpus_per_task is not None:
            check_range(f"{key}.cpus_per_task", self.cpus_per_task, low=1)
        if self.mem_gb is not None:
            check_range(f"{key}.mem_gb", self.mem_gb, above=0, note=" (SLURM takes 0 for all of the node's memory)")
        check_range(f"{key}.signal_delay_s", self.signal_delay_s, low=1)
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ConfigError(
                f"{key}.signal_delay_s: must be < 60 * {key}.timeout_min, or a run is told to leave as it begins, "
                f"found {self.signal_delay_s} s and {self.timeout_min} min"
            )
        own = {"array", "output", "error", "open-mode", "signal", "requeue", "no-requeue", "time", "nodes"}
        taken = sorted(own & {name.replace("_", "-") for name in self.additional_parameters})
        if taken:
            raise ConfigError(
                f"{key}.additional_parameters: must not hold what the launcher sets itself, found {', '.join(taken)}"
            )

    @property
    def ranks(self) -> int:
        return self.nodes * self.tasks_per_node


# --- didactic -----------------------------------------------------------------------------------------------


class Gradient(Enum):
    exact = "exact"
    sampled = "sampled"


class Start(Enum):
    uniform = "uniform"
    reference = "reference"


class Family(Enum):
    categorical = "categorical"
    gaussian = "gaussian"


@dataclass
class ProblemConfig:
    """Outcomes with a reference and a reward: `table` takes both lists, the others are in `didactic.problems`."""

    name: str = MISSING
    ref: list[float] | None = None  # probabilities
    reward: list[float] | None = None

    def __post_init__(self) -> None:
        check_choice("problem.name", self.name, ("table", "plateaus", "two_bumps", "bimodal"))
        if self.name != "table":
            if self.ref is not None or self.reward is not None:
                raise ConfigError(
                    f"problem.name: must be table to give problem.ref or problem.reward, found {self.name}"
                )
            return
        if not self.ref or not self.reward or len(self.ref) != len(self.reward):
            raise ConfigError(
                f"problem.reward: must be a list as long as problem.ref, found {show(self.reward)} "
                f"and {show(self.ref)}"
            )
        if not (min(self.ref) >= 0 and abs(sum(self.ref) - 1) <= 1e-6):
            raise ConfigError(f"problem.ref: must be probabilities that sum to 1, found {self.ref}")
        if not all(math.isfinite(value) for value in self.reward):
            raise ConfigError(f"problem.reward: must be finite, found {self.reward}")


@dataclass
class DidacticObjectiveConfig(ObjectiveConfig):
    """`beta` and `direction` are one value or a list of values; checked with each cell of the grid."""

    beta: Any = MISSING
    direction: Any = MISSING

    def __post_init__(self) -> None:
        if self.level is not Level.sequence:
            raise ConfigError(
                f"objective.level: must be sequence (a completion is one token), found {self.level.name}"
            )
        if self.gamma != 1:
            raise ConfigError(f"objective.gamma: must be 1 (a completion is one token), found {self.gamma}")
        if self.length_normalised:
            raise ConfigError("objective.length_normalised: must be false (a completion is one token), found true")


@dataclass
class BothTransformsConfig(MaraConfig):
    """identity and mara, side by side."""

    name: str = "both"


@dataclass
class BothSchedulesConfig(AdaptiveBetaConfig):
    """constant and adaptive, side by side."""

    name: str = "both"


@dataclass
class CellConfig(RunConfig):
    """One policy of the grid: what another package would call a run."""

    family: Family = MISSING
    start: Start = MISSING


@dataclass
class DidacticConfig(RunConfig):
    """Policies over a few outcomes, trained side by side.

    `objective.direction`, `objective.beta`, `family` and `start` are one value or a list of values; `transform` and
    `beta_schedule` may be `both`. All combinations are cells of the grid.
    """

    objective: DidacticObjectiveConfig = MISSING
    problem: ProblemConfig = MISSING
    family: Any = MISSING
    start: Any = MISSING
    gradient: Gradient = MISSING
    samples: int = MISSING  # drawn a step and cell with gradient=sampled
    log_every: int = MISSING

    def __post_init__(self) -> None:
        check_group_size("samples", self.samples, self)
        check_range("log_every", self.log_every, low=1)
        self._check_gradient()
        cells = self.cells()
        if self.optimizer.max_grad_norm is not None and len(cells) > 1:
            raise ConfigError(
                f"optimizer.max_grad_norm: must be null with several cells, which would share it, found "
                f"{self.optimizer.max_grad_norm}"
            )
        for cell in cells:
            if cell.objective.direction is not Direction.forward and min(self.problem.ref or [1.0]) == 0:
                raise ConfigError(
                    "problem.ref: must be > 0 everywhere unless direction=forward (no softmax policy leaves an "
                    f"outcome out, so the divergence may be infinite), found {self.problem.ref}"
                )

    def cells(self) -> list[CellConfig]:
        """Every combination, each checked as a run of its own."""
        shared = {f.name: getattr(self, f.name) for f in fields(RunConfig)}
        objective = {f.name: getattr(self.objective, f.name) for f in fields(ObjectiveConfig)}
        grid = product(
            one_or_more("family", self.family, Family),
            one_or_more("objective.direction", self.objective.direction, Direction),
            self._transforms(),
            self._beta_schedules(),
            one_or_more("objective.beta", self.objective.beta, float),
            one_or_more("start", self.start, Start),
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

    def _check_gradient(self) -> None:
        """Refuse what says how to estimate a gradient that is not estimated."""
        if self.gradient is Gradient.sampled:
            return
        if self.objective.placement is not Placement.reward:
            raise ConfigError(
                f"objective.placement: only used with gradient=sampled, leave it at reward, found "
                f"{self.objective.placement.name}"
            )
        if not isinstance(self.transform, IdentityConfig | MaraConfig):
            raise ConfigError(
                f"transform: must be identity or mara with gradient=exact (the others act on samples; use "
                f"gradient=sampled), found {self.transform.name}"
            )
        if self.objective.max_log_weight is not None:
            raise ConfigError(
                f"objective.max_log_weight: only used with gradient=sampled, leave it at null, found "
                f"{self.objective.max_log_weight}"
            )
        if self.objective.mask_tied:
            raise ConfigError("objective.mask_tied: only used with gradient=sampled, leave it at false, found true")
        if self.advantage is not Advantage.leave_one_out:
            raise ConfigError(
                f"advantage: only used with gradient=sampled, leave it at leave_one_out, found {self.advantage.name}"
            )


def one_or_more(key: str, value: Any, kind: type[float] | type[Enum]) -> list[Any]:
    """A value or a list of values of an axis of the grid, as a list of numbers or of members."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ConfigError(f"{key}: must be a value or a list of values, found []")
    if issubclass(kind, Enum):
        for name in values:
            check_choice(key, str(name), tuple(kind.__members__))
        values = [kind[name] for name in values]
    else:
        for number in values:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ConfigError(f"{key}: must be a number or a list of numbers, found {show(number)}")
        values = [float(number) for number in values]
    if len(set(values)) < len(values):
        raise ConfigError(f"{key}: must not repeat a value, found {value}")
    return values


# --- llm ----------------------------------------------------------------------------------------------------


@dataclass
class LoraConfig:
    """A low-rank adapter, W + (alpha / rank) B A; without dropout, for what is sampled is what is scored."""

    rank: int | None = None  # null: no adapter, all weights train
    alpha: int = 32
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])  # ends of the layers' names

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_range("model.lora.rank", self.rank, low=1)
        check_range("model.lora.alpha", self.alpha, above=0)
        if not self.target_modules:
            raise ConfigError("model.lora.target_modules: must name a layer, or be [all-linear], found []")


@dataclass
class ModelConfig:
    """A causal language model and how to load it."""

    name_or_path: str = MISSING  # a folder, a hub name, or one built and pretrained here: tiny, tiny_many, ...
    dtype: str = MISSING
    device: str = MISSING
    chat_template: dict[str, Any] = field(default_factory=dict)  # switches passed to the chat template
    attention: str = "auto"  # transformers' implementation where prompts are not read packed
    gradient_checkpointing: bool = False  # compute activations again in the backward pass instead of keeping them
    reference_on_cpu: bool = False  # between the passes that need it
    compile_decoding: bool = False  # torch.compile of the sampling step: sooner, after a minute of compiling
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        check_choice("model.attention", self.attention, ("auto", "eager", "sdpa", "flash_attention_2"))
        if self.lora.rank is not None and self.reference_on_cpu:
            raise ConfigError(
                "model.reference_on_cpu: must be false with model.lora.rank: its reference is the policy with "
                "the adapter off, found true"
            )
        check_dtype("model.dtype", self.dtype)
        check_device("model.device", self.device)


@dataclass
class LlmObjectiveConfig(ObjectiveConfig):
    entropy_final: float | None = None  # the entropy coefficient goes there in a line; null: it is constant

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.entropy_final is not None:
            check_range("objective.entropy_final", self.entropy_final, low=0)


@dataclass
class UpdateConfig:
    """How often a batch of completions is used, and how far a policy may go from the one that sampled it."""

    epochs: int = MISSING
    minibatches: int = MISSING  # of whole groups, in an epoch
    clip_low: float | None = MISSING  # null: no clipping
    clip_high: float | None = MISSING
    ratio: str = MISSING  # what is clipped: that of each token, or of the sequence

    def __post_init__(self) -> None:
        check_range("update.epochs", self.epochs, low=1)
        check_range("update.minibatches", self.minibatches, low=1)
        if self.clip_low is not None:
            check_range("update.clip_low", self.clip_low, low=0, high=1)
        if self.clip_high is not None:
            check_range("update.clip_high", self.clip_high, low=0)
        check_choice("update.ratio", self.ratio, ("token", "sequence"))

    @property
    def count(self) -> int:
        """Updates of a step."""
        return self.epochs * self.minibatches


@dataclass
class TaskConfig:
    """Prompts and a reward: a module of llm.tasks, or an import path package.module:Class."""

    name: str = MISSING


@dataclass
class SourceConfig:
    """A data set: a hub name, or a JSON, JSON Lines or Parquet file in `data.root`."""

    path: str | None = MISSING  # null: none
    subset: str | None = MISSING  # of a data set of a hub that has several
    split: str = MISSING
    count: int | None = MISSING  # records to use, chosen by `seed`; null: all

    def check(self, key: str) -> None:
        if self.path == "":
            raise ConfigError(f"{key}.path: must be a file, a hub name or null, found ''")
        if self.count is not None:
            check_range(f"{key}.count", self.count, low=1)


@dataclass
class DataConfig:
    """What a task reads; its own files say what a record must have."""

    root: str | None = MISSING  # folder of files with a relative path; null: MARA_DATA
    train: SourceConfig = MISSING
    evaluation: SourceConfig = MISSING

    def __post_init__(self) -> None:
        self.train.check("data.train")
        self.evaluation.check("data.evaluation")


@dataclass
class RewardPartConfig:
    """A term of the reward: a Python function or a sequence-classification model, times its weight."""

    function: str | None = None  # package.module:function of (prompts, completions), or task: the task's own
    model: str | None = None  # a folder, a hub name, or one made here: tiny_reward, tiny_reward_other
    weight: float = 1.0


@dataclass
class RewardConfig:
    """What scores completions: the weighted sum of `parts`, or the task's own reward where there are none.

    Parts are by name, each with the keys of RewardPartConfig; not typed as such, since Hydra then could not add one.
    """

    parts: dict[str, Any] = MISSING
    evaluation: dict[str, Any] = MISSING  # computed in evaluation, never trained on
    on_failure: RewardFailure = MISSING  # an exception, or a value that is not finite
    batch_size: int = MISSING  # conversations in one forward pass of a reward model

    def __post_init__(self) -> None:
        check_range("reward.batch_size", self.batch_size, low=1)
        self.parts = {name: reward_part(f"reward.parts.{name}", part) for name, part in self.parts.items()}
        self.evaluation = {
            name: reward_part(f"reward.evaluation.{name}", part) for name, part in self.evaluation.items()
        }
        both = sorted(set(self.parts) & set(self.evaluation))
        if both:
            raise ConfigError(f"reward.evaluation: must have other names than reward.parts, found {both[0]} in both")


def reward_part(key: str, given: Any) -> RewardPartConfig:
    """A checked part of the reward, from its mapping."""
    allowed = [f.name for f in fields(RewardPartConfig)]
    if not isinstance(given, dict):
        raise ConfigError(f"{key}: must be a mapping of {', '.join(allowed)}, found {show(given)}")
    for name in given:
        if name not in allowed:
            raise ConfigError(f"{key}.{name}: no such key; allowed: {', '.join(allowed)}; found {name}")
    part = RewardPartConfig(**given)
    for name, value in (("function", part.function), ("model", part.model)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{key}.{name}: must be text or null, found {show(value)}")
    if (part.function is None) == (part.model is None):
        raise ConfigError(
            f"{key}: must have either function or model, found function={show(part.function)}, "
            f"model={show(part.model)}"
        )
    number = isinstance(part.weight, int | float) and not isinstance(part.weight, bool)
    if not number or not math.isfinite(part.weight) or part.weight == 0:
        raise ConfigError(f"{key}.weight: must be a finite number and not 0, found {show(part.weight)}")
    return part


@dataclass
class EnsembleConfig(JobConfig):
    """llm.ensemble: a policy's weights averaged with its reference's."""

    policy: str = MISSING
    reference: str = MISSING
    weight: float = MISSING  # of the policy

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("weight", self.weight, low=0, high=1)


@dataclass
class LlmConfig(RunConfig):
    model: ModelConfig = MISSING
    task: TaskConfig = MISSING
    objective: LlmObjectiveConfig = MISSING
    update: UpdateConfig = MISSING
    reference_completions: int | None = MISSING  # of a prompt, with placement=reference; null: group_size
    data: DataConfig = MISSING
    reward: RewardConfig = MISSING
    prompts_per_step: int = MISSING
    group_size: int = MISSING
    max_new_tokens: int = MISSING
    truncated: Truncated = MISSING
    micro_batch: int = MISSING  # sequences in one forward and backward pass, at most
    micro_batch_tokens: int | None = MISSING  # tokens in one, prompts and padding included; null: any number
    evaluation_completions: int = MISSING
    sample_every: int = MISSING  # steps between lines of samples.jsonl; 0: none

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("prompts_per_step", self.prompts_per_step, low=1)
        check_group_size("group_size", self.group_size, self)
        self._check_updates()
        check_range("max_new_tokens", self.max_new_tokens, low=1)
        check_range("micro_batch", self.micro_batch, low=1)
        if self.micro_batch_tokens is not None:
            check_range("micro_batch_tokens", self.micro_batch_tokens, low=1)
        check_range("evaluation_completions", self.evaluation_completions, low=1)
        check_range("sample_every", self.sample_every, low=0)
        if self.model.compile_decoding and self.engine.name.startswith("zero3"):
            raise ConfigError(
                f"model.compile_decoding: must be false with engine={self.engine.name}, whose layers gather their "
                "weights in hooks, found true"
            )

    def objective_arguments(self) -> dict[str, Any]:
        clip = {"clip_low": self.update.clip_low, "clip_high": self.update.clip_high}
        given = {name: value for name, value in clip.items() if value is not None}
        return {**super().objective_arguments(), **given, "ratio": self.update.ratio}

    def _check_updates(self) -> None:
        if self.update.minibatches > self.prompts_per_step:
            raise ConfigError(
                f"update.minibatches: must be <= prompts_per_step, for a group stays whole, found "
                f"{self.update.minibatches} and {self.prompts_per_step}"
            )
        if self.update.count > 1 and self.objective.gamma != 1:
            raise ConfigError(
                f"objective.gamma: must be 1 with several updates of a batch, found {self.objective.gamma}"
            )
        if self.reference_completions is not None:
            check_range("reference_completions", self.reference_completions, low=1)
            if self.objective.placement is not Placement.reference:
                raise ConfigError(
                    f"reference_completions: only used with objective.placement=reference; set it to null, found "
                    f"{self.reference_completions}"
                )


@dataclass
class EvaluateConfig(JobConfig):
    """What is evaluated, one of run, model and generations, and by which measures (docs/metrics.md)."""

    run: str | None = None  # a run folder of python -m llm
    model: str | None = None  # a folder or hub name
    generations: str | None = None  # JSON Lines with id, prompt, generations; maybe partition, generation_scores
    compare: str | None = None  # a second file of generations, for a second column
    prompts: str | None = None  # JSON Lines with id and prompt
    experiment: str | None = None  # of python -m llm: whose prompts, reward and answers; null: the run's
    dtype: str = MISSING
    device: str = MISSING
    chat_template: dict[str, Any] = field(default_factory=dict)  # switches; with run: on top of the run's
    completions: int = MISSING  # of each prompt
    max_new_tokens: int | None = MISSING  # null: the run's
    batch: int = MISSING  # completions sampled at a time: memory, not the result
    vocabulary: int = MISSING  # V of EAD
    embedder: str | None = MISSING  # a folder or hub name; null: no semantic diversity
    equivalence: str | None = MISSING  # null: the file's partition
    embedding_threshold: float = MISSING  # cosine similarity from which two completions are equivalent
    classifier: str | None = MISSING  # a folder or hub name
    classifier_tokenizer: str | None = MISSING  # null: the classifier's own
    classifier_threshold: float = MISSING  # probability above which two completions are equivalent
    patience: float = MISSING  # of utility
    score_thresholds: list[float] | None = MISSING  # of reward_out: a score is 1, and 1 more for each one passed
    reward_in: str | None = MISSING  # a reward model's folder or hub name, or package.module:function
    reward_out: str | None = MISSING
    reward_batch: int = MISSING  # conversations in one forward pass of a reward model
    correct_reward: float | None = MISSING  # reward_in from which a completion is correct; null: the task's
    pass_at: list[int] = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_source()
        check_dtype("dtype", self.dtype)
        check_device("device", self.device)
        check_range("completions", self.completions, low=1)
        if self.max_new_tokens is not None:
            check_range("max_new_tokens", self.max_new_tokens, low=1)
        check_range("batch", self.batch, low=1)
        check_range("reward_batch", self.reward_batch, low=1)
        check_range("vocabulary", self.vocabulary, low=2)
        if self.equivalence is not None:
            check_choice("equivalence", self.equivalence, EQUIVALENCES)
        check_equivalence("", self)
        check_range("patience", self.patience, above=0, high=1)
        if self.score_thresholds is not None:
            ordered = all(a < b for a, b in pairwise(self.score_thresholds))
            if len(self.score_thresholds) != 9 or not ordered or not all(map(math.isfinite, self.score_thresholds)):
                raise ConfigError(
                    "score_thresholds: must be nine rising numbers, for scores from 1 to 10, found "
                    f"{self.score_thresholds}"
                )
        if self.correct_reward is not None:
            check_range("correct_reward", self.correct_reward)
        for k in self.pass_at:
            check_range("pass_at", k, low=1)
        if len(set(self.pass_at)) < len(self.pass_at):
            raise ConfigError(f"pass_at: must not repeat a number, found {self.pass_at}")

    def _check_source(self) -> None:
        given = [key for key in ("run", "model", "generations") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ConfigError(f"generations: must be given, or run, or model, one of the three, found {found}")
        if self.generations is not None:
            for key in ("prompts", "max_new_tokens"):
                if getattr(self, key) is not None:
                    raise ConfigError(f"{key}: must be null with generations, found {getattr(self, key)}")
            return
        if self.equivalence is None:
            raise ConfigError(
                f"equivalence: must be one of {', '.join(EQUIVALENCES)} for what is sampled here, found null"
            )
        if self.run is not None and self.experiment is not None:
            raise ConfigError(f"experiment: must be null with run, whose own it is, found {self.experiment}")
        if self.model is not None and self.max_new_tokens is None:
            raise ConfigError("max_new_tokens: must be >= 1 with model, found null")
        if self.model is not None and self.prompts is None and self.experiment is None:
            raise ConfigError("prompts: must be a file with model, or experiment must be given, found null")


EQUIVALENCES = ("exact", "embedding", "classifier")


def check_equivalence(prefix: str, config: "EvaluateConfig | DarlingConfig") -> None:
    """What an equivalence needs; prefix: of its keys."""
    for equivalence, key in (("embedding", "embedder"), ("classifier", "classifier")):
        if config.equivalence == equivalence and getattr(config, key) is None:
            raise ConfigError(
                f"{prefix}{key}: must be a folder or hub name with {prefix}equivalence={equivalence}, found null"
            )
    check_range(f"{prefix}embedding_threshold", config.embedding_threshold, low=-1, high=1)
    check_range(f"{prefix}classifier_threshold", config.classifier_threshold, low=0, below=1)


# --- oracles ------------------------------------------------------------------------------------------------

SHAPES: dict[str, tuple[str, ...]] = {  # transform of a component: the options it needs
    "identity": (),
    "sigmoid": ("low", "high", "k"),
    "reverse_sigmoid": ("low", "high", "k"),
    "double_sigmoid": ("low", "high", "k_low", "k_high", "divisor"),
    "step": ("edge", "side"),
    "interval": ("low", "high", "margin"),
}


class Aggregation(Enum):
    product = "product"
    geometric = "geometric"
    arithmetic = "arithmetic"


@dataclass
class ShapeConfig:
    """From a component's raw value to its score in [0, 1]: a function of `chem.oracles.shaping`."""

    name: str = "identity"
    low: float | None = None
    high: float | None = None
    k: float | None = None
    k_low: float | None = None
    k_high: float | None = None
    divisor: float | None = None
    edge: float | None = None
    side: str | None = None  # below, from
    margin: float | None = None  # 0: none

    def __post_init__(self) -> None:
        key = "oracle.components.transform"
        check_choice(f"{key}.name", self.name, tuple(SHAPES))
        needed = SHAPES[self.name]
        for option in (f.name for f in fields(self) if f.name != "name"):
            value = getattr(self, option)
            if (value is not None) != (option in needed):
                allowed = "given" if option in needed else "null"
                raise ConfigError(f"{key}.{option}: must be {allowed} with name={self.name}, found {show(value)}")
            if isinstance(value, float):
                positive = option in ("k", "k_low", "k_high", "divisor")
                check_range(
                    f"{key}.{option}", value, above=0 if positive else None, low=0 if option == "margin" else None
                )
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigError(f"{key}.high: must be > low, found {self.high} with low={self.low}")
        if self.side is not None:
            check_choice(f"{key}.side", self.side, ("below", "from"))

    def options(self) -> dict[str, Any]:
        """Keyword arguments of the function of this name."""
        return {option: getattr(self, option) for option in SHAPES[self.name]}


@dataclass
class ComponentConfig:
    """One property of the product, by name or by import path package.module:name."""

    name: str = MISSING
    parameters: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the component
    transform: ShapeConfig = field(default_factory=ShapeConfig)
    weight: float = 1.0
    label: str = ""  # under which values are recorded; the name where empty

    def __post_init__(self) -> None:
        self.label = self.label or self.name
        check_range("oracle.components.weight", self.weight, above=0)


@dataclass
class OracleConfig:
    """What is asked about a molecule: components, shaped to [0, 1] and aggregated."""

    components: list[ComponentConfig] = MISSING
    aggregation: Aggregation = Aggregation.product
    seed: int = 0  # of what is random in it; not the run's, so that the runs of a sweep share results
    workers: int | None = None  # processes; null: one a core
    time_limit_s: float = 60.0  # of one molecule
    max_failed_share: float = 0.5  # of the last 200 molecules (and at least 20): more failures stop the run

    def __post_init__(self) -> None:
        if not self.components:
            raise ConfigError("oracle.components: must be a list of at least one component, found []")
        labels = [component.label for component in self.components]
        for label in labels:
            if labels.count(label) > 1:
                raise ConfigError(
                    f"oracle.components: must have labels of their own (label: NAME), found {label} twice"
                )
        check_range("oracle.seed", self.seed, low=0)
        if self.workers is not None:
            check_range("oracle.workers", self.workers, low=1)
        check_range("oracle.time_limit_s", self.time_limit_s, above=0)
        check_range("oracle.max_failed_share", self.max_failed_share, low=0, high=1)


@dataclass
class StockConfig(JobConfig):
    """The default inventory of building blocks, and what can be made from it."""

    max_atoms: int = MISSING  # heavy atoms of a piece that is kept
    max_depth: int = MISSING  # reactions, one behind the other, to break a molecule down by
    inventory: str = MISSING  # make, default, or a file
    molecules: str | None = MISSING  # a file of SMILES; null: drawn from the shipped prior
    count: int = MISSING
    depth: int = MISSING  # of a route
    workers: int | None = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("max_atoms", "count", "depth"):
            check_range(key, getattr(self, key), low=1)
        check_range("max_depth", self.max_depth, low=0)
        if self.workers is not None:
            check_range("workers", self.workers, low=1)


@dataclass
class ChemEvaluateConfig(JobConfig):
    """A CSV of molecules and scores in the order they were generated."""

    file: str = MISSING
    smiles_column: str = MISSING
    score_column: str = MISSING
    screens: list[float] = MISSING
    circle_distance: float = MISSING  # Tanimoto, of #Circles
    shown: int = MISSING  # best molecules in the picture
    known: str | None = MISSING  # the prior's training set

    def __post_init__(self) -> None:
        super().__post_init__()
        check_screens(self.screens)
        check_range("circle_distance", self.circle_distance, low=0, below=1)
        check_range("shown", self.shown, low=1)


def check_screens(screens: list[float]) -> None:
    if not screens or len(set(screens)) < len(screens):
        raise ConfigError(f"screens: must be different scores, at least one, found {screens}")
    for screen in screens:
        check_range("screens", screen)


# --- chem ---------------------------------------------------------------------------------------------------


@dataclass
class NetworkConfig:
    """A network over SMILES tokens, in `chem.models.networks`."""

    name: str = MISSING


@dataclass
class RecurrentConfig(NetworkConfig):
    """REINVENT's: embedding, LSTM or GRU layers, linear output."""

    layers: int = MISSING
    hidden: int = MISSING
    embedding: int = MISSING
    dropout: float = MISSING  # between layers

    def __post_init__(self) -> None:
        check_choice("network.name", self.name, ("lstm", "gru"))
        for key in ("layers", "hidden", "embedding"):
            check_range(f"network.{key}", getattr(self, key), low=1)
        check_range("network.dropout", self.dropout, low=0, below=1)


@dataclass
class TransformerConfig(NetworkConfig):
    """Decoder-only."""

    layers: int = MISSING
    width: int = MISSING
    heads: int = MISSING
    positions: int = MISSING  # the longest sequence that can be read
    dropout: float = MISSING

    def __post_init__(self) -> None:
        check_choice("network.name", self.name, ("transformer",))
        for key in ("layers", "width", "heads", "positions"):
            check_range(f"network.{key}", getattr(self, key), low=1)
        check_range("network.dropout", self.dropout, low=0, below=1)
        if self.width % self.heads:
            raise ConfigError(f"network.heads: must divide network.width, found {self.heads} and {self.width}")


class Spelling(Enum):
    canonical = "canonical"
    randomised = "randomised"


@dataclass
class MoleculeFilterConfig:
    """Which molecules a prior is trained on."""

    elements: list[str] = MISSING  # symbols
    min_heavy_atoms: int = MISSING
    max_heavy_atoms: int = MISSING
    max_tokens: int = MISSING  # of the canonical SMILES, END included
    min_token_count: int = MISSING  # molecules that must have a token, or those that have it are left out
    largest_fragment: bool = MISSING  # of a salt or mixture; false: such molecules are left out

    def __post_init__(self) -> None:
        if not self.elements:
            raise ConfigError("filter.elements: must be symbols of elements, found none")
        check_range("filter.min_heavy_atoms", self.min_heavy_atoms, low=1)
        check_range("filter.max_heavy_atoms", self.max_heavy_atoms, low=self.min_heavy_atoms)
        check_range("filter.max_tokens", self.max_tokens, low=2)
        check_range("filter.min_token_count", self.min_token_count, low=1)


@dataclass
class PretrainConfig(TrainingConfig):
    """A prior from a file of SMILES."""

    data: str = MISSING  # a file of SMILES, plain or gzipped
    init: str | None = MISSING  # shipped, or a prior's folder to go on from; null: fresh weights
    filter: MoleculeFilterConfig = MISSING
    spelling: Spelling = MISSING
    validation_share: float = MISSING
    network: NetworkConfig = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    evaluate_every: int | None = MISSING  # updates between validations; null: once an epoch
    patience: int | None = MISSING  # validations without a better one before training stops; null: never
    max_tokens: int = MISSING  # longest sequence that the prior is to draw, END included
    report_samples: int = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("validation_share", self.validation_share, above=0, below=1)
        check_range("epochs", self.epochs, low=1)
        check_range("batch_size", self.batch_size, low=1)
        if self.evaluate_every is not None:
            check_range("evaluate_every", self.evaluate_every, low=1)
        if self.patience is not None:
            check_range("patience", self.patience, low=1)
        check_range("max_tokens", self.max_tokens, low=self.filter.max_tokens, note=" (filter.max_tokens)")
        check_range("report_samples", self.report_samples, low=1)
        if isinstance(self.network, TransformerConfig):
            check_range("network.positions", self.network.positions, low=self.max_tokens, note=" (max_tokens)")


class Duplicates(Enum):
    keep = "keep"
    drop = "drop"
    zero = "zero"


@dataclass
class ReplayConfig:
    """What is learnt from again: the best molecules so far."""

    size: int = MISSING  # molecules remembered; 0: none
    sample: int = MISSING  # of them that join each batch
    augmentations: int = MISSING  # updates after each step with batch and memory spelled anew
    purge: bool = MISSING  # forget molecules that the diversity filter penalises

    def __post_init__(self) -> None:
        check_range("replay.size", self.size, low=0)
        check_range("replay.sample", self.sample, low=0, high=self.size, note=" (replay.size)")
        check_range("replay.augmentations", self.augmentations, low=0)


@dataclass
class DiversityFilterConfig:
    """Which molecules share a bucket, and what they lose by it; `chem.filters`."""

    name: str = MISSING
    penalty: str = MISSING
    bucket_size: int = MISSING
    min_score: float = MISSING  # raw score from which a molecule enters a bucket
    min_similarity: float = MISSING  # of scaffolds in one bucket, with name=similarity

    def __post_init__(self) -> None:
        key = "diversity_filter"
        check_choice(f"{key}.name", self.name, ("none", "identical_murcko", "topological", "similarity"))
        check_choice(f"{key}.penalty", self.penalty, ("step", "sigmoid", "linear", "tanh"))
        check_range(f"{key}.bucket_size", self.bucket_size, low=1)
        check_range(f"{key}.min_score", self.min_score, low=0, high=1)
        check_range(f"{key}.min_similarity", self.min_similarity, low=0, high=1)


@dataclass
class StopConfig:
    """When a run ends before its steps and its budget do; shares over the last `window` steps, null: never."""

    window: int = MISSING
    min_validity: float | None = MISSING  # of the samples
    min_uniqueness: float | None = MISSING  # distinct molecules among the valid of a batch
    min_scaffolds: float | None = MISSING  # distinct scaffolds among the valid of a batch
    max_repeats: float | None = MISSING  # of the valid, met in an earlier step

    def __post_init__(self) -> None:
        check_range("stop.window", self.window, low=1)
        for key in ("min_validity", "min_uniqueness", "min_scaffolds", "max_repeats"):
            if getattr(self, key) is not None:
                check_range(f"stop.{key}", getattr(self, key), low=0, high=1)


@dataclass
class ChemConfig(RunConfig):
    """Post-training of a prior over SMILES."""

    prior: str = MISSING  # shipped, or a folder that chem.pretrain or chem.convert wrote
    oracle: OracleConfig = MISSING
    loss: str = MISSING
    batch_size: int = MISSING  # one group
    budget: int | None = MISSING  # distinct molecules that the oracle is asked about
    duplicates: Duplicates = MISSING
    replay: ReplayConfig = MISSING
    diversity_filter: DiversityFilterConfig = MISSING
    stop: StopConfig = MISSING
    cache: str | None = MISSING  # of the oracle's results: shared, a file, or null for none
    screens: list[float] = MISSING  # scores from which the closing figures count a molecule

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("batch_size", self.batch_size, low=1 if self.advantage is Advantage.no_baseline else 2)
        if self.budget is not None:
            check_range("budget", self.budget, low=1)
        check_screens(self.screens)
        if self.transform.name == "darling" and (self.replay.sample or self.replay.augmentations):
            raise ConfigError(
                "replay: must be off with transform=darling, whose diversity is of the batch alone, found "
                f"sample={self.replay.sample} and augmentations={self.replay.augmentations}"
            )
        if self.diversity_filter.name == "none" and self.replay.purge:
            raise ConfigError("replay.purge: must be false with diversity_filter.name=none, found true")
        check_choice("loss", self.loss, ("policy_gradient", "reinvent"))
        if self.loss == "reinvent":
            self._check_reinvent()

    def _check_reinvent(self) -> None:
        """REINVENT's loss is the policy gradient without a baseline, sequence KL reverse and in the reward."""
        o = self.objective
        needed: dict[str, tuple[Any, Any]] = {
            "objective.direction": (o.direction, Direction.reverse),
            "objective.level": (o.level, Level.sequence),
            "objective.placement": (o.placement, Placement.reward),
            "objective.entropy_coef": (o.entropy_coef, 0),
            "objective.length_normalised": (o.length_normalised, False),
            "objective.gamma": (o.gamma, 1),
            "objective.mask_tied": (o.mask_tied, False),
            "advantage": (self.advantage, Advantage.no_baseline),
        }
        for key, (found, allowed) in needed.items():
            if found != allowed:
                found, allowed = (getattr(value, "name", value) for value in (found, allowed))
                raise ConfigError(f"{key}: must be {show(allowed)} with loss=reinvent, found {show(found)}")
        if not o.beta > 0:
            raise ConfigError(f"objective.beta: must be > 0 with loss=reinvent (sigma is 1 / beta), found {o.beta}")
        if self.transform.name not in ("identity", "mara"):
            raise ConfigError(f"transform: must be identity or mara with loss=reinvent, found {self.transform.name}")


RUN_CONFIGS: dict[str, type[JobConfig]] = {
    "didactic": DidacticConfig,
    "llm": LlmConfig,
    "llm.ensemble": EnsembleConfig,
    "llm.evaluate": EvaluateConfig,
    "chem": ChemConfig,
    "chem.pretrain": PretrainConfig,
    "chem.evaluate": ChemEvaluateConfig,
    "chem.stock": StockConfig,
}
