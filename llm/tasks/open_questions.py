"""Open questions whose right answers may be worded freely, for pretrained models."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from llm.inference.prompts import Chat
from llm.tasks.one_of_many import OneOfMany
from llm.tasks.texts import HELD_OUT_OPEN_QUESTIONS, OPEN_QUESTIONS, OpenQuestion

MAX_WORDS = 8  # of a completion that counts
WORD = re.compile(r"[^\W_]+")


class OpenQuestions(OneOfMany):
    """Reward 1 for a short completion that names one right answer, 0 for anything else.

    Case, punctuation and the words around the answer do not matter, so that an answer has many token sequences:
    `Mars`, `mars.` and `It is Mars!` are the answer Mars. A completion of more than `MAX_WORDS` words, or one that
    names two right answers, is wrong. The right answers are listed, so that coverage is a count.
    """

    def __init__(
        self,
        train: tuple[OpenQuestion, ...] = OPEN_QUESTIONS,
        held_out: tuple[OpenQuestion, ...] = HELD_OUT_OPEN_QUESTIONS,
    ) -> None:
        super().__init__(train, held_out)
        self.finders = {question.text: AnswerFinder(question.all_wordings()) for question in (*train, *held_out)}

    @staticmethod
    def parse(record: dict[str, Any]) -> OpenQuestion:
        """The question of a record, which may have `wordings`: answer -> a list of its other names."""
        name, text, answers = OneOfMany.parse(record)
        wordings = record.get("wordings") or {}
        if not isinstance(wordings, dict) or not wordings.keys() <= set(answers) or not _are_names(wordings.values()):
            raise ValueError("wordings, if any, that map some of its answers to lists of their other names")
        question = OpenQuestion(
            name, text, answers, tuple((answer, tuple(names)) for answer, names in wordings.items())
        )
        AnswerFinder(question.all_wordings())  # checks them
        return question

    def reward(self, prompt: Chat, completion: str) -> float:
        """1 if the completion names one right answer, else 0."""
        return float(self.answer_to(prompt, completion) in self.right_answers(prompt))

    def answer(self, completion: str) -> str:
        """The words of a completion, for prompts that are not questions of the task."""
        return " ".join(words(completion))

    def answer_to(self, prompt: Chat, completion: str) -> str:
        """The right answer that a completion names, as it is listed; its words if it names none or several."""
        finder = self.finders.get(prompt[-1]["content"])
        found = None if finder is None else finder(completion)
        return self.answer(completion) if found is None else found


class AnswerFinder:
    """Finds the one answer that a text names.

    Args:
        wordings: answer -> its wordings. Of wordings that overlap in a text, the longest counts.

    Raises:
        ValueError: a wording has no letter or digit, or is one of two answers.
    """

    def __init__(self, wordings: Mapping[str, Iterable[str]]) -> None:
        self.answers: dict[str, str] = {}
        for answer, texts in wordings.items():
            for text in texts:
                key = " ".join(words(text))
                if not key or self.answers.setdefault(key, answer) != answer:
                    raise ValueError(f"answers that differ in their letters or digits, unlike {text!r}")
        longest_first = sorted(self.answers, key=len, reverse=True)
        self.pattern = re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, longest_first))})(?!\S)")

    def __call__(self, text: str) -> str | None:
        """The answer; None if the text names none or several, or has more than `MAX_WORDS` words."""
        spoken = words(text)
        if len(spoken) > MAX_WORDS:
            return None
        found = {self.answers[wording] for wording in self.pattern.findall(" ".join(spoken))}
        return found.pop() if len(found) == 1 else None


def _are_names(values: Iterable[object]) -> bool:
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in values)


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation, after Unicode NFKC."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())
