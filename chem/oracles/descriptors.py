"""RDKit's descriptors by name, and the fingerprints and descriptors that a QSAR model reads."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors, MACCSkeys
from rdkit.Chem import rdFingerprintGenerator as fingerprints

from chem.oracles.base import Molecule
from conf.schema.base import ConfigError

DESCRIPTORS: dict[str, Callable[[Chem.Mol], float]] = dict(Descriptors.descList)
Features = Callable[[Chem.Mol], np.ndarray]


class Descriptor:
    """A descriptor of RDKit, by its name in `rdkit.Chem.Descriptors.descList`, such as MolMR or BalabanJ."""

    version = "1"  # change it whenever the values change; RDKit's own version is part of the oracle's identity

    def __init__(self, name: str) -> None:
        self.function = find_descriptor("name", name)
        if name not in ("qed", "FractionCSP3"):
            self.unit_range = False

    def __call__(self, molecule: Molecule) -> float:
        """The value of the descriptor."""
        return float(self.function(molecule.mol))


def find_descriptor(key: str, name: str) -> Callable[[Chem.Mol], float]:
    """RDKit's descriptor of this name.

    Raises:
        ConfigError: there is none; the message has similar names.
    """
    if name not in DESCRIPTORS:
        lower = {known.lower(): known for known in DESCRIPTORS}
        similar = [lower[match] for match in difflib.get_close_matches(str(name).lower(), lower, n=5, cutoff=0.5)]
        hint = f"did you mean {', '.join(similar)}?" if similar else "rdkit.Chem.Descriptors.descList has the names"
        raise ConfigError(f"{key}: RDKit has no descriptor {name}; {hint}")
    return DESCRIPTORS[name]


def morgan(radius: int = 2, bits: int = 2048, counts: bool = False, features: bool = False) -> Features:
    """Morgan fingerprint: circular environments of atoms (ECFP, or FCFP with `features`)."""
    invariants = fingerprints.GetMorganFeatureAtomInvGen() if features else None
    generator = fingerprints.GetMorganGenerator(radius=radius, fpSize=bits, atomInvariantsGenerator=invariants)
    return _folded(generator, counts)


def rdkit_paths(bits: int = 2048, counts: bool = False) -> Features:
    """RDKit's fingerprint of paths and branched subgraphs of 1 to 7 bonds."""
    return _folded(fingerprints.GetRDKitFPGenerator(fpSize=bits), counts)


def atom_pairs(bits: int = 2048, counts: bool = False) -> Features:
    """Fingerprint of pairs of atoms with their distance in bonds."""
    return _folded(fingerprints.GetAtomPairGenerator(fpSize=bits), counts)


def torsions(bits: int = 2048, counts: bool = False) -> Features:
    """Fingerprint of chains of four atoms."""
    return _folded(fingerprints.GetTopologicalTorsionGenerator(fpSize=bits), counts)


def maccs() -> Features:
    """The 167 bits of RDKit's MACCS keys, of which the first is unused."""
    return lambda mol: np.array(MACCSkeys.GenMACCSKeys(mol), dtype=np.float32)  # type: ignore[attr-defined]


def _folded(generator: Any, counts: bool) -> Features:
    array = generator.GetCountFingerprintAsNumPy if counts else generator.GetFingerprintAsNumPy
    return lambda mol: array(mol).astype(np.float32)


FINGERPRINTS: dict[str, Callable[..., Features]] = {
    "morgan": morgan,
    "rdkit": rdkit_paths,
    "atom_pair": atom_pairs,
    "torsion": torsions,
    "maccs": maccs,
}


def make_features(specification: Sequence[str | Mapping[str, Any]]) -> Features:
    """A function from a molecule to the features that a model was trained on, [F] float32.

    Args:
        specification: in the order of the model's inputs: names of descriptors of RDKit, and fingerprints, each a
            name or a mapping with its options: {name: morgan, radius: 3, bits: 1024}.

    Raises:
        ConfigError: a name or an option is unknown.
    """
    parts = [_make_part(part) for part in ([specification] if isinstance(specification, str) else specification)]
    if not parts:
        raise ConfigError("features: must name at least one fingerprint or descriptor, got []")

    def features(mol: Chem.Mol) -> np.ndarray:
        row = np.concatenate([part(mol) for part in parts])
        if not np.isfinite(row).all():
            raise ValueError(f"feature {int(np.flatnonzero(~np.isfinite(row))[0])} is not finite")
        return row

    return features


def _make_part(part: str | Mapping[str, Any]) -> Features:
    options = {"name": part} if isinstance(part, str) else dict(part)
    name = options.pop("name", None)
    if name in FINGERPRINTS:
        try:
            return FINGERPRINTS[name](**options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"features: {name}: {' '.join(str(error).split())[:200]}") from error
    if name is None or options:
        raise ConfigError(f"features: need fingerprints ({', '.join(FINGERPRINTS)}) or descriptors, got {part}")
    descriptor = find_descriptor("features", name)
    return lambda mol: np.array([descriptor(mol)], dtype=np.float32)
