"""Files of prompts and of generations, as NoveltyBench writes them: JSON Lines with id, prompt and generations.

A prompt is a text, or a list of chat turns. A line of generations may have `partition`, the number of each one's
equivalence class, and `generation_scores`, from 1 to 10 for each one that opens a class.

Source: https://github.com/novelty-bench/novelty-bench (Zhang et al., 2025, arXiv:2504.05228)
"""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from conf.schema.base import ConfigError, show
from launch.runs.run_folder import user_path
from llm.evaluation.metrics import opens_class
from llm.inference.prompts import Chat


class Question(NamedTuple):
    """A prompt with its name."""

    id: str
    chat: Chat


class Generations(NamedTuple):
    """All completions of a prompt, and what a file says of them: each None or one value a completion.

    place: file and line that it is from, for messages.
    """

    id: str
    chat: Chat
    texts: list[str]
    partition: list[int] | None = None
    scores: list[float] | None = None
    place: str = ""


def read_questions(key: str, file: str) -> list[Question]:
    """The prompts of a file.

    Args:
        key: that names the file, for messages.

    Raises:
        ConfigError: naming the file, the line and the key that is wrong.
    """
    return [line.question() for line in _lines(key, file)]


def read_generations(key: str, file: str) -> list[Generations]:
    """The generations of a file, equally many of every prompt.

    Raises:
        ConfigError: naming the file, the line and the key that is wrong.
    """
    found: list[Generations] = []
    for line in _lines(key, file):
        texts = line.list_of("generations", str, "texts")
        if not texts:
            raise line.error("generations", "a list of at least one text", "[]")
        if found and len(texts) != len(found[0].texts):
            raise line.error(
                "generations", f"{len(found[0].texts)} texts, as many as in line 1", f"{len(texts)} texts"
            )
        partition = line.one_each("partition", int, "whole numbers", len(texts))
        for number in partition or ():
            if number < 0:
                raise line.error("partition", "a list of whole numbers >= 0", number)
        scores = line.one_each("generation_scores", int | float, "finite numbers", len(texts))
        found.append(Generations(*line.question(), texts, partition, scores, line.place))
        if partition is not None:
            check_scores(found[-1], partition)
    return found


def check_scores(one: Generations, partition: Sequence[int]) -> None:
    """Raise ConfigError unless the score of each generation that opens a class, where there are any, is 1 to 10."""
    for score, opens in zip(one.scores or (), opens_class(partition), strict=one.scores is not None):
        if opens and not 1 <= score <= 10:
            expected = "must be from 1 to 10 where a generation opens a class"
            raise ConfigError(f"{one.place}, generation_scores: {expected}, got {score}")


def chat_of(prompt: str | Chat) -> Chat:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def prompt_of(chat: Chat) -> str | Chat:
    """As a file has it: the text of a single turn of the user, else the turns."""
    return chat[0]["content"] if [turn["role"] for turn in chat] == ["user"] else chat


class _Line(NamedTuple):
    """One JSON object of a file, and how to complain about it."""

    place: str
    content: dict[str, Any]

    def error(self, field: str, expected: str, found: Any) -> ConfigError:
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
        text = text if len(text) <= 80 else f"{text[:77]}..."
        return ConfigError(f"{self.place}, {field}: must be {expected}, got {text}")

    def get(self, field: str, expected: str) -> Any:
        if field not in self.content:
            raise self.error(field, expected, "nothing")
        return self.content[field]

    def question(self) -> Question:
        name, prompt = self.get("id", "a text or a number"), self.get("prompt", "a text or a list of chat turns")
        if not _is(name, str | int):
            raise self.error("id", "a text or a number", name)
        turns = prompt if isinstance(prompt, list) and prompt else [prompt]
        texts = (isinstance(t, dict) and _is(t.get("role"), str) and _is(t.get("content"), str) for t in turns)
        if not (isinstance(prompt, str) or all(texts)):
            raise self.error("prompt", "a text or a list of chat turns, each with role and content", prompt)
        return Question(str(name), chat_of(prompt))

    def list_of(self, field: str, kind: Any, names: str) -> list[Any]:
        values = self.get(field, f"a list of {names}")
        if not isinstance(values, list):
            raise self.error(field, f"a list of {names}", values)
        for value in values:
            if not _is(value, kind):
                raise self.error(field, f"a list of {names}", value)
        return values

    def one_each(self, field: str, kind: Any, names: str, count: int) -> list[Any] | None:
        """Of a field that may be missing."""
        if field not in self.content:
            return None
        values = self.list_of(field, kind, names)
        if len(values) != count:
            raise self.error(field, f"{count} {names}, one for each of the generations", f"{len(values)}")
        return values


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; true, false, NaN and the infinities are no numbers."""
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, kind) and not isinstance(value, bool) and finite


def _lines(key: str, file: str) -> Iterator[_Line]:
    """The objects of a file, with ids that differ."""
    path, seen = user_path(file), dict[Any, int]()
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{key}: must be a file of JSON Lines, got {file} ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: must be a file in UTF-8, got {file} ({error.reason})") from None
    number = 0
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        place = f"{key}: {file}, line {number}"
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{place}: must be one JSON object, got {_cut(line)} ({error})") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{place}: must be one JSON object, got {_cut(line)}")
        found = _Line(place, content)
        name = found.question().id
        if name in seen:
            raise found.error("id", f"another one than in line {seen[name]}", name)
        seen[name] = number
        yield found


def _cut(line: str) -> str:
    return show(line if len(line) <= 60 else f"{line[:57]}...")
