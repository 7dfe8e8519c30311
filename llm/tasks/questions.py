"""Questions of your own, with right answers that may be spelt in several ways."""

from typing import Self

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from llm.evaluation.equivalence import normalise_text
from llm.inference.prompts import Chat
from llm.tasks.one_of_many import OneOfMany

MARKS = " .,;:!?\"'`*"


class Questions(OneOfMany):
    """Reward 1 for a right answer in any spelling, 0 for anything else. The questions are those of data.train.

    Spellings may differ in case, width, white space, and marks at either end. Metrics count answers, not spellings.
    """

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """Read records with question, answers and name from data.train and, for held_out/, from data.evaluation."""
        if config.data.train.path is None:
            raise ConfigError("data.train.path: must be given for task.name=questions, got null")
        return super().load(config)

    def reward(self, prompt: Chat, completion: str) -> float:
        """1 for a spelling of a right answer, else 0."""
        return float(self.answer(completion) in self.right_answers(prompt))

    def answer(self, completion: str) -> str:
        """The completion in lower case, with single spaces and without marks at its ends."""
        text = normalise_text(completion)
        return text.strip(MARKS) or text

    def right_answers(self, prompt: Chat) -> tuple[str, ...]:
        """The listed answers of the question, in the same form."""
        return tuple(dict.fromkeys(map(self.answer, super().right_answers(prompt))))
