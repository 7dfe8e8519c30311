"""python -m llm, llm.evaluate and llm.ensemble."""

import math
import re
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar

from conf.schema.base import ConfigError, Section, check_config, check_range, key, yaml_text
from conf.schema.equivalence import EQUIVALENCES, EquivalenceSection
from conf.schema.objective import ObjectiveConfig
from conf.schema.rollout import RolloutConfig
from conf.schema.run import CONFIG_KEYS, JobConfig, RunConfig
from core.rules import LOSSES, RATIOS, Choices

DTYPES = ("auto", "float32", "bfloat16")
CHAT_TEMPLATE = "variables of the chat template, such as {enable_thinking: false}"


def _check_device(name: str, value: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ConfigError(f"{name}: must be auto, cpu, cuda or cuda:N, got {value}")


@dataclass
class LoraConfig(Section):
    """A low-rank adapter, W + (alpha / rank) B A.

    It has no dropout, because the policy that is trained must be the one that sampled.
    """

    rank: int | None = key(
        "rank of a low-rank adapter (LoRA); null: no adapter, all weights are trained",
        default=None,
        low=1,
        high=10**5,
    )
    alpha: int = key("the adapter is scaled by alpha / rank", default=32, above=0, high=10**6)
    target_modules: list[str] = key(
        "layers that get an adapter, by the ends of their names, or [all-linear]", factory=lambda: ["all-linear"]
    )

    def check(self, prefix: str) -> None:
        """Check that a layer gets the adapter."""
        if not self.target_modules:
            raise ConfigError(f"{prefix}target_modules: must name a layer, or be [all-linear], got []")


@dataclass
class StopConfig(Section):
    """What ends a completion, beside the model's eos tokens and the token that ends a turn in its chat template."""

    tokens: list[Any] = key("further tokens that end a completion, as text or as ids", factory=list, low=0)
    strings: list[str] = key(
        "texts that end a completion, with the token that completes one; the completion is cut before it",
        factory=list,
    )

    def check(self, prefix: str) -> None:
        """Check that tokens are text or ids, and that no text is empty."""
        for token in self.tokens:
            if isinstance(token, bool) or not isinstance(token, str | int) or token == "":
                raise ConfigError(f"{prefix}tokens: must be texts or ids, got {yaml_text(token)}")
        if "" in self.strings:
            raise ConfigError(f"{prefix}strings: must not be empty, got ''")


@dataclass
class ModelConfig(Section):
    """A causal language model and how to load it."""

    name_or_path: str = key(
        "the initial policy and the reference: a folder or hub name of a model or an adapter, smollm2, tiny, "
        "tiny_many, ... Unless they are set, model.device, model.dtype, threads, optimizer.lr and micro_batch follow "
        "from it"
    )
    dtype: str = key(
        "type of the weights: float32, bfloat16, or auto (bfloat16 on a GPU that supports it, otherwise float32)",
        choices=DTYPES,
    )
    device: str = key("device of the model: auto, cpu, cuda or cuda:N")
    chat_template: dict[str, Any] = key(CHAT_TEMPLATE)
    stop: StopConfig = key("what ends a completion", factory=StopConfig)
    attention: str = key(
        "attention implementation of transformers, for passes whose sequences are not packed",
        choices=("auto", "eager", "sdpa", "flash_attention_2"),
    )
    gradient_checkpointing: bool = key("recompute activations in the backward pass: less memory, more time")
    reference_on_cpu: bool = key("keep the reference in CPU memory while it is not used")
    compile_decoding: bool = key(
        "compile the sampling step with torch.compile: faster, after a minute of compilation"
    )
    cuda_graphs: bool = key(
        "on a GPU, record the sampling step as a CUDA graph and replay it for each token; not yet run on a GPU"
    )
    lora: LoraConfig = key("a low-rank adapter", factory=LoraConfig)

    def check(self, prefix: str) -> None:
        """Check the device, and that the reference is a model of its own if it goes to the CPU."""
        _check_device(f"{prefix}device", self.device)
        if self.lora.rank is not None and self.reference_on_cpu:
            raise ConfigError(
                f"{prefix}reference_on_cpu: must be false with {prefix}lora.rank, because the reference is then the "
                "policy without its adapter, got true"
            )
        if self.cuda_graphs and (self.compile_decoding or self.device == "cpu" or self.reference_on_cpu):
            raise ConfigError(
                f"{prefix}cuda_graphs: must be false with {prefix}compile_decoding, with {prefix}device=cpu and with "
                f"{prefix}reference_on_cpu, whose weights move, got true"
            )


@dataclass
class LlmObjectiveConfig(ObjectiveConfig):
    """The objective, with a schedule of the entropy bonus."""

    entropy_final: float | None = key(
        "entropy_coef changes linearly to this value at the last step; null: it is constant", low=0
    )


@dataclass
class CovarianceConfig(Section):
    """Which tokens Clip-Cov and KL-Cov choose by the covariance of advantage and log-probability."""

    share: float = key("share of the tokens of a batch that is chosen; at least one is", above=0, high=1)
    low: float = key("with update.loss=clip_cov, lower bound of the covariance of the chosen tokens")
    high: float = key("with update.loss=clip_cov, upper bound of it")
    coef: float = key("with update.loss=kl_cov, coefficient of the chosen tokens' |log ratio|", low=0)

    def check(self, prefix: str) -> None:
        """Check that the bounds are in order."""
        check_range(f"{prefix}high", self.high, low=self.low, note=f" ({prefix}low)")


@dataclass
class MatchConfig(Section):
    """DMPO's term: in each group the policy is matched to the softmax of the rewards."""

    coef: float = key("coefficient of the term in the loss; 0: none", low=0)
    temperature: float = key("the rewards are divided by it, reward units", above=0)


@dataclass
class UpdateConfig(Section):
    """How often the completions of a step are used, and how the ratio to the policy that sampled them is clipped."""

    epochs: int = key("passes over the completions of a step", low=1, high=10**4)
    minibatches: int = key("updates per epoch; groups are never split", low=1)
    clip_low: float | None = key(
        "the probability ratio is clipped to at least 1 - clip_low; null: no lower bound", low=0, high=1
    )
    clip_high: float | None = key(
        "the probability ratio is clipped to at most 1 + clip_high; null: no upper bound", low=0
    )
    ratio: str = key(
        "token: clip the ratio of each token; sequence: clip that of the whole completion; geometric_mean: clip the "
        "geometric mean of its tokens' ratios (GSPO)",
        choices=RATIOS,
    )
    loss: str = key(
        "policy_gradient: PPO's clipped loss; cispo: the clipped ratio is a weight; clip_cov: some tokens of large "
        "covariance have no gradient; kl_cov: they are held to the policy that sampled; flowrl: the squared "
        "difference to the target's log-probability per token",
        choices=tuple(name for name in LOSSES if name != "reinvent"),
    )
    redraw: int = key(
        "how many times a group whose rewards tie is drawn again (DAPO's dynamic sampling); 0: it is kept",
        low=0,
        high=1000,
    )
    covariance: CovarianceConfig = key("which tokens update.loss=clip_cov and kl_cov choose")
    match: MatchConfig = key("DMPO's term, which is added to the loss")

    @property
    def count(self) -> int:
        """Updates per step."""
        return self.epochs * self.minibatches

    def loss_options(self) -> dict[str, Any]:
        """Return the keyword arguments of the loss, without the clipping range."""
        names = {"clip_cov": ("share", "low", "high"), "kl_cov": ("share", "coef")}.get(self.loss, ())
        return {name: getattr(self.covariance, name) for name in names}


@dataclass
class TaskConfig(Section):
    """The task, which has prompts and a reward."""

    name: str = key("the task: a module of llm.tasks, or package.module:Class")


@dataclass
class SourceConfig(Section):
    """A data set: a hub name, or a file in `data.root`."""

    path: str | None = key(
        "data set: a .jsonl, .json, .csv or .tsv file, also with .gz, a .parquet file, or a hub name; null: none"
    )
    subset: str | None = key("subset of a data set from the hub; null: its default")
    split: str = key("split of a data set from the hub")
    count: int | None = key("number of records to use, chosen at random by the seed; null: all", low=1)

    def check(self, prefix: str) -> None:
        """Check that the path is not empty."""
        if self.path == "":
            raise ConfigError(f"{prefix}path: must be a file, a hub name or null, got ''")


@dataclass
class DataConfig(Section):
    """The data sets of a task, which defines the fields of a record."""

    root: str | None = key("folder of data files with a relative path; null: the environment variable MARA_DATA")
    train: SourceConfig = key("data set of prompts for training")
    evaluation: SourceConfig = key("data set of prompts for evaluation")


@dataclass
class RewardPartConfig(Section):
    """A term of the reward: a Python function or a sequence-classification model, times its weight."""

    function: str | None = key(
        "package.module:function of (prompts, completions) or (prompts, completions, answers), or task", default=None
    )
    model: str | None = key("folder or hub name of a reward model, or tiny_reward, tiny_reward_other", default=None)
    weight: float = key("weight of this part in the sum", default=1.0)


@dataclass
class RewardConfig(Section):
    """How completions are scored: by the weighted sum of `parts`, or by the task's own reward if there are none.

    Parts are mappings with the keys of RewardPartConfig, by name. They have no static type, because Hydra could then
    not add a part from the command line.
    """

    parts: dict[str, Any] = key(
        "terms of the reward, NAME: {function: package.module:function or model: NAME, weight}; {}: the task's own",
        entries=RewardPartConfig,
    )
    evaluation: dict[str, Any] = key(
        "further rewards in the same form, for evaluation only", entries=RewardPartConfig
    )
    on_failure: str = key(
        "if a reward raises an exception or is not finite: stop the run, or drop the completion",
        choices=("stop", "drop"),
    )
    batch_size: int = key("conversations per forward pass of a reward model", low=1, high=10**6)

    def __post_init__(self) -> None:
        for group in ("parts", "evaluation"):
            parts = {name: reward_part(f"reward.{group}.{name}", part) for name, part in getattr(self, group).items()}
            setattr(self, group, parts)

    def check(self, prefix: str) -> None:
        """Check that names are unique."""
        both = sorted(set(self.parts) & set(self.evaluation))
        if both:
            raise ConfigError(f"{prefix}evaluation: must have other names than {prefix}parts, got {both[0]} in both")


def reward_part(name: str, part: Any) -> RewardPartConfig:
    """Return a part of the reward from its mapping, checked; `name` is its key. Raises ConfigError."""
    if isinstance(part, RewardPartConfig):
        return part
    allowed = [field.name for field in fields(RewardPartConfig)]
    if not isinstance(part, dict):
        raise ConfigError(f"{name}: must be a mapping of {', '.join(allowed)}, got {yaml_text(part)}")
    for unknown in part.keys() - set(allowed):
        raise ConfigError(f"{name}.{unknown}: no such key; allowed: {', '.join(allowed)}")
    part = RewardPartConfig(**part)
    for kind, value in (("function", part.function), ("model", part.model)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{name}.{kind}: must be text or null, got {yaml_text(value)}")
    if (part.function is None) == (part.model is None):
        raise ConfigError(
            f"{name}: must have either function or model, got function={yaml_text(part.function)}, "
            f"model={yaml_text(part.model)}"
        )
    number = isinstance(part.weight, int | float) and not isinstance(part.weight, bool)
    if not number or not math.isfinite(part.weight) or part.weight == 0:
        raise ConfigError(f"{name}.weight: must be a finite number and not 0, got {yaml_text(part.weight)}")
    check_config(part, f"{name}.")
    return part


@dataclass
class LlmConfig(RunConfig):
    """Post-training of a causal language model."""

    samples_reference: ClassVar[bool] = True
    splits_weights: ClassVar[bool] = True
    equivalences: ClassVar[tuple[str, ...]] = ("answer", *EQUIVALENCES)
    config_keys: ClassVar[dict[str, str]] = {
        **CONFIG_KEYS,
        "loss": "update.loss",
        "ratio": "update.ratio",
        "match_coef": "update.match.coef",
        "redraw": "update.redraw",
        "sampler_correction": "rollout.correction",
        "sampler_bound": "rollout.bound",
        "behind": "rollout.asynchronous",
    }

    model: ModelConfig = key("a causal language model and how to load it")
    rollout: RolloutConfig = key("where the completions of a step are sampled")
    task: TaskConfig = key("prompts and a reward")
    objective: LlmObjectiveConfig = key("E[R] - beta D(policy, reference) + entropy_coef H(policy)")
    update: UpdateConfig = key("updates of the policy from the completions of a step")
    reference_completions: int | None = key(
        "with objective.placement=reference, completions sampled from the reference per prompt; null: group_size",
        low=1,
        high=10**5,
    )
    data: DataConfig = key("data sets of the task")
    reward: RewardConfig = key("how completions are scored")
    prompts_per_step: int = key("prompts per step; each gets group_size completions", low=1, high=10**6)
    group_size: int = key("completions per prompt", high=10**5)
    max_new_tokens: int = key("maximum number of tokens of a completion", low=1, high=10**6)
    truncated: str = key(
        "keep: a completion that is cut at max_new_tokens keeps its reward but is never good; drop: it is ignored",
        choices=("keep", "drop"),
    )
    micro_batch: int = key(
        "maximum number of sequences per forward and backward pass; affects memory, not the result", low=1
    )
    micro_batch_tokens: int | None = key(
        "maximum number of tokens per pass, prompts and padding included; null: no limit", low=1
    )
    evaluation_completions: int = key(
        "completions sampled from the initial and from the trained policy, for the final table", low=1, high=10**6
    )
    sample_every: int = key("steps between lines of samples.jsonl; 0: no samples", low=0)

    def check(self, prefix: str) -> None:
        """Check the size of the groups and minibatches, and the keys of other options."""
        super().check(prefix)
        self.check_group_size("group_size", self.group_size)
        if self.update.minibatches > self.prompts_per_step:
            raise ConfigError(
                f"update.minibatches: must be <= prompts_per_step, because groups are never split, got "
                f"{self.update.minibatches} and {self.prompts_per_step}"
            )
        if self.reference_completions is not None and self.objective.placement != "reference":
            raise ConfigError(
                f"reference_completions: is only used with objective.placement=reference; set it to null, got "
                f"{self.reference_completions}"
            )
        for name in ("compile_decoding", "cuda_graphs"):
            if getattr(self.model, name) and self.engine.name.startswith("zero3"):
                raise ConfigError(
                    f"model.{name}: must be false with engine={self.engine.name}, whose layers gather their weights "
                    "in hooks, got true"
                )

    def choices(self) -> Choices:
        """Return the choices that the rules of `core.rules` are about, with the number of updates per batch."""
        update = self.update
        return replace(
            super().choices(),
            updates=update.count,
            loss=update.loss,
            ratio=update.ratio,
            match_coef=update.match.coef,
            redraw=update.redraw,
            sampler_correction=self.rollout.correction_choice,
            sampler_bound=self.rollout.bound_choice,
            behind=self.rollout.behind,
        )

    def objective_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `core.objective.make_objective`, with the clipping range."""
        bounds = {"clip_low": self.update.clip_low, "clip_high": self.update.clip_high}
        clip = {name: bound for name, bound in bounds.items() if bound is not None}
        return {
            **super().objective_arguments(),
            **clip,
            "ratio": self.update.ratio,
            "policy_loss": self.update.loss,
            "policy_loss_options": self.update.loss_options(),
            "match_coef": self.update.match.coef,
            "match_temperature": self.update.match.temperature,
            "sampler_correction": self.rollout.correction_choice,
            "sampler_bound": self.rollout.bound_choice,
        }


@dataclass
class EvaluateConfig(JobConfig, EquivalenceSection):
    """What to evaluate (one of run, model and generations) and by which metrics (docs/metrics.md)."""

    run: str | None = key(
        "run folder of python -m llm: evaluate its policy, on the run's prompts, reward and answers"
    )
    model: str | None = key("folder or hub name of a causal language model to evaluate")
    generations: str | None = key(
        "file to evaluate: JSON Lines with id, prompt and generations, as NoveltyBench writes them; partition and "
        "generation_scores are used if a line has them"
    )
    compare: str | None = key("second file of generations, for a second column and the paired difference")
    prompts: str | None = key("JSON Lines with id and prompt; null: those of the run or the experiment")
    experiment: str | None = key(
        "experiment of python -m llm whose prompts, reward and answers are used with model or generations; null: none"
    )
    dtype: str = key("type of the model's weights", choices=DTYPES)
    device: str = key("device of the model: auto, cpu, cuda or cuda:N")
    chat_template: dict[str, Any] = key(f"{CHAT_TEMPLATE}; with run, they are added to the run's")
    stop: StopConfig = key("what ends a completion; with run, beside the run's", factory=StopConfig)
    completions: int = key("completions per prompt, sampled at temperature 1", low=1, high=10**6)
    max_new_tokens: int | None = key(
        "maximum number of tokens of a completion; null: that of the run", low=1, high=10**6
    )
    batch: int = key("completions sampled at a time; affects memory, not the result", low=1, high=10**6)
    vocabulary: int = key("V in the definition of EAD, whose value depends strongly on it", low=2)
    equivalence: str | None = key(
        "when two completions are the same: exact (equal after NFKC, case folding and collapsing white space), "
        "embedding, or classifier (NoveltyBench's is yimingzhang/deberta-v3-large-generation-similarity with the "
        "tokenizer of microsoft/deberta-v3-large); null: by the partition in the file",
        choices=EQUIVALENCES,
    )
    patience: float = key(
        "weight of each generation in NoveltyBench's utility, relative to the generation before it", above=0, high=1
    )
    score_thresholds: list[float] | None = key(
        "nine increasing values of reward_out, for utility: a score is 1 plus the number of values that it exceeds. "
        "NoveltyBench's values for Skywork/Skywork-Reward-Gemma-2-27B-v0.2 are "
        "[-7.71875,-6.28125,-6.0,-5.71875,-5.5,-5.0,-4.375,-3.4375,-2.046875]"
    )
    reward_in: str | None = key(
        "reward that was trained on: folder or hub name of a reward model, or package.module:function of (prompts, "
        "completions); null: that of the run or the experiment"
    )
    reward_out: str | None = key("reward that was not trained on, in the same form; null: none")
    reward_batch: int = key("conversations per forward pass of a reward model", low=1)
    correct_reward: float | None = key("completions with at least this reward_in are correct; null: the task decides")
    pass_at: list[int] = key("values of k for pass@k", low=1)

    def check(self, prefix: str) -> None:
        """Check the source, the device, and the keys of single metrics."""
        self._check_source()
        _check_device("device", self.device)
        self.check_models("", self.equivalence)
        if self.score_thresholds is not None:
            increasing = all(a < b for a, b in pairwise(self.score_thresholds))
            if len(self.score_thresholds) != 9 or not increasing:
                raise ConfigError(
                    f"score_thresholds: must be nine increasing numbers, for scores from 1 to 10, got "
                    f"{self.score_thresholds}"
                )
        if len(set(self.pass_at)) < len(self.pass_at):
            raise ConfigError(f"pass_at: must not repeat a number, got {self.pass_at}")

    def _check_source(self) -> None:
        sources = [name for name in ("run", "model", "generations") if getattr(self, name) is not None]
        if len(sources) != 1:
            raise ConfigError(
                f"generations: give exactly one of run, model and generations, got {' and '.join(sources) or 'none'}"
            )
        if self.generations is not None:
            for name in ("prompts", "max_new_tokens"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name}: must be null with generations=, since nothing is sampled, got {getattr(self, name)}"
                    )
            return
        if self.equivalence is None:
            raise ConfigError(
                f"equivalence: must be one of {', '.join(EQUIVALENCES)} with run= or model=, got null (only a file "
                "of generations can hold a partition)"
            )
        if self.run is not None and self.experiment is not None:
            raise ConfigError(f"experiment: cannot be combined with run=, got {self.experiment}")
        if self.model is not None and self.max_new_tokens is None:
            raise ConfigError("max_new_tokens: must be given with model=, a whole number >= 1")
        if self.model is not None and self.prompts is None and self.experiment is None:
            raise ConfigError("prompts: must be a file with model=, unless experiment= is given, got null")


@dataclass
class EnsembleConfig(JobConfig):
    """The average of a policy's weights and those of its reference."""

    policy: str = key("trained policy: a run folder of python -m llm, a model folder or a hub name")
    reference: str = key("model that the policy started from: likewise, or tiny, tiny_many, ...")
    weight: float = key("weight of the policy in the average", low=0, high=1)
