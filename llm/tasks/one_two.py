"""The 1-2 task: two right answers, of which the reference prefers one (paper, section 6.1)."""

import re

from llm.inference.prompts import Chat, user_turn
from llm.tasks.base import Task
from llm.tasks.texts import ONE_TWO_PROMPT

ANSWER = re.compile(r"<answer>([12])</answer>")


class OneTwo(Task):
    """Reward 1 for exactly <answer>1</answer> or <answer>2</answer>, 0 for anything else.

    The whole completion must match. If spaces or other words were allowed, an answer would have several token
    sequences, and MARA equalises sequences.
    """

    answers: tuple[str, ...] = ("1", "2")

    def prompts(self) -> list[Chat]:
        """The single prompt."""
        return [user_turn(ONE_TWO_PROMPT)]

    def reward(self, prompt: Chat, completion: str) -> float:
        """1 for one of the two answers in its tags, else 0."""
        return float(ANSWER.fullmatch(completion) is not None)

    def answer(self, completion: str) -> str:
        """The text between the tags."""
        return completion.removeprefix("<answer>").removesuffix("</answer>")
