"""Word problems with a numerical answer, in the format of GSM8K (Cobbe et al., 2021, arXiv:2110.14168)."""

import re
from typing import NamedTuple, Self

from conf.schema.llm import LlmConfig
from llm.data import Records, load_both, refuse_conflicts
from llm.inference.prompts import Chat, user_turn
from llm.tasks.base import Task
from llm.tasks.texts import MATHS_INSTRUCTION

NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
LAST_LINE = re.compile(rf"(?:\A|.*\n)#### ({NUMBER})", re.DOTALL)


class Problem(NamedTuple):
    """A question and its numerical answer, in the form of `normalise_number`."""

    question: str
    answer: str


class Maths(Task):
    """Reward 1 for a completion whose last line is `#### ` and the right number, 0 for anything else.

    A number consists of digits, optionally with commas between groups of three, a minus sign and a decimal point.
    Nothing may follow it, such as a unit. 42, 42.0 and 042 are equal. Answers are compared by their number, so that
    `distinct` and entropy count results, not the ways to obtain them.
    """

    def __init__(self, train: Records, evaluation: Records) -> None:
        self.data = {"train": train, "evaluation": evaluation}
        sets = {f"data.{name}": records for name, records in self.data.items()}
        refuse_conflicts(sets, "question", lambda problem: problem.question, "answer")
        self.numbers = {problem.question: problem.answer for problem in (*evaluation.items, *train.items)}
        self.train, self.evaluation = _make_prompts(train), _make_prompts(evaluation)

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """Read data.train and data.evaluation: records with question, and answer ending in #### and a number."""
        return cls(*load_both(config, _parse_problem))

    def prompts(self) -> list[Chat]:
        """The problems of data.train."""
        return self.train

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        """The problems of data.evaluation."""
        return {"": self.evaluation}

    def reward(self, prompt: Chat, completion: str) -> float:
        """1 if the number on the last line is the right one, else 0."""
        return float(last_number(completion) == self.numbers[_question(prompt)])

    def knows(self, prompt: Chat) -> bool:
        """Whether it is one of the problems."""
        return _question(prompt) in self.numbers

    def answer(self, completion: str) -> str:
        """The number on the last line, or the whole text if there is none."""
        return last_number(completion) or completion


def last_number(text: str) -> str | None:
    """The number of a last line `#### NUMBER`, normalised; None if the text does not end in such a line."""
    match = LAST_LINE.fullmatch(text)
    return normalise_number(match[1]) if match else None


def normalise_number(number: str) -> str:
    """Remove commas, leading zeros, trailing zeros of a fraction, and the sign of zero."""
    sign = "-" if number.startswith("-") else ""
    whole, _, fraction = number.removeprefix("-").replace(",", "").partition(".")
    magnitude = (whole.lstrip("0") or "0") + ("." + fraction.rstrip("0")).rstrip(".")
    return magnitude if magnitude == "0" else sign + magnitude


def _question(prompt: Chat) -> str:
    return prompt[-1]["content"].removesuffix(MATHS_INSTRUCTION)


def _make_prompts(records: Records) -> list[Chat]:
    return [user_turn(problem.question + MATHS_INSTRUCTION) for problem in records.distinct()]


def _parse_problem(record: dict[str, object]) -> Problem:
    question, answer = record.get("question"), record.get("answer")
    number = last_number(answer.strip()) if isinstance(answer, str) else None
    if not isinstance(question, str) or number is None:
        raise ValueError("question (a text) and answer (a text that ends in a line #### NUMBER)")
    return Problem(question.strip(), number)
