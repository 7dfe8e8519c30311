"""Input and output of an oracle: one molecule in, one typed result out."""

import hashlib
import math
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rdkit import Chem

from chem.molecules import read_molecule

MAX_ATOMS = 250  # heavy atoms; larger molecules are not drug-like, and their memory grows with the square of the size


class Status(Enum):
    """Outcome of scoring a molecule."""

    ok = "ok"
    invalid = "invalid"  # not a molecule: score 0
    failed = "failed"  # the oracle raised an error or crashed: no score
    timed_out = "timed_out"  # the oracle gave no answer in time: no score


@dataclass(frozen=True)
class Result:
    """An oracle's answer about one molecule.

    Attributes:
        smiles: as it was given to the oracle.
        status: only `ok` can be good; `failed` and `timed_out` are counted and have no score.
        score: in [0, 1]; 0 if invalid, None if failed or timed out.
        values: raw value of each component, in its own unit. Components after one that makes the product 0 are
            skipped and missing here.
        scores: the values transformed to [0, 1].
        details: what a component returned beside its value (a route, a pose), by component.
        message: why there is no score.
        scaffold: canonical SMILES of the Bemis-Murcko scaffold, "" for a molecule without a ring, None without a
            score.
        seconds: wall-clock time for this molecule; never part of a record that must be reproducible.
    """

    smiles: str
    status: Status
    score: float | None
    values: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    scaffold: str | None = None
    seconds: float = 0.0

    @property
    def failure(self) -> bool:
        """Whether the oracle failed or timed out, so that the score is unknown."""
        return self.status in (Status.failed, Status.timed_out)

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON values."""
        return asdict(self) | {"status": self.status.value}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Result":
        """The inverse of `to_json`."""
        return cls(**record | {"status": Status(record["status"])})


@dataclass(frozen=True)
class Molecule:
    """Input of a component.

    Attributes:
        mol: RDKit's molecule.
        run_seed: seed of the oracle.
    """

    mol: Chem.Mol
    run_seed: int = 0

    @cached_property
    def smiles(self) -> str:
        """Canonical SMILES."""
        return Chem.MolToSmiles(self.mol)

    @property
    def seed(self) -> int:
        """Seed for components that are random: 31 bits that depend only on the canonical SMILES and `run_seed`."""
        return int.from_bytes(hashlib.sha256(f"{self.run_seed} {self.smiles}".encode()).digest()[:4]) >> 1


@dataclass(frozen=True)
class Value:
    """A component's value together with further details.

    Attributes:
        value: the raw value.
        details: JSON, kept in the result.
    """

    value: float
    details: Any = None


class TimedOut(Exception):
    """Raised by a component that exceeds its own time limit; the result is `timed_out`."""


class Component(Protocol):
    """One property of a molecule: an object made by `name(**parameters)` and called with one molecule at a time.

    It may raise TimedOut. Any other exception makes the result `failed`, with the exception's message. So does a
    value that is no finite number, and details that are no JSON.

    Optional members: `unit_range`, whether all values are in [0, 1]; `identity()`, JSON that the values depend on
    beside name and parameters, such as the hash of a file; `preflight()`, called once in one worker at the start,
    which raises an error if the component cannot work and returns a line for the log; `version`, a class attribute
    to change whenever the values change, without which runs and cached scores are tied to the source file as it is;
    `score_batch(molecules)`, which is called instead with up to 64 molecules and returns for each a value, or the
    exception that concerns it alone. If it raises an exception, the batch is halved and scored again, down to
    single molecules, so that the molecule at fault fails alone.
    """

    def __call__(self, molecule: Molecule) -> float | Value:
        """The raw value of a molecule."""


def plain_value(answer: Any) -> Value:
    """A component's answer, a number or a `Value`, with a Python float and details of plain JSON.

    Raises:
        TypeError, ValueError: it is no number, or its details are no JSON.
    """
    if isinstance(answer, Value):
        return Value(float(answer.value), plain_json("details", answer.details))
    return Value(float(answer))


def plain_json(name: str, value: Any) -> Any:
    """A value as plain JSON: None, bool, int, finite float, str, list and dict with text keys.

    NumPy's scalars and arrays, PyTorch's tensors, tuples and paths are converted; a set becomes a sorted list.

    Args:
        name: of the value, for the message.
        value: the value.

    Raises:
        ValueError: it holds something else, or a number that is not finite. The message says where.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
        return float(value)
    if isinstance(value, dict):
        return {
            str(plain_json(f"a key of {name}", key)): plain_json(f"{name}[{key!r}]", item)
            for key, item in value.items()
        }
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [plain_json(f"{name}[{position}]", item) for position, item in enumerate(value)]
    if hasattr(value, "tolist"):  # arrays and their scalars
        return plain_json(name, value.tolist())
    raise ValueError(f"{name} must be JSON (numbers, text, lists and dicts), got {type(value).__name__}")


def parse_molecule(smiles: str) -> Chem.Mol | str:
    """Parse a SMILES; returns the reason as a string if it is not a molecule."""
    if not smiles or not smiles.isascii() or not smiles.isprintable():
        return "empty, or not printable ASCII"
    mol = read_molecule(smiles)
    if isinstance(mol, str):
        return mol
    if mol.GetNumHeavyAtoms() > MAX_ATOMS:
        return f"{mol.GetNumHeavyAtoms()} heavy atoms, the limit is {MAX_ATOMS}"
    return mol
