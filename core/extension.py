"""Parts of a method by name: built in, or one of your own by import path `package.module:name`.

What a path names is used as it is. Where it is a dataclass, its fields are the part's options, and an instance of it
is used.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def find(kind: str, name: str, known: Mapping[str, T], options: Mapping[str, Any] | None = None) -> T:
    """`known[name]`, or what an import path names.

    Args:
        kind: what is looked for, for messages.
        options: of a part of your own.

    Raises:
        ValueError: an unknown name, a path to nothing, options that do not fit, or options of a built-in part.
    """
    if ":" in name:
        try:
            target = load(name)
        except ValueError as error:
            raise ValueError(f"{kind}: {error}") from error
        return with_options(kind, target, options or {})
    if name not in known:
        raise ValueError(f"{kind}: must be one of {', '.join(known)} or package.module:name, got {name!r}")
    if options:
        raise ValueError(f"{kind}: options are for parts of your own (package.module:name), got {dict(options)}")
    return known[name]


def load(path: str) -> Any:
    """The object at `package.module:name`. Raises ValueError, in one line, where there is none."""
    try:
        if ":" not in path:
            raise ValueError("there is no colon in it")
        return resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be imported as package.module:name ({reason})") from error


def with_options(kind: str, target: Any, options: Mapping[str, Any]) -> Any:
    """An instance of a dataclass with these options; anything else as it is.

    Raises:
        ValueError: an unknown option, one of another type, one that is missing, or options without a dataclass.
    """
    if not (isinstance(target, type) and is_dataclass(target)):
        if options:
            name = getattr(target, "__name__", f"an object of {type(target).__name__}")
            raise ValueError(f"{kind}: {name} is not a dataclass and takes no options, got {dict(options)}")
        return target
    types = get_type_hints(target)
    known = {f.name: f for f in fields(target) if f.init}
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"{kind}: {target.__name__} has the options {', '.join(known) or 'none'}, got {option}")
        if not _fits(value, types[option]):
            raise ValueError(f"{kind}: option {option} must be {_words(types[option])}, got {value!r}")
    missing = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in missing if name not in options]
    if missing:
        raise ValueError(f"{kind}: option {missing[0]} of {target.__name__} must be given")
    return target(**options)


def _fits(value: Any, expected: Any) -> bool:
    """Whether a plain value is of a type; types other than numbers, text and optional ones are not checked."""
    if get_origin(expected) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(expected))
    if expected in (int, float):
        return isinstance(value, (int, expected)) and not isinstance(value, bool)
    if expected in (bool, str, NoneType):
        return isinstance(value, expected)
    return True


def _words(expected: Any) -> str:
    if get_origin(expected) in (Union, UnionType):
        return " or ".join(_words(one) for one in get_args(expected))
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}.get(
        expected, str(expected)
    )
