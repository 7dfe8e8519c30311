"""What an oracle takes and gives: one molecule in, one typed result out."""

import hashlib
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Protocol

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

MAX_ATOMS = 250  # heavy atoms; more is no drug-like molecule, and costs memory that grows with the square


class Status(Enum):
    """What became of a molecule."""

    ok = "ok"
    invalid = "invalid"  # not a molecule: score 0
    failed = "failed"  # the oracle raised an error or crashed: no score
    timed_out = "timed_out"  # the oracle gave no answer in time: no score


@dataclass(frozen=True)
class Result:
    """An oracle's answer about one molecule.

    Attributes:
        smiles: as it was asked.
        status: only `ok` can be good; `failed` and `timed_out` are counted and never scored.
        score: in [0, 1]; 0 where invalid, None where failed or timed out.
        values: the raw value of each component, in its own units; a component after one whose score makes the product
            0 is not asked and not here.
        scores: the same, shaped to [0, 1].
        details: what a component tells beyond its value (a route, a pose), by component.
        message: why there is no score.
        scaffold: canonical SMILES of the Bemis-Murcko scaffold, "" for a molecule without a ring; None where there is
            no score.
        seconds: spent on this molecule, by the clock; never part of a record that must be reproducible.
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
        """Whether the oracle, and not the molecule, is the reason for there being no score."""
        return self.status in (Status.failed, Status.timed_out)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"status": self.status.value}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Result":
        return cls(**record | {"status": Status(record["status"])})


@dataclass(frozen=True)
class Molecule:
    """What a component is asked about."""

    mol: Chem.Mol
    run_seed: int = 0

    @cached_property
    def smiles(self) -> str:
        """Canonical SMILES."""
        return Chem.MolToSmiles(self.mol)

    @property
    def seed(self) -> int:
        """For whatever is random: 31 bits of the canonical SMILES and the oracle's seed, whoever asks and when."""
        return int.from_bytes(hashlib.sha256(f"{self.run_seed} {self.smiles}".encode()).digest()[:4]) >> 1


@dataclass(frozen=True)
class Value:
    """A component's value with what it tells beyond it."""

    value: float
    details: Any = None  # JSON


class TimedOut(Exception):
    """A component's own time limit: the molecule's result is `timed_out`."""


class Component(Protocol):
    """One property of a molecule: an object made by `name(**parameters)`, asked one molecule at a time.

    It may raise TimedOut, or any other exception, which makes the result `failed` with its message. Optional:
    `unit_range`, whether all values are within [0, 1]; `identity()`, JSON beyond name and parameters that its values
    depend on, such as the hash of a file; `preflight()`, called once in one worker at the start, which raises where
    the component cannot work and returns a line to show.
    """

    def __call__(self, molecule: Molecule) -> float | Value: ...


def parse(smiles: str) -> Chem.Mol | str:
    """The molecule, or why there is none."""
    if not smiles or not smiles.isascii() or not smiles.isprintable():
        return "empty, or not printable ASCII"
    try:
        mol = Chem.MolFromSmiles(smiles)
    except Exception as error:  # RDKit raises on some strings instead of returning None
        return str(error)
    if mol is None or mol.GetNumAtoms() == 0:
        return "not a molecule"
    if mol.GetNumHeavyAtoms() > MAX_ATOMS:
        return f"{mol.GetNumHeavyAtoms()} heavy atoms, the limit is {MAX_ATOMS}"
    return mol


def murcko_scaffold(mol: Chem.Mol) -> str:
    """Canonical SMILES of the Bemis-Murcko scaffold; "" for a molecule without a ring."""
    if not mol.GetRingInfo().NumRings():
        return ""  # as RDKit finds, in time that grows with the third power of a chain's length
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=mol))
