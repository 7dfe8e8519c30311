"""python -m llm, llm.evaluate and llm.ensemble."""

import math
import re
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, ClassVar

from conf.schema.base import ConfigError, Section, check_config, key, show
from conf.schema.equivalence import EQUIVALENCES, EquivalenceSection
from conf.schema.objective import ObjectiveConfig
from conf.schema.run import JobConfig, RunConfig
from core.rules import Choices

DTYPES = ("auto", "float32", "bfloat16")
CHAT_TEMPLATE = "switches of the chat template, such as {enable_thinking: false}"


def check_device(name: str, value: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ConfigError(f"{name}: must be auto, cpu, cuda or cuda:N, got {value}")


@dataclass
class LoraConfig(Section):
    """A low-rank adapter, W + (alpha / rank) B A; without dropout, so that what is sampled is what is scored."""

    rank: int | None = key("of a low-rank adapter (LoRA); null: no adapter, all weights train", default=None, low=1)
    alpha: int = key("scale of the adapter, alpha / rank", default=32, above=0)
    target_modules: list[str] = key(
        "ends of the names of the layers that get an adapter, or [all-linear]", factory=lambda: ["all-linear"]
    )

    def check(self, prefix: str) -> None:
        if not self.target_modules:
            raise ConfigError(f"{prefix}target_modules: must name a layer, or be [all-linear], got []")


@dataclass
class ModelConfig(Section):
    """A causal language model and how to load it."""

    name_or_path: str = key("policy at the start, and reference: a folder, a hub name, or tiny, tiny_many, ...")
    dtype: str = key("of the weights; auto: bfloat16 on a GPU that has it, else float32", choices=DTYPES)
    device: str = key("auto, cpu, cuda or cuda:N")
    chat_template: dict[str, Any] = key(CHAT_TEMPLATE)
    attention: str = key(
        "transformers' implementation where prompts are not read packed",
        choices=("auto", "eager", "sdpa", "flash_attention_2"),
    )
    gradient_checkpointing: bool = key("recompute activations in the backward pass: less memory, more time")
    reference_on_cpu: bool = key("keep the reference on the CPU between the passes that need it")
    compile_decoding: bool = key("compile the sampling step with torch.compile: faster after a minute of compiling")
    lora: LoraConfig = key("a low-rank adapter", factory=LoraConfig)

    def check(self, prefix: str) -> None:
        check_device(f"{prefix}device", self.device)
        if self.lora.rank is not None and self.reference_on_cpu:
            raise ConfigError(
                f"{prefix}reference_on_cpu: must be false with {prefix}lora.rank, where the reference is the policy "
                "with the adapter off, got true"
            )


@dataclass
class LlmObjectiveConfig(ObjectiveConfig):
    entropy_final: float | None = key("entropy_coef changes linearly to this value; null: it is constant", low=0)


@dataclass
class UpdateConfig(Section):
    """How often a batch of completions is used, and how far a policy may move from the one that sampled it."""

    epochs: int = key("passes over a step's completions", low=1)
    minibatches: int = key("updates in an epoch, each of whole groups", low=1)
    clip_low: float | None = key(
        "the probability ratio is clipped below 1 - clip_low; null: it is not", low=0, high=1
    )
    clip_high: float | None = key("the probability ratio is clipped above 1 + clip_high; null: it is not", low=0)
    ratio: str = key("what is clipped: each token's ratio or the sequence's", choices=("token", "sequence"))

    @property
    def count(self) -> int:
        """Updates of a step."""
        return self.epochs * self.minibatches


@dataclass
class TaskConfig(Section):
    """Prompts and a reward: a module of llm.tasks, or an import path package.module:Class."""

    name: str = key("a module of llm.tasks, or package.module:Class")


@dataclass
class SourceConfig(Section):
    """A data set: a hub name, or a JSON, JSON Lines or Parquet file in `data.root`."""

    path: str | None = key("a JSON, JSON Lines or Parquet file, or a hub name; null: none")
    subset: str | None = key("of a hub's data set that has several")
    split: str = key("of a hub's data set")
    count: int | None = key("records to use, chosen by seed; null: all", low=1)

    def check(self, prefix: str) -> None:
        if self.path == "":
            raise ConfigError(f"{prefix}path: must be a file, a hub name or null, got ''")


@dataclass
class DataConfig(Section):
    """What a task reads; the task says what a record must have."""

    root: str | None = key("folder of data files with a relative path; null: the environment variable MARA_DATA")
    train: SourceConfig = key("what the task trains on")
    evaluation: SourceConfig = key("what the task is evaluated on")


@dataclass
class RewardPartConfig(Section):
    """A term of the reward: a Python function or a sequence-classification model, times its weight."""

    function: str | None = key("package.module:function of (prompts, completions), or task", default=None)
    model: str | None = key("a reward model's folder or hub name, or tiny_reward, tiny_reward_other", default=None)
    weight: float = key("of this part in the sum", default=1.0)


@dataclass
class RewardConfig(Section):
    """What scores completions: the weighted sum of `parts`, or the task's own reward where there are none.

    Parts are by name, each with the keys of RewardPartConfig. They are not typed as such, because Hydra then could
    not add one.
    """

    parts: dict[str, Any] = key(
        "NAME: {function: package.module:function, or model: NAME; weight}; {}: the task's own"
    )
    evaluation: dict[str, Any] = key("the same, computed in evaluation and never trained on")
    on_failure: str = key(
        "of an exception or a value that is not finite: stop the run, or drop that completion",
        choices=("stop", "drop"),
    )
    batch_size: int = key("conversations in one forward pass of a reward model", low=1)

    def __post_init__(self) -> None:
        for group in ("parts", "evaluation"):
            parts = {name: reward_part(f"reward.{group}.{name}", part) for name, part in getattr(self, group).items()}
            setattr(self, group, parts)

    def check(self, prefix: str) -> None:
        both = sorted(set(self.parts) & set(self.evaluation))
        if both:
            raise ConfigError(f"{prefix}evaluation: must have other names than {prefix}parts, got {both[0]} in both")


def reward_part(name: str, given: Any) -> RewardPartConfig:
    """A checked part of the reward, from its mapping."""
    if isinstance(given, RewardPartConfig):
        return given
    allowed = [f.name for f in fields(RewardPartConfig)]
    if not isinstance(given, dict):
        raise ConfigError(f"{name}: must be a mapping of {', '.join(allowed)}, got {show(given)}")
    for unknown in given.keys() - set(allowed):
        raise ConfigError(f"{name}.{unknown}: no such key; allowed: {', '.join(allowed)}")
    part = RewardPartConfig(**given)
    for kind, value in (("function", part.function), ("model", part.model)):
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{name}.{kind}: must be text or null, got {show(value)}")
    if (part.function is None) == (part.model is None):
        raise ConfigError(
            f"{name}: must have either function or model, got function={show(part.function)}, "
            f"model={show(part.model)}"
        )
    number = isinstance(part.weight, int | float) and not isinstance(part.weight, bool)
    if not number or not math.isfinite(part.weight) or part.weight == 0:
        raise ConfigError(f"{name}.weight: must be a finite number and not 0, got {show(part.weight)}")
    check_config(part, f"{name}.")
    return part


@dataclass
class LlmConfig(RunConfig):
    """Post-training of a causal language model."""

    samples_reference: ClassVar[bool] = True
    compares_texts: ClassVar[bool] = True

    model: ModelConfig = key("a causal language model and how to load it")
    task: TaskConfig = key("prompts and a reward")
    objective: LlmObjectiveConfig = key("E[R] - beta D(policy, reference) + entropy_coef H(policy)")
    update: UpdateConfig = key("of the policy by the completions of a step")
    reference_completions: int | None = key(
        "of each prompt, sampled from the reference with objective.placement=reference; null: group_size", low=1
    )
    data: DataConfig = key("what a task reads")
    reward: RewardConfig = key("what scores completions")
    prompts_per_step: int = key("prompts of a step; each gets group_size completions", low=1)
    group_size: int = key("completions of each prompt")
    max_new_tokens: int = key("tokens of a completion, at most", low=1)
    truncated: str = key(
        "keep: a completion cut at max_new_tokens keeps its reward and is never good; drop: it does not count",
        choices=("keep", "drop"),
    )
    micro_batch: int = key("sequences in one forward and backward pass, at most: memory, not the result", low=1)
    micro_batch_tokens: int | None = key(
        "tokens in one pass, prompts and padding included, at most; null: any number", low=1
    )
    evaluation_completions: int = key("of the base and of the trained policy, for the closing table", low=1)
    sample_every: int = key("steps between lines of samples.jsonl; 0: none", low=0)

    def check(self, prefix: str) -> None:
        super().check(prefix)
        self.check_group_size("group_size", self.group_size)
        if self.update.minibatches > self.prompts_per_step:
            raise ConfigError(
                f"update.minibatches: must be <= prompts_per_step, groups are never split, got "
                f"{self.update.minibatches} and {self.prompts_per_step}"
            )
        if self.reference_completions is not None and self.objective.placement != "reference":
            raise ConfigError(
                f"reference_completions: only used with objective.placement=reference; set it to null, got "
                f"{self.reference_completions}"
            )
        if self.model.compile_decoding and self.engine.name.startswith("zero3"):
            raise ConfigError(
                f"model.compile_decoding: must be false with engine={self.engine.name}, whose layers gather their "
                "weights in hooks, got true"
            )

    def choices(self) -> Choices:
        return replace(super().choices(), updates=self.update.count)

    def objective_arguments(self) -> dict[str, Any]:
        clip = {"clip_low": self.update.clip_low, "clip_high": self.update.clip_high}
        given = {name: value for name, value in clip.items() if value is not None}
        return {**super().objective_arguments(), **given, "ratio": self.update.ratio}


@dataclass
class EvaluateConfig(JobConfig, EquivalenceSection):
    """What is evaluated, one of run, model and generations, and by which measures (docs/metrics.md)."""

    run: str | None = key("a run folder of python -m llm: its policy, with the run's prompts, reward and answers")
    model: str | None = key("a folder or hub name of a causal language model")
    generations: str | None = key(
        "JSON Lines with id, prompt, generations, as NoveltyBench writes them; partition and generation_scores are "
        "used where a line has them"
    )
    compare: str | None = key("a second file of generations, for a second column and the paired difference")
    prompts: str | None = key("JSON Lines with id and prompt; null: those of the run or the experiment")
    experiment: str | None = key(
        "of python -m llm: its prompts, reward and answers, with model or generations; null: the run's"
    )
    dtype: str = key("of the model's weights", choices=DTYPES)
    device: str = key("auto, cpu, cuda or cuda:N")
    chat_template: dict[str, Any] = key(f"{CHAT_TEMPLATE}; with run: on top of the run's")
    completions: int = key("completions of each prompt, at temperature 1", low=1)
    max_new_tokens: int | None = key("tokens of a completion, at most; null: the run's", low=1)
    batch: int = key("completions sampled at a time: memory, not the result", low=1)
    vocabulary: int = key("V of EAD, which changes its value greatly", low=2)
    equivalence: str | None = key(
        "when two completions are the same: exact (NFKC, case folded, white space one space), embedding, classifier "
        "(as NoveltyBench: yimingzhang/deberta-v3-large-generation-similarity with the tokenizer of "
        "microsoft/deberta-v3-large); null: the file's partition",
        choices=EQUIVALENCES,
    )
    patience: float = key("weight of each generation in utility over that of the one before", above=0, high=1)
    score_thresholds: list[float] | None = key(
        "nine increasing values of reward_out, for utility: a score is 1 plus the number of values passed. "
        "NoveltyBench's, of Skywork/Skywork-Reward-Gemma-2-27B-v0.2: "
        "[-7.71875,-6.28125,-6.0,-5.71875,-5.5,-5.0,-4.375,-3.4375,-2.046875]"
    )
    reward_in: str | None = key(
        "what was trained on: a reward model's folder or hub name, or package.module:function of (prompts, "
        "completions); null: the run's or experiment's"
    )
    reward_out: str | None = key("what was not trained on, in the same way")
    reward_batch: int = key("conversations in one forward pass of a reward model", low=1)
    correct_reward: float | None = key("reward_in from which a completion is correct; null: the task's")
    pass_at: list[int] = key("the k of pass@k", low=1)

    def check(self, prefix: str) -> None:
        self._check_source()
        check_device("device", self.device)
        self.check_models("", self.equivalence)
        if self.score_thresholds is not None:
            rising = all(a < b for a, b in pairwise(self.score_thresholds))
            if len(self.score_thresholds) != 9 or not rising:
                raise ConfigError(
                    f"score_thresholds: must be nine rising numbers, for scores from 1 to 10, got "
                    f"{self.score_thresholds}"
                )
        if len(set(self.pass_at)) < len(self.pass_at):
            raise ConfigError(f"pass_at: must not repeat a number, got {self.pass_at}")

    def _check_source(self) -> None:
        given = [name for name in ("run", "model", "generations") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                f"generations: give exactly one of run, model and generations, got {' and '.join(given) or 'none'}"
            )
        if self.generations is not None:
            for name in ("prompts", "max_new_tokens"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name}: must be null with generations, got {getattr(self, name)}")
            return
        if self.equivalence is None:
            raise ConfigError(
                f"equivalence: must be one of {', '.join(EQUIVALENCES)} where completions are sampled, got null"
            )
        if self.run is not None and self.experiment is not None:
            raise ConfigError(f"experiment: cannot be combined with run=, got {self.experiment}")
        if self.model is not None and self.max_new_tokens is None:
            raise ConfigError("max_new_tokens: must be >= 1 with model, got null")
        if self.model is not None and self.prompts is None and self.experiment is None:
            raise ConfigError("prompts: must be a file with model, unless experiment is given, got null")


@dataclass
class EnsembleConfig(JobConfig):
    """llm.ensemble: a policy's weights averaged with its reference's."""

    policy: str = key("a run of llm, a folder or a hub name")
    reference: str = key("the model it started from: the same, or tiny, tiny_many, ...")
    weight: float = key("of the policy", low=0, high=1)
