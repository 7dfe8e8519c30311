"""What a task must say. `task.name` is a module of this package or an import path, package.module:Class."""

import pkgutil
from abc import ABC, abstractmethod

from conf.schema import ConfigError
from llm.prompts import Chat


class Task(ABC):
    """Prompts and a reward for their completions.

    correct_reward: a completion with at least this raw reward is correct in tables and pictures.
    answers: the answers whose shares are shown; () where they are not known beforehand.
    """

    correct_reward: float = 1.0
    answers: tuple[str, ...] = ()

    @abstractmethod
    def prompts(self) -> list[Chat]:
        """All prompts, in the order in which training goes through them, again and again."""

    @abstractmethod
    def reward(self, prompt: Chat, completion: str) -> float:
        """Raw reward of a completion: its text without the end-of-sequence token."""

    def answer(self, completion: str) -> str:
        """What a completion answers: correct completions with the same answer are counted together."""
        return completion


def load_task(name: str) -> Task:
    """The task called `name`: one of this package's (one_two) or the class at package.module:Class."""
    path = name if ":" in name else f"llm.tasks.{name}:{''.join(part.title() for part in name.split('_'))}"
    try:
        task = pkgutil.resolve_name(path)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"task.name: must be a task of llm.tasks or package.module:Class, found {name} ({error})"
        ) from None
    if not isinstance(task, Task):
        raise ConfigError(f"task.name: must be a subclass of llm.tasks.base.Task, found {path}")
    return task
