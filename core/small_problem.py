"""A small problem for `core.explain`, read from its arguments: outcomes with a reward and a reference."""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REQUIRED = ("reward", "ref", "beta")
KEYS = (*REQUIRED, "threshold", "entropy_coef", "classes")


class InputError(ValueError):
    """A mistake on the command line; the message is one line that starts with the key."""


@dataclass(frozen=True)
class Problem:
    """Outcomes with a reward and a reference.

    Attributes:
        reward: [A].
        ref: [A] probabilities.
        beta: reward units per nat.
        threshold: lowest good reward; None: the best reward on the support.
        entropy_coef: reward units per nat.
        classes: the answer of each outcome; None: each outcome is an answer of its own.
    """

    reward: Tensor
    ref: Tensor
    beta: float
    threshold: float | None
    entropy_coef: float
    classes: tuple[str, ...] | None = None

    def mass_logp(self, good: Tensor) -> Tensor:
        """[A] log of the reference's probability of all good outcomes with the same answer."""
        assert self.classes is not None
        same = torch.tensor([[a == b for b in self.classes] for a in self.classes])
        return self.ref.log().masked_fill(~(same & good), -torch.inf).logsumexp(-1)


def split_page(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Return the key=value arguments, and the file of --html FILE or --html=FILE. Raises InputError."""
    words, pages = [], []
    remaining = iter(arguments)
    for word in remaining:
        name, equals, file = word.partition("=")
        if name != "--html":
            words.append(word)
            continue
        pages.append(file if equals else next(remaining, ""))
    if len(pages) > 1:
        raise InputError("--html: must be given once, got it twice")
    if pages and (not pages[0] or pages[0].partition("=")[0] in KEYS or pages[0].startswith("-")):
        raise InputError(f"--html: must be followed by the file to write, such as problem.html, got {pages[0]!r}")
    return words, Path(pages[0]) if pages else None


def read_problem(arguments: Sequence[str]) -> Problem:
    """Read the problem from key=value arguments. Raises InputError."""
    values = _read_values(arguments)
    reward, ref = _numbers("reward", values["reward"]), _numbers("ref", values["ref"])
    _check_reference(ref, len(reward))
    beta = _number("beta", values["beta"])
    if not beta > 0:
        raise InputError(f"beta: must be > 0, because forward KL and MARA need a KL term, got {beta:g}")
    entropy_coef = _number("entropy_coef", values.get("entropy_coef", 0.0))
    if entropy_coef < 0:
        raise InputError(f"entropy_coef: must be >= 0, got {entropy_coef:g}")
    threshold = _number("threshold", values["threshold"]) if "threshold" in values else None
    both = torch.tensor([reward, ref], dtype=torch.float64)
    classes = _names("classes", values["classes"], len(reward)) if "classes" in values else None
    return Problem(both[0], both[1], beta, threshold, entropy_coef, classes)


def _read_values(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the value of each key as Python reads it; text that is no literal stays text."""
    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if key not in KEYS:
            allowed = ", ".join(KEYS)
            raise InputError(f"{_shortened(key)[1:-1]}: no such key; allowed: {allowed}, got {_shortened(argument)}")
        if not equals:
            raise InputError(f"{key}: must be written {key}=VALUE, got {_shortened(argument)}")
        if key in values:
            raise InputError(f"{key}: must be given once, got it twice")
        try:
            values[key] = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            values[key] = text
    for key in REQUIRED:
        if key not in values:
            raise InputError(f"{key}: must be given; see --help")
    return values


def _check_reference(ref: list[float], outcomes: int) -> None:
    if len(ref) != outcomes:
        raise InputError(f"ref: must have one number per outcome, {outcomes} as in reward, got {len(ref)}")
    if min(ref) < 0:
        raise InputError(f"ref: must not hold a negative probability, got {min(ref):g}")
    if abs(math.fsum(ref) - 1) > 1e-6:
        raise InputError(f"ref: must be probabilities that sum to 1, got a sum of {math.fsum(ref):.9g}")


def _number(key: str, value: Any, expected: str = "a finite number") -> float:
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer that is too large for a float
        pass
    raise InputError(f"{key}: must be {expected}, got {_shortened(value)}")


def _numbers(key: str, value: Any) -> list[float]:
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"{key}: must be a list of numbers such as [1,.5,0], got {_shortened(value)}")
    return [_number(key, item, "a list of finite numbers") for item in value]


def _names(key: str, value: Any, outcomes: int) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, (str, int)) for item in value):
        raise InputError(
            f'{key}: must be a list of names or whole numbers such as ["a","a","b"], got {_shortened(value)}'
        )
    if len(value) != outcomes:
        raise InputError(f"{key}: must have one name per outcome, {outcomes} as in reward, got {len(value)}")
    return tuple(map(str, value))


def _shortened(value: Any) -> str:
    """The value on one line of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
