"""The 1-2 task for models that do not know the form of the answer: the prompt has two examples of it."""

from llm.inference.prompts import Chat
from llm.tasks.one_two import OneTwo
from llm.tasks.texts import one_two_prompt

EXAMPLES = ((3, 4), (7, 8))  # each answered by the lower number, so that a model prefers 1, as in the paper


class OneTwoExamples(OneTwo):
    """`OneTwo` after two requests for other integers with their answers, in one conversation."""

    def prompts(self) -> list[Chat]:
        """The single prompt."""
        chat = []
        for low, high in EXAMPLES:
            chat += [_turn("user", one_two_prompt(low, high)), _turn("assistant", f"<answer>{low}</answer>")]
        return [[*chat, _turn("user", one_two_prompt(1, 2))]]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
