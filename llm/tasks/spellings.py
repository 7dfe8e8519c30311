"""Questions with four right answers that have 3 to 30 known spellings each: answers and spellings are told apart."""

from llm.inference.prompts import Chat, user_turn
from llm.tasks.base import Task
from llm.tasks.texts import SPELT_QUESTIONS, SpeltQuestion


class Spellings(Task):
    """Reward 1 for any known spelling of a right answer, 0 for anything else.

    All spellings are known, so the share of an answer and the shares of its spellings are exact sums over a policy's
    probabilities (`tools/spelling_shares.py`). Metrics count answers and not spellings.
    """

    def __init__(self, questions: tuple[SpeltQuestion, ...] = SPELT_QUESTIONS) -> None:
        self.questions = {question.text: question for question in questions}
        self._answers = {
            text: answer
            for question in questions
            for answer, spellings in question.spellings.items()
            for text in spellings
        }

    def prompts(self) -> list[Chat]:
        """The questions."""
        return [user_turn(text) for text in self.questions]

    def reward(self, prompt: Chat, completion: str) -> float:
        """1 for a spelling of one of the question's answers, else 0."""
        return float(self.answer(completion) in self.right_answers(prompt))

    def answer(self, completion: str) -> str:
        """The answer that a completion spells; the completion itself if it spells none."""
        return self._answers.get(completion, completion)

    def knows(self, prompt: Chat) -> bool:
        """Whether it is one of the questions."""
        return prompt[-1]["content"] in self.questions

    def right_answers(self, prompt: Chat) -> tuple[str, ...]:
        """The answers of the question, without their spellings."""
        return tuple(self._question(prompt).spellings)

    def prompt_name(self, prompt: Chat) -> str | None:
        """The question's name."""
        return self._question(prompt).name

    def _question(self, prompt: Chat) -> SpeltQuestion:
        return self.questions[prompt[-1]["content"]]
