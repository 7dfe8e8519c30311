"""A request for an adapter."""

from typing import NamedTuple


class LoRARequest(NamedTuple):
    """Name, number and folder of an adapter."""

    name: str
    number: int
    path: str
