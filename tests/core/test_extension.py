"""Parts by name or import path, and the options of dataclasses."""

import sys
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from core.extension import find_part, import_object, instantiate

BUILTIN = {"one": 1, "two": 2}


@dataclass
class Power:
    """A part with options."""

    exponent: float
    steps: int = 3
    name: str | None = None
    flag: bool = False
    others: list = field(default_factory=list)
    computed: int = field(default=0, init=False)


@dataclass
class Bare:
    """A part without options."""


def double(value):
    return 2 * value


@pytest.fixture
def module(monkeypatch):
    """An importable module that holds the parts above."""
    user_module = ModuleType("parts_of_a_user")
    vars(user_module).update(Power=Power, Bare=Bare, double=double)
    monkeypatch.setitem(sys.modules, user_module.__name__, user_module)
    return user_module.__name__


def test_a_builtin_part_is_found_by_name_and_any_object_by_import_path(module):
    assert find_part("advantage", "two", BUILTIN) == 2
    assert find_part("advantage", f"{module}:double", BUILTIN) is double
    assert find_part("advantage", f"{module}:double", BUILTIN)(4) == 8
    assert find_part("advantage", "math:pi", BUILTIN) == pytest.approx(3.14159, abs=1e-5)
    assert find_part("advantage", f"{module}:Power", BUILTIN, {"exponent": 2}) == Power(2)
    assert find_part("advantage", f"{module}:Power.__name__", BUILTIN) == "Power"  # attributes of attributes
    assert find_part("advantage", f"{module}:Bare", BUILTIN) == Bare()  # an instance, not the class
    assert find_part("advantage", "one", BUILTIN, {}) == 1  # no options are fine


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("three", None, "advantage: must be one of one, two or package.module:name, got 'three'"),
        ("", None, "advantage: must be one of one, two or package.module:name, got ''"),
        (
            "one",
            {"k": 2},
            "advantage: the built-in one takes no options; only a part of your own (package.module:name) does, got "
            "{'k': 2}",
        ),
        (
            "no_such_module_xyz:f",
            None,
            "advantage: no_such_module_xyz:f cannot be imported as package.module:name (No module",
        ),
        (
            "math:no_such",
            None,
            "advantage: math:no_such cannot be imported as package.module:name (module 'math' has no",
        ),
        ("a b:c", None, "advantage: a b:c cannot be imported as package.module:name ("),
        ("math:pi", {"k": 2}, "advantage: an object of float is not a dataclass and takes no options, got {'k': 2}"),
    ],
)
def test_a_part_that_cannot_be_found_is_an_error_of_one_line(name, options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is compared below, as text and not as a pattern
        find_part("advantage", name, BUILTIN, options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_import_path_needs_a_colon():
    assert import_object("math:tau") == pytest.approx(6.28318, abs=1e-5)
    assert import_object("os.path:join")("a", "b") == "a/b"
    with pytest.raises(
        ValueError, match=r"^math\.tau cannot be imported as package\.module:name \(it has no colon\)$"
    ):
        import_object("math.tau")


def test_an_error_inside_the_imported_module_stays_on_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text('raise ImportError("first\\nsecond")\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ValueError,
        match=r"^broken_part:f cannot be imported .* \(first second; ImportError in .*broken_part\.py, line 1\)$",
    ):
        import_object("broken_part:f")


@pytest.mark.parametrize(
    "options",
    [
        {"exponent": 2.0},
        {"exponent": 2},  # a whole number is a number
        {"exponent": 2.0, "steps": 1, "name": "a", "flag": True, "others": [1]},
        {"exponent": 2.0, "name": None},
        {"exponent": 2.0, "others": "not checked"},  # only numbers, booleans, text and null are
    ],
)
def test_options_become_the_fields_of_a_dataclass(options):
    assert instantiate("advantage", Power, options) == Power(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "advantage: option exponent of Power must be given"),
        ({"steps": 2}, "advantage: option exponent of Power must be given"),
        (
            {"exponnt": 2},
            "advantage: Power has no option exponnt; its options are exponent, steps, name, flag, others",
        ),
        ({"computed": 2}, "advantage: Power has no option computed; its options are exponent, "),
        ({"exponent": "2"}, "advantage: option exponent of Power must be a number, got '2'"),
        ({"exponent": True}, "advantage: option exponent of Power must be a number, got True"),
        ({"exponent": 2, "steps": 1.5}, "advantage: option steps of Power must be a whole number, got 1.5"),
        ({"exponent": 2, "steps": None}, "advantage: option steps of Power must be a whole number, got None"),
        ({"exponent": 2, "name": 1}, "advantage: option name of Power must be text or null, got 1"),
        ({"exponent": 2, "flag": 1}, "advantage: option flag of Power must be true or false, got 1"),
    ],
)
def test_an_option_that_does_not_fit_is_named_with_what_does(options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is compared below, as text and not as a pattern
        instantiate("advantage", Power, options)
    assert str(error.value).startswith(message)


def test_only_dataclasses_take_options():
    with pytest.raises(
        ValueError, match=r"^advantage: double is not a dataclass and takes no options, got \{'k': 1\}$"
    ):
        instantiate("advantage", double, {"k": 1})
    with pytest.raises(ValueError, match=r"^advantage: Bare has no option k; its options are none$"):
        instantiate("advantage", Bare, {"k": 1})
    instance = Power(2)
    assert instantiate("advantage", instance, {}) is instance  # an instance is used as it is
    assert instantiate("advantage", double, {}) is double


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import math\nimport no_such_xyz\n", "No module named 'no_such_xyz'; ModuleNotFoundError in {file}, line 2"),
        ("def f():\n    return 1 / 0\n\nX = f()\n", "division by zero; ZeroDivisionError in {file}, line 4"),
        ("import json\njson.loads('{')\n", "line 1 column 2 (char 1); JSONDecodeError in {file}, line 2"),
        ("x = 1\ndef f(:\n", "; SyntaxError in {file}, line 2"),
    ],
)
def test_an_error_inside_the_module_shows_its_line(content, message, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{abs(hash(content))}"
    file = tmp_path / f"{name}.py"
    file.write_text(content)
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the text is compared below, as text and not as a pattern
        import_object(f"{name}:f")
    assert str(error.value).startswith(f"{name}:f cannot be imported as package.module:name (")
    assert message.format(file=file) in str(error.value)
    assert "\n" not in str(error.value)
