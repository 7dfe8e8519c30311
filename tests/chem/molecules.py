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

UNREADABLE = [  # RDKit reads them, and writes a canonical SMILES that it cannot read
    "O=C(CN1C(=O)/C(=C/Sc2cccs2)Sp1=S)Nc1nccs1",
    "COC(=O)C[C@@H](C)NC(=O)c1cc=2c(c1)nc(C)n2C",
]
ODD_SCAFFOLDS = [  # molecules whose scaffold, or its generic form, RDKit cannot read or make
    "O=C(c1ccccc1)N1CCP2(CC1)(c1ccccc1)OCCO2",
    "CONC(=O)CSc1ccc[c-]1C",
    "CC(C)SCC(=O)N1CCC[S-]2(CCC(=O)N(CCc3c[nH]c[nH+]3)C2)C1",
    "O=S(=O)(NCC[s+]1(N2CCOCC2)CCCC1)C1=Cc2ccccc2CC1",
    "CC1(C)C[P@]2(C[NH+]=C(N)O2)C(C)(C)O1",
    "CCOc1c(Cl)c(S(=O)(=O)N[C@@H](C)c2ccccc2)c[c-]1Cl",
    "CCC(=O)N1CCN(C(=O)c2cc(C)[C-](C)n2)CC1",
]
CHANGES_ONCE = "Cc1cc(Br)cc(C)c1NC[C@@H]1C2C[C@@H]1C2"  # its canonical SMILES has another one, which is stable
OTHERS = ["*", "[H][H]", "[2H]C", "[Na+].[Cl-]", "C.C", "[CH2]C", "[U]", "B12B3B1B23", "C~C", "C->[Fe]", "[13CH4]"]
STRANGE = [*UNREADABLE, *ODD_SCAFFOLDS, CHANGES_ONCE, *OTHERS, "", "C(", "c1cccc1", "C\n", "é", "[Xx]"]


def distances(smiles):
    """[N, N] Tanimoto distances, with numpy from the bits of RDKit's older fingerprint function."""
    fingerprint = AllChem.GetMorganFingerprintAsBitVect  # type: ignore[attr-defined]  # not in RDKit's stubs
    bits = np.array([list(fingerprint(Chem.MolFromSmiles(s), 2, 2048)) for s in smiles])
    shared = bits @ bits.T
    each = bits.sum(1)
    return 1 - shared / (each[:, None] + each[None] - shared)
