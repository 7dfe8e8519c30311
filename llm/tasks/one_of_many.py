"""Open questions with several right answers. A model usually gives the most common one."""

from typing import Any, Self

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from llm.data import load_records, refuse_conflicts
from llm.inference.prompts import Chat, user_turn
from llm.tasks.base import Task
from llm.tasks.texts import HELD_OUT, QUESTIONS, OpenQuestion, Question

Questions = tuple[Question, ...] | tuple[OpenQuestion, ...]


class OneOfMany(Task):
    """Reward 1 for a right answer, spelt exactly as listed, 0 for anything else.

    The completion must be the answer alone. Each right answer then has one spelling, so that coverage and entropy are
    exact. Evaluation also uses questions that are not trained on, with metrics under held_out/.
    """

    def __init__(self, train: Questions = QUESTIONS, held_out: Questions = HELD_OUT) -> None:
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
            name: load_records(f"data.{name}", source, data.root, config.seed, cls.parse)
            for name, source in (("train", data.train), ("evaluation", data.evaluation))
            if source.path is not None
        }
        sets = {f"data.{name}": read for name, read in records.items()}
        refuse_conflicts(sets, "question", lambda question: question.text, "answers or another name")
        refuse_conflicts(sets, "name", lambda question: question.name, "questions")
        task = cls(*(tuple(records[name].distinct()) if name in records else () for name in ("train", "evaluation")))
        task.data = records
        return task

    def prompts(self) -> list[Chat]:
        """The questions that are trained on."""
        return [user_turn(question.text) for question in self.train]

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        """The questions that are trained on, and under held_out/ those that are not."""
        held_out = [user_turn(question.text) for question in self.held_out]
        return {"": self.prompts(), **({"held_out/": held_out} if held_out else {})}

    def reward(self, prompt: Chat, completion: str) -> float:
        """1 for a right answer, else 0."""
        return float(completion in self.right_answers(prompt))

    def knows(self, prompt: Chat) -> bool:
        """Whether it is one of the questions."""
        return prompt[-1]["content"] in self.questions

    def right_answers(self, prompt: Chat) -> tuple[str, ...]:
        """The listed answers of the question."""
        return self.questions[prompt[-1]["content"]].answers

    def prompt_name(self, prompt: Chat) -> str | None:
        """The question's name."""
        return self.questions[prompt[-1]["content"]].name

    @staticmethod
    def parse(record: dict[str, Any]) -> Any:
        """The question of a record of data.train or data.evaluation.

        Raises:
            ValueError: names the fields that a record must have.
        """
        question, answers, name = record.get("question"), record.get("answers"), record.get("name")
        if not (_is_text(question) and isinstance(answers, list) and answers and all(map(_is_answer, answers))):
            raise ValueError(
                "question (a text) and answers (a list of all right answers, which are texts or whole numbers)"
            )
        if name is not None and not _is_answer(name):
            raise ValueError("a name that is a text, or none")
        return Question(str(name or question), str(question), tuple(dict.fromkeys(map(str, answers))))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_answer(value: object) -> bool:
    """Whether a value has one spelling: 1.50 has another after it was read, and null is no answer."""
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool))
