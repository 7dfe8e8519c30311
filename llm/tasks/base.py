"""The interface of a task. `task.name` is a module of this package or an import path, package.module:Class."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self

from conf.schema.base import ConfigError, load_object
from conf.schema.llm import LlmConfig
from core.mara import reaches
from llm.data import Records
from llm.inference.prompts import Chat


class Task(ABC):
    """Prompts, and a reward for their completions unless `reward.parts` defines one.

    correct_reward: completions with at least this raw reward count as correct in tables and figures. None: nothing is
        correct or incorrect, and every completion counts as an answer.
    answers: the answers whose shares are shown; () if they are not known in advance.
    data: name -> the data sets that were read, for the run's record.
    """

    correct_reward: float | None = 1.0
    answers: tuple[str, ...] = ()
    data: Mapping[str, Records] = MappingProxyType({})

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """Make the task for a configuration. Override it in a task that reads data."""
        return cls()

    @abstractmethod
    def prompts(self) -> list[Chat]:
        """All prompts of the task. Training shuffles them anew in each epoch."""

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        """Sets of prompts for evaluation, by the prefix of their metrics; the first set has the prefix ""."""
        return {"": self.prompts()}

    def reward(self, prompt: Chat, completion: str) -> float:
        """Raw reward of a completion, given as its exact text without what ended it."""
        raise NotImplementedError

    def rewards(self, prompts: Sequence[Chat], completions: Sequence[str]) -> Sequence[float]:
        """Raw rewards of completions, each with its own prompt. Override it to score a whole batch at once."""
        return [self.reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    def has_reward(self) -> bool:
        """Whether the task scores completions itself."""
        return type(self).reward is not Task.reward or type(self).rewards is not Task.rewards

    def answer(self, completion: str) -> str:
        """The answer that a completion gives. Correct completions with equal answers are counted together."""
        return completion

    def answer_to(self, prompt: Chat, completion: str) -> str:
        """`answer` for a task in which it depends on the prompt. Override one of the two."""
        return self.answer(completion)

    def right_answers(self, prompt: Chat) -> tuple[str, ...]:
        """All right answers to a prompt, in the form that `answer` returns; () if they are not known."""
        return self.answers

    def prompt_name(self, prompt: Chat) -> str | None:
        """Name under which metrics of this single prompt are logged; None: they are not logged."""
        return None

    def correct(self, rewards: Sequence[float]) -> list[bool]:
        """Whether each raw reward is that of a correct completion; False for NaN."""
        if self.correct_reward is None:
            return [not math.isnan(reward) for reward in rewards]
        return reaches(rewards, self.correct_reward).tolist()


def load_task(name: str, config: LlmConfig) -> Task:
    """Make the task of a name: a module of this package such as one_two, or package.module:Class.

    Raises:
        ConfigError: there is no such class, or it is not a task.
    """
    path = name if ":" in name else f"llm.tasks.{name}:{''.join(part.title() for part in name.split('_'))}"
    try:
        task_class = load_object("task.name", path)
    except ConfigError as error:
        if ":" in name:
            raise
        reason = error.__cause__
        raise ConfigError(
            f"task.name: must be a module of llm.tasks or package.module:Class, got {name} ({reason})"
        ) from None
    if not (isinstance(task_class, type) and issubclass(task_class, Task)):
        raise ConfigError(f"task.name: must be a subclass of llm.tasks.base.Task, got {path}")
    return task_class.load(config)
