"""Records of JSON, JSON Lines, CSV and TSV files, plain or compressed with gzip.

Values are those of the file. Nothing is inferred: a date, `NA` or `007` in quotes is a text, whole numbers have any
number of digits, and in CSV and TSV files every value is a text.
"""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from conf.schema.base import ConfigError, yaml_text

JSON_ENDINGS, DELIMITERS = (".json", ".jsonl"), {".csv": ",", ".tsv": "\t"}
MAX_SHOWN = 60  # characters of a line in a message
SPACE = re.compile(r"[ \t\r\n]*")


class Row(NamedTuple):
    """A record. location: where it is, for error messages, such as `questions.jsonl, line 3`."""

    location: str
    content: dict[str, Any]


def file_ending(name: str) -> str:
    """The ending of a file's name in lower case, without .gz."""
    return Path(name.lower().removesuffix(".gz")).suffix


def read_rows(key: str, name: str, path: Path) -> Iterator[Row]:
    """Read the records of a .json, .jsonl, .csv or .tsv file, which may also end in .gz.

    Args:
        key: configuration key that names the file, for error messages.
        name: the file as the user named it.
        path: of the file.

    Raises:
        ConfigError: names the file, the line and what is wrong.
    """
    delimiter = DELIMITERS.get(file_ending(name))
    return read_json(key, name, path) if delimiter is None else _read_table(key, name, path, delimiter)


def read_json(key: str, name: str, path: Path) -> Iterator[Row]:
    """Read a file with one JSON object in each line, or with one list of objects. Blank lines are skipped.

    The arguments and errors are those of `read_rows`.
    """
    with _reading(key, name, path) as stream:
        start = next((line for line in stream if line.strip(b"\xef\xbb\xbf \t\r\n")), b"")
        if not start:
            raise ConfigError(f"{key}: {name}: must have one JSON object in each line, but the file is empty")
        stream.seek(0)
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            yield from _rows_of_list(key, name, _decode(stream.read(), f"{key}: {name}"))
            return
        for number, line in enumerate(stream, start=1):
            text = _decode(line, f"{key}: {name}, line {number}", first=number == 1).strip(" \t\r\n")
            if text:
                yield _row(f"{key}: ", f"{name}, line {number}", text)


def _row(prefix: str, location: str, text: str) -> Row:
    try:
        content = DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _not_an_object(prefix + location, text, f" ({_reason(error)})") from None
    if not isinstance(content, dict):
        raise _not_an_object(prefix + location, text)
    return Row(location, content)


def _not_an_object(place: str, text: str, reason: str = "") -> ConfigError:
    shown = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
    return ConfigError(f"{place}: must be one JSON object, got {yaml_text(' '.join(shown.split()))}{reason}")


def _reason(error: Exception) -> str:
    """What is wrong, without the line that `json` counts from the start of its text."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}: column {error.colno}"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _rows_of_list(key: str, name: str, text: str) -> Iterator[Row]:
    """The objects of a file that is one list, with the line in which each begins."""
    position = _skip_space(text, text.index("[") + 1)
    line, counted, more = 1, 0, text[position : position + 1] != "]"
    if not more:
        position += 1
    while more:
        line, counted = line + text.count("\n", counted, position), position
        try:
            content, end = DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            place = f"{key}: {name}, line {getattr(error, 'lineno', line)}"
            raise _not_an_object(place, text[position:], f" ({_reason(error)})") from None
        if not isinstance(content, dict):
            raise _not_an_object(f"{key}: {name}, line {line}", text[position:end])
        end = _skip_space(text, end)
        if text[end : end + 1] not in (",", "]"):
            place = f"{key}: {name}, line {1 + text.count(chr(10), 0, end)}"
            raise ConfigError(f"{place}: the list must go on with a comma or end with a closing bracket")
        yield Row(f"{name}, line {line}", content)
        position, more = _skip_space(text, end + 1), text[end] == ","
    if text[position:].strip():
        raise _not_an_object(f"{key}: {name}", text[position:], " after the list of objects")


def _skip_space(text: str, position: int) -> int:
    return SPACE.match(text, position).end()  # type: ignore[union-attr]  # it matches the empty text


def _read_table(key: str, name: str, path: Path, delimiter: str) -> Iterator[Row]:
    """The rows of a CSV or TSV file, whose first line names the columns."""
    with _reading(key, name, path) as stream:
        reader = csv.reader(
            io.StringIO(_decode(stream.read(), f"{key}: {name}"), newline=""), delimiter=delimiter, strict=True
        )
        header: list[str] = []
        line = 1
        try:
            for values in reader:
                place, line = f"{name}, line {line}", reader.line_num + 1
                if not values:
                    continue
                if not header:
                    header = values
                    if len(set(header)) < len(header) or "" in header:
                        raise ConfigError(
                            f"{key}: {place}: must name each column differently, got {', '.join(header)}"
                        )
                    continue
                if len(values) != len(header):
                    raise ConfigError(f"{key}: {place}: must have {len(header)} values, got {len(values)}")
                yield Row(place, dict(zip(header, values, strict=True)))
        except csv.Error as error:
            raise ConfigError(f"{key}: {name}, line {reader.line_num}: cannot be read ({error})") from None


@contextmanager
def _reading(key: str, name: str, path: Path) -> Iterator[Any]:
    """Open a file, decompressed if its name ends in .gz. Errors of reading it are a ConfigError."""
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{key}: {name}: cannot be read ({reason})") from None


def _decode(content: bytes, place: str, first: bool = True) -> str:
    try:
        return content.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: must be UTF-8 ({error.reason})") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)} is there twice")
    for text in (*content, *content.values()):
        if isinstance(text, str) and not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError("a text has half of a surrogate pair")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_finite)
