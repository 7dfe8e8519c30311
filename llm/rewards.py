"""Rewards of completions: the task's own, a Python function, a sequence-classification model, or a weighted sum."""

import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError, load_object
from conf.schema.llm import RewardConfig, RewardPartConfig
from launch.engines import distributed
from launch.runs.checkpoint import tensors_hash
from llm.adapters import adapter_base, load_pretrained, load_tokenizer
from llm.inference.context import context_length
from llm.inference.prompts import Chat, conversation_ids
from llm.tasks.base import Task
from llm.testbed.names import resolve_model
from llm.testbed.tiny_models import REWARDS

RewardFunction = Callable[[Sequence[Chat], Sequence[str]], Sequence[float]]  # (prompts, completions) -> one each
MAX_SHOWN = 300  # characters of a prompt or completion in a message


class RewardPart(NamedTuple):
    """A term of the weighted sum. key: the configuration key that defines it, for error messages."""

    key: str
    function: RewardFunction
    weight: float


class Scores(NamedTuple):
    """Rewards of N completions.

    reward: [N] float32, the weighted sum; NaN where a part failed.
    parts: name -> [N] float32, each part before weighting; NaN where it failed.
    failure: message of a failed completion of any rank; None if none failed.
    """

    reward: Tensor
    parts: dict[str, Tensor]
    failure: str | None


class Reward:
    """The weighted sum of named parts."""

    def __init__(self, parts: Mapping[str, RewardPart], on_failure: str = "stop") -> None:
        self.parts = dict(parts)
        self.on_failure = on_failure

    def __call__(self, prompts: Sequence[Chat], completions: Sequence[str]) -> Scores:
        """Score each completion with its prompt. With several ranks, all of them must call this.

        Raises:
            ConfigError: a part did not return a finite number for a completion and on_failure is "stop"; the message
                shows the completion. Or a part returned the wrong number of rewards.
        """
        values: dict[str, Tensor] = {}
        failures: list[tuple[str, Exception | None]] = []
        for name, part in self.parts.items():
            rewards, errors = _score(part, prompts, completions)
            value = torch.tensor(rewards, dtype=torch.float64).float()
            failed = torch.nonzero(~value.isfinite()).flatten().tolist()
            for row in failed[:1]:
                error = errors.get(row)
                problem = rewards[row] if error is None else f"{type(error).__name__} ({error}){_place(error)}"
                failures.append((_failure_message(part.key, prompts[row], completions[row], problem), error))
            values[name] = value.masked_fill(~value.isfinite(), math.nan)
        own_message, cause = next(iter(failures), (None, None))
        messages = distributed.gather_objects(own_message)
        message = next((text for text in messages if text is not None), None)
        if message is not None and self.on_failure == "stop":  # raised on every rank
            raise ConfigError(f"{message}; reward.on_failure=drop excludes such completions") from cause
        total = sum(part.weight * values[name].double() for name, part in self.parts.items())
        return Scores(torch.as_tensor(total).float(), values, message)

    @property
    def identity(self) -> dict[str, str]:
        """Hash of the weights of each reward model, by reward/NAME; a checkpoint stores them."""
        models = {name: part.function for name, part in self.parts.items() if isinstance(part.function, ModelReward)}
        return {f"reward/{name}": tensors_hash(reward.model.named_parameters()) for name, reward in models.items()}


