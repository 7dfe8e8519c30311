"""Files of prompts and of generations in NoveltyBench's format: JSON Lines with id, prompt and generations.

A prompt is a text or a list of chat turns. A line of generations may also have `partition`, the class index of each
generation, and `generation_scores`, from 1 to 10 for each generation that is the first of its class.

Source: https://github.com/novelty-bench/novelty-bench (Zhang et al., 2025, arXiv:2504.05228)
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from conf.schema.base import ConfigError
from launch.runs.run_folder import user_path
from llm.data_files import read_json
from llm.evaluation.metrics import is_first_of_class
from llm.inference.prompts import Chat, is_turn, user_turn

MAX_VALUE = 80  # characters of a value in a message


class PromptRecord(NamedTuple):
    """A prompt and its id."""

    id: str
    chat: Chat


class Generations(NamedTuple):
    """All completions of a prompt.

    partition, scores: one value per completion, from the file; None if the file has none.
    location: file and line, for error messages.
    """

    id: str
    chat: Chat
    texts: list[str]
    partition: list[int] | None = None
    scores: list[float] | None = None
    location: str = ""


def read_prompts(key: str, file: str) -> list[PromptRecord]:
    """Read a file of prompts. `key` is the configuration key that names it, for error messages.

    Raises:
        ConfigError: names the file, the line and the field that is wrong.
    """
    return [line.prompt_record() for line in _read_lines(key, file)]


def read_generations(key: str, file: str) -> list[Generations]:
    """Read a file of generations, which must have equally many for every prompt.

    Raises:
        ConfigError: names the file, the line and the field that is wrong.
    """
    all_generations: list[Generations] = []
    for line in _read_lines(key, file):
        texts = line.list_of("generations", str, "texts")
        if not texts:
            raise line.error("generations", "a list of at least one text", "[]")
        if all_generations and len(texts) != len(all_generations[0].texts):
            expected, first = len(all_generations[0].texts), all_generations[0].location.rpartition(", ")[2]
            raise line.error("generations", f"{expected} texts, as many as in {first}", f"{len(texts)} texts")
        partition = line.one_per_text("partition", int, "whole numbers", len(texts))
        for index in partition or ():
            if index < 0:
                raise line.error("partition", "a list of whole numbers >= 0", index)
        scores = line.one_per_text("generation_scores", int | float, "finite numbers", len(texts))
        generations = Generations(*line.prompt_record(), texts, partition, scores, line.location)
        if partition is not None:
            check_scores(generations, partition)
        all_generations.append(generations)
    return all_generations


def check_scores(generations: Generations, partition: Sequence[int]) -> None:
    """Raise ConfigError if the score of a generation that is the first of its class is not from 1 to 10."""
    if generations.scores is None:
        return
    for score, is_first in zip(generations.scores, is_first_of_class(partition), strict=True):
        if is_first and not 1 <= score <= 10:
            raise ConfigError(
                f"{generations.location}, generation_scores: must be from 1 to 10 for the first generation of a "
                f"class, got {score}"
            )


def prompt_to_chat(prompt: str | Chat) -> Chat:
    """A prompt of a file as chat turns."""
    return user_turn(prompt) if isinstance(prompt, str) else prompt


def chat_to_prompt(chat: Chat) -> str | Chat:
    """Chat turns as written to a file: the text of a single user turn, else the turns."""
    return chat[0]["content"] if [turn["role"] for turn in chat] == ["user"] else chat


class _Line(NamedTuple):
    """One JSON object of a file. Its methods read fields and raise ConfigError with the location."""

    location: str
    content: dict[str, Any]

    def error(self, field: str, expected: str, value: Any) -> ConfigError:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        return ConfigError(f"{self.location}, {field}: must be {expected}, got {_shorten(text)}")

    def get(self, field: str, expected: str) -> Any:
        if field not in self.content:
            raise self.error(field, expected, "nothing")
        return self.content[field]

    def prompt_record(self) -> PromptRecord:
        name, prompt = self.get("id", "a text or a number"), self.get("prompt", "a text or a list of chat turns")
        if not _is(name, str | int):
            raise self.error("id", "a text or a number", name)
        turns = prompt if isinstance(prompt, list) and prompt else [prompt]
        if not (isinstance(prompt, str) or all(map(is_turn, turns))):
            raise self.error("prompt", "a text or a list of chat turns, each with role and content", prompt)
        return PromptRecord(str(name), prompt_to_chat(prompt))

    def list_of(self, field: str, kind: Any, kind_name: str) -> list[Any]:
        values = self.get(field, f"a list of {kind_name}")
        if not isinstance(values, list):
            raise self.error(field, f"a list of {kind_name}", values)
        for value in values:
            if not _is(value, kind):
                raise self.error(field, f"a list of {kind_name}", value)
        return values

    def one_per_text(self, field: str, kind: Any, kind_name: str, count: int) -> list[Any] | None:
        """The values of an optional field; None if it is missing."""
        if field not in self.content:
            return None
        values = self.list_of(field, kind, kind_name)
        if len(values) != count:
            raise self.error(field, f"{count} {kind_name}, one for each of the generations", f"{len(values)}")
        return values


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type. Booleans, NaN and infinities do not count as numbers."""
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool) and finite


def _read_lines(key: str, file: str) -> Iterator[_Line]:
    """Yield the objects of a file. Their ids must differ."""
    location_of_id: dict[str, str] = {}
    for location, content in read_json(key, file, user_path(file)):
        parsed = _Line(f"{key}: {location}", content)
        name = parsed.prompt_record().id
        if name in location_of_id:
            raise parsed.error("id", f"different from that of {location_of_id[name]}", name)
        location_of_id[name] = location.removeprefix(f"{file}, ")
        yield parsed


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 3]}..."
