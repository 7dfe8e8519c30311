"""What becomes of each key of a foreign configuration. A key that nobody notes is listed as unknown, never lost."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from conf.schema.base import ConfigError, yaml_text

Converted = TypeVar("Converted")
MARKS = {"converted": "->", "same": "==", "none": "--"}
LEGEND = "-> converted, == nothing to do here, -- no counterpart"


class NoCounterpart(Exception):
    """A part of the source cannot be converted; the message is the reason and what to do."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        key: of the source, with its sections, separated by dots.
        value: in the source, as text.
        status: converted; same: what it asks for happens here anyway; none: it has no counterpart.
        text: the key here with its value, or the reason.
    """

    key: str
    value: str
    status: str
    text: str

    def __str__(self) -> str:
        reason = f"no counterpart: {self.text}" if self.status == "none" else self.text
        return f"{MARKS[self.status]} {self.key} = {self.value}: {reason}"


@dataclass
class Ledger:
    """The rows of the table, by key of the source."""

    rows: dict[str, Row] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def note(self, key: str, value: object, status: str, text: str) -> None:
        """Note what becomes of a key; a later note replaces an earlier one."""
        self.rows[key] = Row(key, _short(value), status, text)

    def add(self, section: "Section") -> None:
        """Add the keys of a source, so that those which nobody notes are in the table too."""
        for key, value in section.leaves():
            self.order.append(key)
            if key not in self.rows:
                self.note(key, value, "none", "unknown key; check whether the run depends on it")

    def table(self) -> list[Row]:
        """All rows: the keys of the source in its order, then defaults of the other program."""
        keys = dict.fromkeys([*self.order, *self.rows])
        return [self.rows[key] for key in keys]


@dataclass(frozen=True)
class Section:
    """A table of the source, at a path.

    Attributes:
        program: whose defaults are meant.
    """

    ledger: Ledger
    values: Mapping[str, Any]
    path: str = ""
    program: str = ""

    def key(self, name: str) -> str:
        """A key with its path."""
        return f"{self.path}.{name}" if self.path else name

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every key below, with its value. A list is a value, unless it holds tables."""
        for name in self.values:
            tables = self._tables(name)
            if tables is None:
                yield self.key(name), self.values[name]
            elif tables:
                for table in tables:
                    yield from table.leaves()

    def _tables(self, name: str) -> "list[Section] | None":
        """The tables that a key holds; None: it holds a value, or nothing."""
        value = self.values[name]
        if isinstance(value, Mapping) and value:
            return [self._at(value, name)]
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            return [self._at(entry, f"{name}.{number}") for number, entry in enumerate(value)]
        return None

    def _at(self, values: Mapping[str, Any], name: str) -> "Section":
        return Section(self.ledger, values, self.key(name), self.program)

    def section(self, name: str) -> "Section":
        """A table below; without keys if there is none.

        Raises:
            ConfigError: the key holds something else.
        """
        tables = self.sections(name)
        return tables[0] if tables else self._at({}, name)

    def sections(self, name: str) -> "list[Section]":
        """The tables of a list below, or the one table.

        Raises:
            ConfigError: the key holds something else.
        """
        tables = self._tables(name) if name in self.values else []
        if tables is None:
            if self.values[name] in ({}, [], None):
                return []
            raise ConfigError(f"{self.key(name)}: must be a table, got {_short(self.values[name])}")
        return tables

    def get(self, name: str, default: Any = None) -> Any:
        """A value."""
        return self.values.get(name, default)

    def note(self, name: str, status: str, text: str) -> None:
        """Note what becomes of a key, if the source has it; all keys below, if it is a table."""
        if name in self.values:
            tables = self._tables(name)
            if tables is None:
                self.ledger.note(self.key(name), self.values[name], status, text)
            for table in tables or []:
                table.note_all(status, text)

    def note_all(self, status: str, text: str) -> None:
        """Note what becomes of all keys below."""
        for key, value in self.leaves():
            self.ledger.note(key, value, status, text)

    def leave_out(self, name: str, reason: object) -> None:
        """Note that a component with all its keys has no counterpart, whatever was noted before."""
        keys = list(self.leaves())
        for key in [key for key in self.ledger.rows if key.startswith(f"{self.path}.")]:
            del self.ledger.rows[key]
        for key, value in keys:
            first = key == keys[0][0]
            text = f"{name} is left out of the score: {reason}" if first else f"as {name}, which is left out"
            self.ledger.note(key, value, "none", text)

    def convert(
        self, name: str, default: Any, target: str, function: Callable[[Any], Converted], remark: str = ""
    ) -> Converted:
        """Convert a value and note the key here with the result.

        Args:
            name: the key of the source.
            default: what the other program takes without it.
            target: the key here.
            function: from the value there to the value here.
            remark: added to the line.

        Raises:
            ConfigError: the value is not of the kind that the function takes.
        """
        given = self.values.get(name, default)
        try:
            result = function(given)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(f"{self.key(name)}: cannot be converted into {target}, got {_short(given)}") from error
        shown = given if name in self.values else f"{_short(given)} (the default of {self.program})"
        self.ledger.note(self.key(name), shown, "converted", f"{target}={_short(result)}{remark}")
        return result


def number(value: Any) -> float:
    """A number, as a float.

    Raises:
        TypeError: it is none; strings and booleans are not read as numbers.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)


def whole(value: Any) -> int:
    """A whole number.

    Raises:
        ValueError: it is none.
    """
    if number(value) != int(value):
        raise ValueError(value)
    return int(value)


def flag(value: Any) -> bool:
    """True or false.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def text(value: Any) -> str:
    """A string.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(value, str) or not value:
        raise TypeError(value)
    return value


def texts(value: Any) -> list[str]:
    """A list of strings; a string is a list of one."""
    return [text(value)] if isinstance(value, str) else [text(entry) for entry in value]


def _short(value: object) -> str:
    shown = value if isinstance(value, str) else yaml_text(value)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
