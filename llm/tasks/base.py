"""The interface of a task. `task.name` is a module of this package or an import path, package.module:Class."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from conf.schema.base import ConfigError, load_object
from conf.schema.llm import LlmConfig
from core.mara import reaches
from llm.data import Records
from llm.inference.prompts import Chat, is_turn, user_turn


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
        """All prompts of the task. Training shuffles them anew in each epoch.

        `load_task` calls this once. It also takes a generator, and a text in place of a list of turns.
        """

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        """Sets of prompts for evaluation, by the prefix of their metrics; one set has the prefix "".

        `load_task` calls this once. It also takes a list, for the set with the prefix "".
        """
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
        """`answer` for a task in which it depends on the prompt. Override one of the two.

        Raises:
            ConfigError: `answer` returns something else than a text.
        """
        answer: object = self.answer(completion)
        if not isinstance(answer, str):
            raise ConfigError(
                f"task.name: {type(self).__name__}.answer() must return a text, got {answer!r} for the completion "
                f"{completion!r}"
            )
        return answer

    def knows(self, prompt: Chat) -> bool:
        """Whether `reward` is defined for a prompt that may be from elsewhere, as in `llm.evaluate prompts=FILE`."""
        return True

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
    try:
        task = task_class.load(config)
    except TypeError as error:
        if not getattr(task_class, "__abstractmethods__", None):
            raise
        raise ConfigError(f"task.name: {error}") from None
    if not isinstance(task, Task):
        raise ConfigError(f"task.name: {path}.load() must return the task, got {task!r}")
    _check(task, f"task.name: {path}")
    return task


# --- what a task of the user's own returns -------------------------------------------------------------------


def _check(task: Task, name: str) -> None:
    """Read the prompts once, as lists of chat turns, and check the right answers to them.

    Raises:
        ConfigError: prompts or right answers are of another form; `name` starts the message.
    """
    chats = _chats(f"{name}.prompts()", task.prompts())
    object.__setattr__(task, "prompts", lambda: chats)
    sets = _prompt_sets(f"{name}.evaluation_prompts()", task.evaluation_prompts())
    object.__setattr__(task, "evaluation_prompts", lambda: sets)
    if not isinstance(task.answers, list | tuple) or not _are_texts(task.answers):
        raise ConfigError(f"{name}.answers: must be a tuple of texts, got {task.answers!r}")
    for chat in (*chats, *(chat for chats_of_set in sets.values() for chat in chats_of_set)):
        right: object = task.right_answers(chat)
        if not isinstance(right, list | tuple | set | frozenset) or not _are_texts(right):
            raise ConfigError(f"{name}.right_answers(): must return a tuple of texts, got {right!r}")


def _are_texts(values: Iterable[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _prompt_sets(name: str, sets: object) -> dict[str, list[Chat]]:
    """The sets of evaluation prompts by prefix, that with the prefix "" first. A list is the set with that prefix."""
    if not isinstance(sets, Mapping) or is_turn(sets):
        return {"": _chats(name, sets)}
    if "" not in sets or not _are_texts(sets):
        raise ConfigError(f'{name}: must have a set with the prefix "", got the prefixes {list(sets)}')
    return {prefix: _chats(f"{name}[{prefix!r}]", sets[prefix]) for prefix in ("", *(key for key in sets if key))}


def _chats(name: str, prompts: object) -> list[Chat]:
    """Prompts as lists of turns. A text is a user's turn, and a text or a turn in place of a list is one prompt."""
    if isinstance(prompts, str) or is_turn(prompts):
        prompts = [prompts]
    if not isinstance(prompts, Iterable) or isinstance(prompts, Mapping):
        raise ConfigError(f"{name}: must return a list of prompts, got {prompts!r}")
    chats = [_chat(f"{name}: prompt {number}", prompt) for number, prompt in enumerate(prompts)]
    if not chats:
        raise ConfigError(f"{name}: must return at least one prompt, got none")
    return chats


def _chat(name: str, prompt: Any) -> Chat:
    turns: Any = user_turn(prompt) if isinstance(prompt, str) else prompt
    if is_turn(prompt):
        if prompt["role"] != "user":
            raise ConfigError(
                f"{name}: a single turn must be the user's; a prompt of several is a list, got {prompt!r}"
            )
        turns = [prompt]
    turns = list(turns) if isinstance(turns, Iterable) and not isinstance(turns, Mapping) else []
    if not turns or not all(map(is_turn, turns)):
        raise ConfigError(
            f"{name}: must be a text or a list of turns with role and content, both texts, got {prompt!r}"
        )
    return turns
