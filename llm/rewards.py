"""Rewards of completions: the task's own, a Python function, a sequence-classification model, or a weighted sum."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from conf.schema.base import ConfigError, load_object
from conf.schema.llm import RewardConfig, RewardPartConfig
from launch.engines import distributed
from launch.runs.checkpoint import tensors_hash
from llm.inference.prompts import Chat
from llm.tasks.base import Task
from llm.testbed.tiny_models import REWARDS, resolve_model

RewardFunction = Callable[[Sequence[Chat], Sequence[str]], Sequence[float]]  # (prompts, completions), one each
SHOWN = 300  # characters of a sample in a message


class Part(NamedTuple):
    """A term of the reward. key: what configures it, for messages."""

    key: str
    function: RewardFunction
    weight: float


class Scores(NamedTuple):
    """Rewards of N completions.

    reward: [N] float32, the weighted sum; NaN where a part failed.
    parts: name -> [N] float32 of each part, before its weight; NaN where it failed.
    failure: what went wrong with a completion that has no reward, of any rank; None where all have one.
    """

    reward: Tensor
    parts: dict[str, Tensor]
    failure: str | None


class Reward:
    """The weighted sum of named parts.

    identity: name -> hash of the weights of the reward models, for checkpoints.
    """

    def __init__(self, parts: Mapping[str, Part], on_failure: str = "stop") -> None:
        self.parts = dict(parts)
        self.on_failure = on_failure

    def __call__(self, prompts: Sequence[Chat], completions: Sequence[str]) -> Scores:
        """Score each completion for the prompt beside it; with several ranks, all of them must call it.

        Raises:
            ConfigError: a part gave no finite number for a completion, and such completions stop the run; the message
                shows that completion. Or a part gave another number of rewards than there are completions.
        """
        values: dict[str, Tensor] = {}
        failures: list[tuple[str, Exception | None]] = []
        for name, part in self.parts.items():
            found, errors = _values(part, prompts, completions)
            value = torch.tensor(found, dtype=torch.float64).float()
            failed = torch.nonzero(~value.isfinite()).flatten().tolist()
            for row in failed[:1]:
                what = _message(part.key, prompts[row], completions[row], errors.get(row, found[row]))
                failures.append((what, errors.get(row)))
            values[name] = value.masked_fill(~value.isfinite(), math.nan)
        message, error = next(iter(failures), (None, None))
        message = next((some for some in distributed.gather_objects(message) if some is not None), None)
        if message is not None and self.on_failure == "stop":  # on all ranks
            raise ConfigError(f"{message}; reward.on_failure=drop leaves such completions out") from error
        total = sum(part.weight * values[name].double() for name, part in self.parts.items())
        return Scores(torch.as_tensor(total).float(), values, message)

    @property
    def identity(self) -> dict[str, str]:
        models = {name: part.function for name, part in self.parts.items() if isinstance(part.function, ModelReward)}
        return {
            f"reward/{name}": tensors_hash(function.model.named_parameters()) for name, function in models.items()
        }


def _values(
    part: Part, prompts: Sequence[Chat], completions: Sequence[str]
) -> tuple[list[float], dict[int, Exception]]:
    """What a part gives for each completion, NaN where it raises; and the exceptions, by row.

    A batch that raises is scored again one by one, to find out which completions it is about.
    """
    try:
        return _numbers(part, prompts, completions), {}
    except (ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        together = error
    values, errors = [], {}
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            values += _numbers(part, [prompt], [completion])
        except Exception as error:
            values.append(math.nan)
            errors[row] = error
    if not errors:  # it is about the batch, not about any of its completions
        raise together
    return values, errors


def _numbers(part: Part, prompts: Sequence[Chat], completions: Sequence[str]) -> list[float]:
    found = [float(value) for value in part.function(prompts, completions)]
    if len(found) != len(completions):
        raise ConfigError(f"{part.key}: must give one reward a completion, got {len(found)} for {len(completions)}")
    return found


def _message(key: str, prompt: Chat, completion: str, found: Exception | float) -> str:
    what = f"{type(found).__name__} ({found})" if isinstance(found, Exception) else found
    asked = prompt[-1]["content"] if prompt else ""
    return (
        f"{key}: rewards must be finite, got {what} for the completion {_shortened(completion)} of the prompt "
        f"{_shortened(asked)}"
    )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


class ModelReward:
    """A frozen sequence-classification model with one output, which reads the conversation in its own chat template.

    So are the Skywork-Reward models used (their model cards): the prompt's turns, the completion as the assistant's.
    Rewards do not depend on which conversations share a forward pass, but for rounding.
    """

    def __init__(self, key: str, name: str, device: torch.device, dtype: torch.dtype, batch_size: int) -> None:
        transformers_logging.disable_progress_bar()
        path = resolve_model(name, REWARDS)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(
                f"{key}.model: must be a folder or hub name of a sequence-classification model, got {name} ({reason})"
            ) from None
        untrained = sorted(loading["missing_keys"])
        if untrained or model.config.num_labels != 1:
            found = f"no weights for {', '.join(untrained)}" if untrained else f"{model.config.num_labels} outputs"
            raise ConfigError(f"{key}.model: must be a trained model with one output, got {found} in {name}")
        if self.tokenizer.chat_template is None:
            raise ConfigError(f"{key}.model: must have a chat template, got none in {name}")
        self.pad_id = self.tokenizer.pad_token_id
        model.config.get_text_config().pad_token_id = self.pad_id  # where it looks for the end of a row
        self.batch_size = 1 if self.pad_id is None else batch_size
        self.model: Any = model.requires_grad_(False).eval()
        torch.nn.Module.to(self.model, device)
        self.device = device

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Chat], completions: Sequence[str]) -> list[float]:
        rows = [self._ids(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # rows of a length pad each other little
        rewards = [0.0] * len(rows)
        for first in range(0, len(order), self.batch_size):
            some = order[first : first + self.batch_size]
            for i, value in zip(some, self._forward([rows[i] for i in some]), strict=True):
                rewards[i] = value
        return rewards

    def _ids(self, prompt: Chat, completion: str) -> list[int]:
        turns = [*(dict(turn) for turn in prompt), {"role": "assistant", "content": completion}]
        return list(self.tokenizer.apply_chat_template(turns, return_dict=False))

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
        ids = torch.full(mask.shape, self.pad_id or 0)
        ids[mask] = torch.tensor([token for row in rows for token in row])
        output = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        return output.logits[:, 0].float().tolist()


def make_reward(config: RewardConfig, task: Task, device: torch.device, dtype: torch.dtype) -> Reward:
    """What training optimises: `reward.parts`, or the task's own reward where there are none.

    Raises:
        ConfigError: a function or a model that cannot be loaded, or no parts and a task without a reward.
    """
    if config.parts:
        parts = _make_parts("reward.parts", config.parts, config, task, device, dtype)
    else:
        parts = {"task": Part("task.name", _own_reward(task, "task.name"), 1.0)}
    return Reward(parts, config.on_failure)


def make_evaluation_reward(config: RewardConfig, task: Task, device: torch.device, dtype: torch.dtype) -> Reward:
    """What is computed in evaluation beside the reward: `reward.evaluation`; may be empty."""
    parts = _make_parts("reward.evaluation", config.evaluation, config, task, device, dtype)
    return Reward(parts, config.on_failure)


def _make_parts(
    group: str,
    parts: Mapping[str, RewardPartConfig],
    config: RewardConfig,
    task: Task,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Part]:
    made = {}
    for name, part in parts.items():
        key = f"{group}.{name}"
        function: RewardFunction
        if part.model is not None:
            function = ModelReward(key, part.model, device, dtype, config.batch_size)
        elif part.function == "task":
            function = _own_reward(task, key)
        else:
            function = _load_function(str(part.function), key)
        made[name] = Part(key, function, part.weight)
    return made


def _own_reward(task: Task, key: str) -> RewardFunction:
    if not task.has_reward():
        raise ConfigError(
            f"{key}: must be a task with a reward of its own, or be scored by reward.parts, got {type(task).__name__}"
        )
    return task.rewards


def _load_function(path: str, key: str) -> RewardFunction:
    function: RewardFunction = load_object(f"{key}.function", path)
    if not callable(function):
        raise ConfigError(f"{key}.function: must be a function of (prompts, completions), got {path}")
    return function
