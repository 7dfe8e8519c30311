"""The 1-2 task for models that do not know the form of the answer: the prompt has two examples of it."""

from collections.abc import Mapping

from llm.inference.prompts import Chat, user_turn
from llm.tasks.one_two import OneTwo
from llm.tasks.texts import ONE_TWO_PROMPT, one_two_prompt

EXAMPLES = ((3, 4), (7, 8))  # each answered by the lower number, so that a model prefers 1, as in the paper


class OneTwoExamples(OneTwo):
    """`OneTwo` after two requests for other integers with their answers, in one conversation."""

    def prompts(self) -> list[Chat]:
        """The single prompt."""
        chat: list[Mapping[str, str]] = []
        for low, high in EXAMPLES:
            chat += user_turn(one_two_prompt(low, high))
            chat.append({"role": "assistant", "content": f"<answer>{low}</answer>"})
        return [[*chat, *user_turn(ONE_TWO_PROMPT)]]
