"""Keys, sections and their checks, without any configuration of the project."""

import math
from dataclasses import dataclass, fields

import pytest

from conf.schema.base import (
    MISSING,
    OPTIONS,
    ConfigError,
    Key,
    Section,
    check_config,
    check_range,
    key,
    key_of,
    load_object,
    option,
    yaml_text,
)


@dataclass
class Inner(Section):
    """A section in a section."""

    share: float = key("a share", low=0, below=1)
    names: list[str] = key("names", choices=("a", "b"), factory=list)
    free: int = 3

    def check(self, prefix):
        """Check that the share is not .5, as an example of a condition."""
        if self.share == 0.5:
            raise ConfigError(f"{prefix}share: must not be .5")


@dataclass
class Outer(Section):
    """The whole configuration."""

    inner: Inner = key("the inner section")
    parts: list[Inner] = key("a list of sections", factory=list)
    count: int | None = key("a count", default=None, low=1)

    def check(self, prefix):
        """Check that there is a count."""
        if self.count is None:
            raise ConfigError(f"{prefix}count: must be given")


@pytest.mark.parametrize(
    ("described", "allowed"),
    [
        (Key("", low=0), ">= 0"),
        (Key("", above=0), "> 0"),
        (Key("", low=0, high=1), ">= 0 and <= 1"),
        (Key("", above=0.5, below=2), "> 0.5 and < 2"),
        (Key("", choices=("a", "b")), "a, b"),
        (Key("", choices=("a",), import_path=True), "a, package.module:name"),
        (Key(""), ""),
    ],
)
def test_allowed_values_in_words(described, allowed):
    assert described.allowed() == allowed


@pytest.mark.parametrize(
    ("described", "value", "message"),
    [
        (Key("", low=0), -1, "k: must be >= 0, got -1"),
        (Key("", low=0), -0.5, "k: must be finite and >= 0, got -0.5"),
        (Key("", above=0), 0, "k: must be > 0, got 0"),
        (Key("", low=0), 2**31, "k: must be <= 2147483647, got 2147483648"),
        (Key("", low=0), 2e18, "k: must be within +-1e18, since larger values overflow in float32, got 2e+18"),
        (Key("", high=1), 1.5, "k: must be finite and <= 1, got 1.5"),
        (Key("", below=1), 1, "k: must be < 1, got 1"),
        (Key("", low=0, high=1), 2, "k: must be >= 0 and <= 1, got 2"),
        (Key(""), math.nan, "k: must be finite, got nan"),
        (Key(""), math.inf, "k: must be finite, got inf"),
        (Key("", low=0), [1, -1], "k: must be >= 0, got -1"),
        (Key("", choices=("a", "b")), "c", "k: must be one of a, b, got c"),
        (Key("", choices=("a", "b")), "", "k: must be one of a, b, got ''"),
        (Key("", choices=("a", "b")), ["a", "c"], "k: must be one of a, b, got c"),
        (Key("", choices=("a",)), "m:f", "k: must be one of a, got m:f"),
    ],
)
def test_a_value_outside_is_an_error(described, value, message):
    with pytest.raises(ConfigError) as error:
        described.check("k", value)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("described", "value"),
    [
        (Key("", low=0), 0),
        (Key("", above=0), 1e-300),
        (Key("", low=0, high=1), 1.0),
        (Key("", low=0), 2**31 - 1),
        (Key("", low=0, high=math.inf), 10**400),  # too large for a float, but a whole number
        (Key("", low=1), None),
        (Key("", low=1), False),  # no number
        (Key("", low=1), "text"),
        (Key("", low=1), []),
        (Key("", choices=("a", "b")), ["b", "a"]),
        (Key("", choices=("a",), import_path=True), "m:f"),
        (Key("", choices=("a",)), None),
    ],
)
def test_a_value_inside_is_not(described, value):
    described.check("k", value)


def test_a_note_says_where_a_bound_comes_from():
    with pytest.raises(ConfigError, match=r"^size: must be <= 3 \(total\), got 4$"):
        check_range("size", 4, high=3, note=" (total)")
    with pytest.raises(ConfigError, match=r"^size: must be finite and <= 3, got nan$"):
        check_range("size", math.nan, high=3)
    check_range("size", 3, high=3, low=None)


def test_a_key_is_a_field_with_a_description():
    share, names, free = fields(Inner)
    assert key_of(share) == Key("a share", low=0, below=1)
    assert share.default == MISSING == "???"
    assert names.default_factory is list
    assert key_of(free) == Key("")  # a field without a description


def test_sections_are_checked_from_the_inside():
    """All keys of a section come first, then its conditions, then those of the section around it."""
    check_config(Outer(Inner(0.2), count=1))
    for config, message in {
        "key": (Outer(Inner(2.0), count=0), "inner.share: must be finite and >= 0 and < 1, got 2.0"),
        "inner condition": (Outer(Inner(0.5), count=0), "inner.share: must not be .5"),
        "next key": (Outer(Inner(0.2), count=0), "count: must be >= 1, got 0"),
        "part": (Outer(Inner(0.2), [Inner(0.1), Inner(0.2, ["c"])]), "parts.names: must be one of a, b, got c"),
        "outer condition": (Outer(Inner(0.2)), "count: must be given"),
    }.values():
        with pytest.raises(ConfigError) as error:
            check_config(config)
        assert str(error.value) == message
    with pytest.raises(ConfigError, match=r"^run\.count: must be given$"):
        check_config(Outer(Inner(0.2)), "run.")


def test_show_writes_yaml():
    values = {"null": None, "true": True, "false": False, "''": "", "text": "text", "1": 1, "0.1": 0.1, "[1]": [1]}
    assert {yaml_text(value): value for value in values.values()} == values


def test_an_object_at_an_import_path_is_loaded_or_the_key_is_named():
    assert load_object("task.name", "math:pi") == math.pi
    for path in ("math", "math:no_such", "no_such_module:f"):
        with pytest.raises(ConfigError, match=rf"^task\.name: {path} cannot be imported as package\.module:name \("):
            load_object("task.name", path)


def test_an_option_is_registered_under_each_of_its_names(monkeypatch):
    registered: dict[str, type] = {}
    monkeypatch.setattr("conf.schema.base.OPTIONS", registered)
    assert option("network", "small", "large")(Inner) is Inner
    assert registered == {"network/small": Inner, "network/large": Inner}
    assert "network/small" not in OPTIONS  # control: only the copy
