"""Creative questions, scored by a reward model (paper, section 6.2)."""

from typing import Any, Self

from conf.schema.llm import LlmConfig
from llm.data import Records, load_both
from llm.inference.prompts import Chat
from llm.tasks.base import Task

LONGEST = 2000  # characters of a prompt


class Creative(Task):
    """Trains on users' prompts (WildChat), is evaluated on others (NoveltyBench); `reward.parts` scores.

    There is no right and wrong: every completion is an answer, and good is what transform.threshold says.
    """

    correct_reward = None

    def __init__(self, train: Records, evaluation: Records) -> None:
        self.data = {"train": train, "evaluation": evaluation}
        self.train, self.evaluation = _ask(train), _ask(evaluation)

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """data.train and data.evaluation: records with a prompt, or with a conversation as WildChat has them."""
        return cls(*load_both(config, read_prompt))

    def prompts(self) -> list[Chat]:
        return self.train

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        return {"": self.evaluation}


def _ask(records: Records) -> list[Chat]:
    return [[{"role": "user", "content": text}] for text in dict.fromkeys(records.items)]


def read_prompt(record: dict[str, Any]) -> str | None:
    """The prompt, or the first turn of the conversation; None where it is not English, toxic, redacted or too long.

    The fields language, toxic and redacted are those of WildChat-1M; a record without them is taken as it is.
    """
    text = record.get("prompt")
    if text is None:
        turns = record.get("conversation")
        text = turns[0].get("content") if turns else None
    if not isinstance(text, str):
        raise ValueError("prompt: text, or conversation: a list of turns with content")
    text = text.strip()
    wanted = record.get("language", "English") == "English" and not (record.get("toxic") or record.get("redacted"))
    return text if wanted and 0 < len(text) <= LONGEST else None
