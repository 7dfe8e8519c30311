"""Creative writing prompts, scored by a reward model (paper, section 6.2)."""

from typing import Any, Self

from conf.schema.llm import LlmConfig
from llm.data import Records, load_both
from llm.inference.prompts import Chat, user_turn
from llm.tasks.base import Task

MAX_PROMPT_CHARACTERS = 2000  # longer prompts are skipped


class Creative(Task):
    """Trains on users' prompts (WildChat) and evaluates on others (NoveltyBench), with the reward of `reward.parts`.

    No completion is correct or incorrect: each is an answer of its own. transform.threshold defines which are good.
    """

    correct_reward = None

    def __init__(self, train: Records, evaluation: Records) -> None:
        self.data = {"train": train, "evaluation": evaluation}
        self.train, self.evaluation = _make_prompts(train), _make_prompts(evaluation)

    @classmethod
    def load(cls, config: LlmConfig) -> Self:
        """Read data.train and data.evaluation: records with a prompt, or with a conversation as in WildChat."""
        return cls(*load_both(config, parse_prompt))

    def prompts(self) -> list[Chat]:
        """The prompts of data.train."""
        return self.train

    def evaluation_prompts(self) -> dict[str, list[Chat]]:
        """The prompts of data.evaluation."""
        return {"": self.evaluation}


def _make_prompts(records: Records) -> list[Chat]:
    return [user_turn(text) for text in records.distinct()]


def parse_prompt(record: dict[str, Any]) -> str | None:
    """The prompt of a record, or the first turn of its conversation.

    Returns:
        None if the prompt is not English, toxic, redacted, empty or too long. The fields language, toxic and redacted
        are those of WildChat-1M; records may lack them.
    """
    text = record.get("prompt")
    if text is None:
        turns = record.get("conversation")
        first = turns[0] if isinstance(turns, list) and turns else None
        text = first.get("content") if isinstance(first, dict) else None
    if not isinstance(text, str):
        raise ValueError("prompt (a text) or conversation (a list of turns with content)")
    if isinstance(record.get("toxic"), str) or isinstance(record.get("redacted"), str):
        raise ValueError("toxic and redacted that are true or false, if it has them")
    text = text.strip()
    usable = record.get("language", "English") == "English" and not (record.get("toxic") or record.get("redacted"))
    return text if usable and 0 < len(text) <= MAX_PROMPT_CHARACTERS else None
