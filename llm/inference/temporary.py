"""Attributes that have other values for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def temporarily(changes: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Context in which attributes have other values. changes: (owner, name, value) of each."""
    changes = list(changes)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
