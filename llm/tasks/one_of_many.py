"""Open questions with several right answers. A model usually gives the most common one."""

from typing import Self

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from llm.data import load_records
from llm.inference.prompts import Chat
from llm.tasks.base import Task
from llm.tasks.texts import HELD_OUT, QUESTIONS, Question


class OneOfMany(Task):
    """Reward 1 for a right answer, spelt exactly as listed, 0 for anything else.

    The completion must be the answer alone. Each right answer then has one spelling, so that coverage and entropy are
    exact. Evaluation also uses questions that are not trained on, with metrics under held_out/.
    """

    def __init__(self, train: tuple[Question, ...] = QUESTIONS, held_out: tuple[Question, ...] = HELD_OUT) -> None:
        self.train, self.held_out = train, held_out
        self.questions = {question.text: question for question in (*train, *held_out)}

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """Use the built-in questions, or records with question, answers and name from data.train and .evaluation."""
        data = config.data
        if data.train.path is None:
            if data.evaluation.path is not None:
                raise ConfigError(
                    f"data.evaluation.path: needs data.train.path as well, got {data.evaluation.path} without it"
                )
            return cls()
        records = {
            name: load_records(f"data.{name}", source, data.root, config.seed, _parse_question)
            for name, source in (("train", data.train), ("evaluation", data.evaluation))
            if source.path is not None
        }
        task = cls(*(tuple(records[name].items) if name in records else () for name in ("train", "evaluation")))
        task.data = records
        return task

    def prompts(self) -> list[Chat]:
        """The questions that are trained on."""
        return [[{"role": "user", "content": question.text}] for question in self.train]

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        """The questions that are trained on, and under held_out/ those that are not."""
        held_out: list[Chat] = [[{"role": "user", "content": question.text}] for question in self.held_out]
        return {"": self.prompts(), **({"held_out/": held_out} if held_out else {})}

    def reward(self, prompt: Chat, completion: str) -> float:
        """1 for a right answer, else 0."""
        return float(completion in self.right_answers(prompt))

    def right_answers(self, prompt: Chat) -> tuple[str, ...]:
        """The listed answers of the question."""
        return self.questions[prompt[-1]["content"]].answers

    def prompt_name(self, prompt: Chat) -> str | None:
        """The question's name."""
        return self.questions[prompt[-1]["content"]].name


def _parse_question(record: dict[str, object]) -> Question:
    question, answers = record.get("question"), record.get("answers")
    if not isinstance(question, str) or not isinstance(answers, list) or not answers:
        raise ValueError("question (a text) and answers (a list of all right answers)")
    return Question(str(record.get("name") or question), question, tuple(map(str, answers)))
