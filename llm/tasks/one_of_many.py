"""Open questions with a known set of right answers, of which a model usually gives the commonest."""

from typing import Self

from conf.schema.base import ConfigError
from conf.schema.llm import LlmConfig
from llm.data import load_records
from llm.inference.prompts import Chat
from llm.tasks.base import Task
from llm.tasks.texts import HELD_OUT, QUESTIONS, Question


class OneOfMany(Task):
    """Reward 1 for a right answer, exactly as it is listed, 0 for anything else.

    Nothing but the answer may be said: every right answer then has one spelling, and coverage and entropy are counted
    exactly. Evaluation also asks questions that training never does, under held_out/.
    """

    def __init__(self, train: tuple[Question, ...] = QUESTIONS, held_out: tuple[Question, ...] = HELD_OUT) -> None:
        self.train, self.held_out = train, held_out
        self.questions = {question.text: question for question in (*train, *held_out)}

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """The questions of this file, or of data.train and data.evaluation: records with question, answers, name."""
        data = config.data
        if data.train.path is None:
            if data.evaluation.path is not None:
                raise ConfigError(
                    f"data.evaluation.path: must be null without data.train.path, got {data.evaluation.path}"
                )
            return cls()
        read = {
            name: load_records(f"data.{name}", source, data.root, config.seed, _read)
            for name, source in (("train", data.train), ("evaluation", data.evaluation))
            if source.path is not None
        }
        task = cls(*(tuple(read[name].items) if name in read else () for name in ("train", "evaluation")))
        task.data = read
        return task

    def prompts(self) -> list[Chat]:
        return [[{"role": "user", "content": question.text}] for question in self.train]

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        held_out: list[Chat] = [[{"role": "user", "content": question.text}] for question in self.held_out]
        return {"": self.prompts(), **({"held_out/": held_out} if held_out else {})}

    def reward(self, prompt: Chat, completion: str) -> float:
        return float(completion in self.right_answers(prompt))

    def right_answers(self, prompt: Chat) -> tuple[str, ...]:
        return self.questions[prompt[-1]["content"]].answers

    def prompt_name(self, prompt: Chat) -> str | None:
        return self.questions[prompt[-1]["content"]].name


def _read(record: dict[str, object]) -> Question:
    question, answers = record.get("question"), record.get("answers")
    if not isinstance(question, str) or not isinstance(answers, list) or not answers:
        raise ValueError("question: text, and answers: a list of all the right ones")
    return Question(str(record.get("name") or question), question, tuple(map(str, answers)))