def _score(
    part: RewardPart, prompts: Sequence[Chat], completions: Sequence[str]
) -> tuple[list[float], dict[int, Exception]]:
    """Values of a part for each completion, NaN where it raises, and the exceptions by row.

    If the part raises for the whole batch, completions are scored one by one to find those that cause it.
    """
    try:
        return _call(part, prompts, completions), {}
    except (ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        batch_error = error
    values, errors = [], {}
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            values += _call(part, [prompt], [completion])
        except Exception as error:
            values.append(math.nan)
            errors[row] = error
    if not errors:  # only the batch as a whole fails
        raise batch_error
    return values, errors


def _call(part: RewardPart, prompts: Sequence[Chat], completions: Sequence[str]) -> list[float]:
    values: Any = part.function(prompts, completions)
    if (
        isinstance(values, str | bytes | Mapping)
        or not hasattr(values, "__iter__")
        or getattr(values, "ndim", 1) == 0
    ):
        raise ConfigError(f"{part.key}: must return a list with one reward per completion, got {_shorten(values)}")
    rewards = [_number(value) for value in values]
    if len(rewards) != len(completions):
        raise ConfigError(
            f"{part.key}: must return one reward per completion, got {len(rewards)} rewards for "
            f"{len(completions)} completions"
        )
    return rewards


def _place(error: Exception) -> str:
    """Where a reward raised an exception; empty if it was raised here."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames and frames[-1].filename != __file__ else ""
    )


def _number(value: Any) -> float:
    if value is None or isinstance(value, str | bytes):  # float() would take the text "1"
        raise TypeError(f"a reward must be a number, got {value!r}")
    return float(value)


def _failure_message(key: str, prompt: Chat, completion: str, problem: str | float) -> str:
    question = prompt[-1]["content"] if prompt else ""
    return (
        f"{key}: rewards must be finite, got {problem} for the completion {_shorten(completion)} of the prompt "
        f"{_shorten(question)}"
    )


def _shorten(text: Any) -> str:
    if not isinstance(text, str):
        return _shorten(repr(text))[1:-1]
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


class ModelReward:
    """A frozen sequence-classification model with one output, applied to the conversation in its chat template.

    The conversation is the prompt's turns with the completion as the assistant's turn, as on the model cards of
    Skywork-Reward. Rewards do not depend on how conversations are batched, except for rounding.
    """

    def __init__(self, key: str, name: str, device: torch.device, dtype: torch.dtype, batch_size: int) -> None:
        transformers_logging.disable_progress_bar()
        path = resolve_model(name, REWARDS)
        try:
            self.tokenizer = load_tokenizer(path)
            one_output = {} if adapter_base(path) is None else {"num_labels": 1}  # the base may have no head
            model, missing = load_pretrained(AutoModelForSequenceClassification, path, dtype=dtype, **one_output)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"{key}.model: must be a folder or hub name of a sequence-classification model, got {name} ({reason})"
            ) from None
        untrained = sorted(missing)
        if untrained or model.config.num_labels != 1:
            problem = f"no weights for {', '.join(untrained)}" if untrained else f"{model.config.num_labels} outputs"
            raise ConfigError(f"{key}.model: must be a trained model with one output, got {problem} in {name}")
        if self.tokenizer.chat_template is None:
            raise ConfigError(f"{key}.model: the tokenizer of {name} has no chat template")
        self.pad_id = self.tokenizer.pad_token_id
        model.config.get_text_config().pad_token_id = self.pad_id  # the model uses it to find the last token of a row
        self.batch_size = 1 if self.pad_id is None else batch_size
        self.model: Any = model.requires_grad_(False).eval()
        torch.nn.Module.to(self.model, device)
        self.device = device
        self.context = context_length(model.config)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Chat], completions: Sequence[str]) -> list[float]:
        """The model's output for each conversation."""
        rows = [self._ids(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # rows of similar length need little padding
        rewards = [0.0] * len(rows)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            for i, value in zip(batch, self._forward([rows[i] for i in batch]), strict=True):
                rewards[i] = value
        return rewards

    def _ids(self, prompt: Chat, completion: str) -> list[int]:
        ids = conversation_ids(self.tokenizer, prompt, completion)
        if self.context is not None and len(ids) > self.context:
            raise ValueError(f"{len(ids)} tokens do not fit into the {self.context} positions of the reward model")
        return ids

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
        ids = torch.full(mask.shape, self.pad_id or 0)
        ids[mask] = torch.tensor([token for row in rows for token in row])
        output = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        return output.logits[:, 0].float().tolist()


def make_reward(config: RewardConfig, task: Task, device: torch.device, dtype: torch.dtype) -> Reward:
    """The reward that training optimises: `reward.parts`, or the task's own reward if there are no parts.

    Raises:
        ConfigError: a function or model cannot be loaded, or there are no parts and the task has no reward.
    """
    if config.parts:
        parts = _make_parts("reward.parts", config.parts, config, task, device, dtype)
    else:
        parts = {"task": RewardPart("task.name", _task_reward(task, "task.name"), 1.0)}
    return Reward(parts, config.on_failure)


def make_evaluation_reward(config: RewardConfig, task: Task, device: torch.device, dtype: torch.dtype) -> Reward:
    """The rewards of `reward.evaluation`, possibly none, which are only computed in evaluation."""
    parts = _make_parts("reward.evaluation", config.evaluation, config, task, device, dtype)
    return Reward(parts, config.on_failure)


def _make_parts(
    group: str,
    part_configs: Mapping[str, RewardPartConfig],
    config: RewardConfig,
    task: Task,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, RewardPart]:
    parts = {}
    for name, part in part_configs.items():
        key = f"{group}.{name}"
        function: RewardFunction
        if part.model is not None:
            function = ModelReward(key, part.model, device, dtype, config.batch_size)
        elif part.function == "task":
            function = _task_reward(task, key)
        else:
            function = _load_function(str(part.function), key, task)
        parts[name] = RewardPart(key, function, part.weight)
    return parts


def _task_reward(task: Task, key: str) -> RewardFunction:
    if not task.has_reward():
        raise ConfigError(f"{key}: {type(task).__name__} has no reward of its own; define one in reward.parts")
    return task.rewards


def _load_function(path: str, key: str, task: Task | None) -> RewardFunction:
    """The function of (prompts, completions) at an import path.

    If it has a parameter `answers`, it also gets the right answers of each prompt. If `completions` is not its second
    parameter, as in functions written for TRL, the arguments are passed by name.
    """
    function: Callable[..., Sequence[float]] = load_object(f"{key}.function", path)
    if not callable(function):
        raise ConfigError(f"{key}.function: must be a function of (prompts, completions), got {path}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C have none
        return function
    parameters = signature.parameters
    by_name = "completions" in parameters and list(parameters)[1:2] != ["completions"]
    takes_answers = "answers" in parameters
    try:
        signature.bind(
            *(() if by_name else ([], [])),
            **({"prompts": [], "completions": []} if by_name else {}),
            **({"answers": []} if takes_answers else {}),
        )
    except TypeError as error:
        raise ConfigError(
            f"{key}.function: must be a function of (prompts, completions) or (prompts, completions, answers), but "
            f"{path} takes {signature} ({error})"
        ) from None
    if takes_answers and task is None:
        raise ConfigError(f"{key}.function: {path} takes the answers of a task, and there is no task")

    def reward(prompts: Sequence[Chat], completions: Sequence[str]) -> Sequence[float]:
        answers = {"answers": [task.right_answers(prompt) for prompt in prompts]} if task and takes_answers else {}
        if by_name:
            return function(prompts=prompts, completions=completions, **answers)
        return function(prompts, completions, **answers)

    return reward
