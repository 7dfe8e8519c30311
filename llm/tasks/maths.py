"""Word problems with a number as the answer, in GSM8K's format (Cobbe et al., 2021, arXiv:2110.14168)."""

import re
from typing import NamedTuple, Self

from conf.schema.llm import LlmConfig
from llm.data import Records, load_both
from llm.inference.prompts import Chat
from llm.tasks.base import Task
from llm.tasks.texts import MATHS_INSTRUCTION

NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
LAST_LINE = re.compile(rf"(?:\A|.*\n)#### ({NUMBER})", re.DOTALL)


class Problem(NamedTuple):
    """question, and the number it has as its answer, written as `normalised` does."""

    question: str
    answer: str


class Maths(Task):
    """Reward 1 for a completion whose last line is `#### ` and the right number, 0 for anything else.

    The number: digits, with or without commas between groups of three, a minus sign, a decimal point. No unit, no
    other words, no second answer after it; 42, 42.0 and 042 are the same number. Answers are counted by that number,
    so that `distinct` and entropy are over results, not over ways to them.
    """

    def __init__(self, train: Records, evaluation: Records) -> None:
        self.data = {"train": train, "evaluation": evaluation}
        self.numbers = {problem.question: problem.answer for problem in (*evaluation.items, *train.items)}
        self.train, self.evaluation = _ask(train), _ask(evaluation)

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """data.train and data.evaluation: records with question and answer, which ends in #### and a number."""
        return cls(*load_both(config, _read))

    def prompts(self) -> list[Chat]:
        return self.train

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        return {"": self.evaluation}

    def reward(self, prompt: Chat, completion: str) -> float:
        return float(last_number(completion) == self.numbers[prompt[-1]["content"].removesuffix(MATHS_INSTRUCTION)])

    def answer(self, completion: str) -> str:
        """The number on the last line; where there is none, the text."""
        return last_number(completion) or completion


def last_number(text: str) -> str | None:
    """The number of a last line `#### NUMBER`, normalised; None where the text does not end in one."""
    found = LAST_LINE.fullmatch(text)
    return normalised(found[1]) if found else None


def normalised(number: str) -> str:
    """Without commas, leading zeros, a fraction of zeros, or the sign of zero."""
    sign = "-" if number.startswith("-") else ""
    whole, _, fraction = number.removeprefix("-").replace(",", "").partition(".")
    plain = (whole.lstrip("0") or "0") + ("." + fraction.rstrip("0")).rstrip(".")
    return plain if plain == "0" else sign + plain


def _ask(records: Records) -> list[Chat]:
    return [[{"role": "user", "content": problem.question + MATHS_INSTRUCTION}] for problem in records.items]


def _read(record: dict[str, object]) -> Problem:
    question, answer = record.get("question"), record.get("answer")
    number = last_number(answer.strip()) if isinstance(answer, str) else None
    if not isinstance(question, str) or number is None:
        raise ValueError("question: text, and answer: text that ends in a line #### NUMBER")
    return Problem(question.strip(), number)
