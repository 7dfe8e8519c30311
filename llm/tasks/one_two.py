"""The 1-2 task: two right answers, and a reference that prefers one (paper, section 6.1)."""

import re

from llm.inference.prompts import Chat
from llm.tasks.base import Task
from llm.tasks.texts import ONE_OR_TWO

ANSWER = re.compile(r"<answer>([12])</answer>")


class OneTwo(Task):
    """Reward 1 for exactly <answer>1</answer> or <answer>2</answer>, 0 for anything else.

    The whole completion must match: leniency towards spaces or other words would give an answer several
    token sequences, and MARA equalises sequences.
    """

    answers = ("1", "2")

    def prompts(self) -> list[Chat]:
        return [[{"role": "user", "content": ONE_OR_TWO}]]

    def reward(self, prompt: Chat, completion: str) -> float:
        return float(ANSWER.fullmatch(completion) is not None)

    def answer(self, completion: str) -> str:
        return completion.removeprefix("<answer>").removesuffix("</answer>")
