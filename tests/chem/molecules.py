"""Molecules for tests, and their Tanimoto distances computed a second way."""

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem

MOLECULES = [
    "CCO",
    "c1ccccc1",
    "c1ccccc1O",
    "CC(=O)Nc1ccccc1",
    "CC(=O)Oc1ccccc1C(=O)O",
    "C1CCNCC1",
    "CN1CCN(C)CC1",
    "c1ccc2ncccc2c1",
    "O=C(O)c1ccncc1",
    "CCCCCCCC",
    "FC(F)(F)c1ccccc1",
    "c1ccsc1",
    "NS(=O)(=O)c1ccccc1",
    "CC(C)Cc1ccc(C(C)C(=O)O)cc1",
]


def distances(smiles):
    """[N, N] Tanimoto distances, with numpy from the bits of RDKit's older fingerprint function."""
    fingerprint = AllChem.GetMorganFingerprintAsBitVect  # type: ignore[attr-defined]  # not in RDKit's stubs
    bits = np.array([list(fingerprint(Chem.MolFromSmiles(s), 2, 2048)) for s in smiles])
    shared = bits @ bits.T
    each = bits.sum(1)
    return 1 - shared / (each[:, None] + each[None] - shared)
