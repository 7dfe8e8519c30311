"""The columns of files of rollouts: which name means what, and a row as a rollout."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from conf.schema.base import ConfigError
from llm.inference.prompts import Chat, is_turn

# What a column holds, and the names by which it is known, in the order in which they are tried.
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "input", "query", "question", "problem", "instruction", "messages"),
    "completion": ("completion", "output", "response", "generation", "completion_text", "text"),
    "reward": ("reward", "score", "rewards", "total_reward", "scores"),
    "step": ("step", "global_step", "global_steps", "training_step", "iteration"),
    "policy_logp": (
        *("policy_logp", "policy_seq_logp", "logp", "logprob", "log_prob", "old_logp", "old_log_prob"),
        *("logps", "logprobs", "log_probs", "old_log_probs", "action_log_probs"),
    ),
    "ref_logp": (
        *("ref_logp", "ref_seq_logp", "reference_logp", "ref_logprob", "ref_log_prob"),
        *("ref_logps", "ref_logprobs", "ref_log_probs", "base_action_log_probs"),
    ),
    "answer": (),  # an extracted answer, only if it is named: many data sets call the right answer so
}
ANSWER_HINTS = ("pred", "prediction", "extracted_answer", "parsed_answer")  # by which verl's rewards call it


@dataclass(frozen=True)
class Rollout:
    """A completion of a file.

    Attributes:
        step: training step; None if the file has none.
        prompt: text or chat; empty if it is not known.
        completion: text.
        reward: None if not known.
        policy_logp: of the sequence under the policy, nats; None if not known.
        ref_logp: the same under the reference.
        answer: an answer that was extracted from it; None: its text is compared.
        as_chat: whether the text of its prompt is a user's turn, to which the chat template was applied.
    """

    step: int | None
    prompt: str | Chat
    completion: str
    reward: float | None
    policy_logp: float | None = None
    ref_logp: float | None = None
    answer: str | None = None
    as_chat: bool = True

    @property
    def prompt_name(self) -> str:
        """The prompt as a text: of a chat of one turn its content, else all turns with their roles."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1:
            return self.prompt[0]["content"]
        return "\n".join(f"{turn['role']}: {turn['content']}" for turn in self.prompt)

    def scored(self, ref_logp: float) -> "Rollout":
        """The rollout with a log-probability under the reference."""
        return replace(self, ref_logp=ref_logp)


class Columns:
    """The names of the columns of a file.

    Args:
        names: of its columns.
        given: what the user says a column holds: name of the column by what it holds. For reward, several names
            separated by commas, whose values are added.
        place: the file, for messages.

    Raises:
        ConfigError: the file has no completions, or not a column that the user named.
    """

    def __init__(self, names: Iterable[str], given: Mapping[str, str], place: str) -> None:
        names = list(names)
        self.place = place
        self.column: dict[str, list[str]] = {}
        for what, aliases in ALIASES.items():
            if what in given:
                self.column[what] = given[what].split(",") if what == "reward" else [given[what]]
                for name in self.column[what]:
                    if name not in names:
                        raise ConfigError(f"{what}: {place} has no column {name}; it has {', '.join(names)}")
            elif known_names := [alias for alias in aliases if alias in names]:
                self.column[what] = known_names[:1]
        if "completion" not in self.column:
            known = ", ".join(ALIASES["completion"])
            raise ConfigError(
                f"{place}: no column with completions ({known}); it has {', '.join(names) or 'none'}: say "
                "completion=COLUMN"
            )

    def rollout(self, row: Mapping[str, Any], place: str) -> Rollout:
        """A row as a rollout. Raises ConfigError if a value cannot be what its column holds."""
        text = as_text(row.get(self.column["completion"][0]))
        if text is None:
            raise ConfigError(f"{place}: {self.column['completion'][0]} must be a text or a list of chat turns")
        answer = self._value(row, "answer")
        step = self._number(row, "step", place)
        return Rollout(
            None if step is None else int(step),
            as_prompt(self._value(row, "prompt"), place),
            text,
            self._reward(row, place),
            self._number(row, "policy_logp", place),
            self._number(row, "ref_logp", place),
            None if answer is None else str(answer),
        )

    def _value(self, row: Mapping[str, Any], what: str) -> Any:
        return row.get(self.column[what][0]) if what in self.column else None

    def _number(self, row: Mapping[str, Any], what: str, place: str) -> float | None:
        """A number; of a list, such as the log-probabilities of tokens, the sum."""
        value = self._value(row, what)
        return None if value is None else as_number(value, f"{place}: {self.column[what][0]}")

    def _reward(self, row: Mapping[str, Any], place: str) -> float | None:
        names = self.column.get("reward", [])
        values = [as_number(row.get(name), f"{place}: {name}") for name in names if row.get(name) is not None]
        known = [value for value in values if value is not None]
        return math.fsum(known) if known else None


def as_number(value: Any, place: str) -> float | None:
    """A number, or the sum of a list of numbers; None for NaN, which stands for a missing value.

    Raises:
        ConfigError: it is neither.
    """
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        total = math.fsum(float(item) for item in values)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{place} must be a number or a list of numbers, got {str(value)[:60]!r}") from None
    if math.isnan(total):
        return None
    if math.isinf(total):
        raise ConfigError(f"{place} must be finite, got {total}")
    return total


def as_text(value: Any) -> str | None:
    """A completion as text: of chat turns the contents, a line each. None if it is neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value and all(map(is_turn, value)):
        return "\n".join(turn["content"] for turn in value)
    return None


def as_prompt(value: Any, place: str) -> str | Chat:
    """A prompt: text, chat turns, or empty if there is none. Raises ConfigError if it is something else."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and value and all(map(is_turn, value)):
        return [{"role": turn["role"], "content": turn["content"]} for turn in value]
    if isinstance(value, int | float):
        return str(value)
    raise ConfigError(
        f"{place}: a prompt must be a text or a list of chat turns with role and content, got "
        f"{json.dumps(value)[:60]}"
    )
