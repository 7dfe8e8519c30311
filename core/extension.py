"""Find the parts of a method by name: built-in ones, or a user's own by import path `package.module:name`.

An object named by an import path is used as it is. If it is a dataclass, its fields are the options of the part, and
an instance of it is used.
"""

import traceback
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def find_part(kind: str, name: str, builtin: Mapping[str, T], options: Mapping[str, Any] | None = None) -> T:
    """Return `builtin[name]`, or the object at the import path `name`.

    Args:
        kind: the key that holds the name, for messages.
        name: a name in `builtin`, or package.module:name.
        builtin: the built-in parts by name.
        options: fields of the dataclass at the import path.

    Raises:
        ValueError: the name is unknown, the path cannot be imported, or the options do not fit the part.
    """
    if ":" in name:
        try:
            target = import_object(name)
        except ValueError as error:
            raise ValueError(f"{kind}: {error}") from error
        return instantiate(kind, target, options or {})
    if name not in builtin:
        raise ValueError(f"{kind}: must be one of {', '.join(builtin)} or package.module:name, got {name!r}")
    if options:
        raise ValueError(
            f"{kind}: the built-in {name} takes no options; only a part of your own (package.module:name) does, got "
            f"{dict(options)}"
        )
    return builtin[name]


def import_object(path: str) -> Any:
    """Return the object at `package.module:name`. Raises a ValueError of one line if it cannot be imported."""
    try:
        if ":" not in path:
            raise ValueError("it has no colon")
        return resolve_name(path)
    except Exception as error:  # the module itself may raise anything
        reason = " ".join(str(error).split()) + _place(error)
        raise ValueError(f"{path} cannot be imported as package.module:name ({reason})") from error


def _place(error: Exception) -> str:
    """Type, file and line of an exception that a module raised when it was imported; empty if none did."""
    if isinstance(error, SyntaxError):
        return f"; SyntaxError in {error.filename}, line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    inside = [frame for frame in frames if not frame.filename.startswith("<frozen ")]
    return f"; {type(error).__name__} in {inside[0].filename}, line {inside[0].lineno}" if inside else ""


def instantiate(kind: str, target: Any, options: Mapping[str, Any]) -> Any:
    """Return an instance of `target` if it is a dataclass, otherwise `target` itself.

    Args:
        kind: the key that the options belong to, for messages.
        target: a dataclass, or any other object.
        options: values of the dataclass's fields.

    Raises:
        ValueError: an option is unknown, of the wrong type or missing, or `target` is not a dataclass.
    """
    if not (isinstance(target, type) and is_dataclass(target)):
        if options:
            name = getattr(target, "__name__", f"an object of {type(target).__name__}")
            raise ValueError(f"{kind}: {name} is not a dataclass and takes no options, got {dict(options)}")
        return target
    types = get_type_hints(target)
    known = {field.name: field for field in fields(target) if field.init}
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"{kind}: {target.__name__} has no option {option}; its options are {', '.join(known) or 'none'}"
            )
        if not _has_type(value, types[option]):
            raise ValueError(
                f"{kind}: option {option} of {target.__name__} must be {_type_in_words(types[option])}, got {value!r}"
            )
    for option, field in known.items():
        if option not in options and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{kind}: option {option} of {target.__name__} must be given")
    return target(**options)


def _has_type(value: Any, expected: Any) -> bool:
    """Whether a value is a number, boolean, text or null as expected; values of other types are not checked."""
    if get_origin(expected) in (Union, UnionType):
        return any(_has_type(value, member) for member in get_args(expected))
    if expected in (int, float):
        return isinstance(value, (int, expected)) and not isinstance(value, bool)
    if expected in (bool, str, NoneType):
        return isinstance(value, expected)
    return True


def _type_in_words(expected: Any) -> str:
    if get_origin(expected) in (Union, UnionType):
        return " or ".join(_type_in_words(member) for member in get_args(expected))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}.get(
        expected, str(expected)
    )
