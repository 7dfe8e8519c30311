"""What a task must say. `task.name` is a module of this package or an import path, package.module:Class."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self

from conf.schema.base import ConfigError, load_object
from conf.schema.llm import LlmConfig
from llm.data import Records
from llm.inference.prompts import Chat


class Task(ABC):
    """Prompts, and a reward for their completions unless `reward.parts` brings one.

    correct_reward: a completion with at least this raw reward is correct in tables and pictures; None: there is no
        right and wrong, and every completion counts as an answer.
    answers: the answers whose shares are shown; () where they are not known beforehand.
    data: the data sets that were read, by name; a run's record says which.
    """

    correct_reward: float | None = 1.0
    answers: tuple[str, ...] = ()
    data: Mapping[str, Records] = MappingProxyType({})

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """The task as a configuration wants it; one that reads data overrides this."""
        return cls()

    @abstractmethod
    def prompts(self) -> list[Chat]:
        """All prompts, in the order in which training goes through them, again and again."""

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        """What evaluation samples from, by the prefix of its figures: "" for the prompts that matter most."""
        return {"": self.prompts()}

    def reward(self, prompt: Chat, completion: str) -> float:
        """Raw reward of a completion: its text without the end-of-sequence token."""
        raise NotImplementedError

    def rewards(self, prompts: Sequence[Chat], completions: Sequence[str]) -> Sequence[float]:
        """Raw rewards of completions, one for the prompt beside it; override it to score a batch at once."""
        return [self.reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    def has_reward(self) -> bool:
        """Whether the task scores completions itself."""
        return type(self).reward is not Task.reward or type(self).rewards is not Task.rewards

    def answer(self, completion: str) -> str:
        """What a completion answers: correct completions with the same answer are counted together."""
        return completion

    def right_answers(self, prompt: Chat) -> tuple[str, ...]:
        """All right answers to a prompt, as `answer` gives them; () where they are not known."""
        return self.answers

    def prompt_name(self, prompt: Chat) -> str | None:
        """What its own figures are called in records; None: it has none."""
        return None

    def correct(self, rewards: Sequence[float]) -> list[bool]:
        """Which rewards are those of correct completions; NaN is none."""
        if self.correct_reward is None:
            return [reward == reward for reward in rewards]
        return [reward >= self.correct_reward for reward in rewards]


def load_task(name: str, config: LlmConfig) -> Task:
    """The task called `name`: one of this package's (one_two) or the class at package.module:Class."""
    path = name if ":" in name else f"llm.tasks.{name}:{''.join(part.title() for part in name.split('_'))}"
    kind = load_object("task.name", path)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise ConfigError(f"task.name: must be a subclass of llm.tasks.base.Task, got {path}")
    return kind.load(config)
