"""MolExp: find several dissimilar molecules that are active on one protein (Thomas et al., 2025, arXiv:2501.19153).

A molecule's score is its similarity to the nearest target, so that all targets are maxima of the same height. A run
is judged by the product over the targets of how near its molecules came to each (`chem.benchmarks.suites`). The
targets are those of MolScore 1.9.5, whose benchmarks MolExp and MolExpL differ in the similarity.
"""

from rdkit import Chem, DataStructs

from chem.oracles.base import Molecule, Value
from chem.oracles.pmo import FINGERPRINTS
from conf.schema.base import ConfigError, check_choice

TARGETS = {
    "A2A": (
        "CCCN1c2c([nH]c(n2)c3ccc(cc3)OCC(=O)NCCN)C(=O)N(C1=O)CCC",
        "CC(C)(C)CC(=O)Nc1c(cc(cc1F)C(=O)Nc2nccs2)F",
        "Cc1cc(cc(n1)Cl)c2c(nc(nn2)N)c3ccc(cc3)F",
    ),
    "AP": (
        "CN1CCN(CCCN2c3ccccc3Sc3ccc(Cl)cc32)CC1",
        "CN1CCN2c3c(cccc31)C1CN(CCCC(=O)c3ccc(F)cc3)CCC12",
    ),
    "BACE1": (
        "NC1=NC(c2cccc(-c3cncnc3)c2)(c2ccnc(C(F)F)c2)c2cccc(F)c21",
        "NC1=NC2(c3cc(NC(=O)c4ccc(F)cn4)ccc3F)COCC2CS1",
        "CC#Cc1cncc(-c2ccc3c(c2)C2(N=C(C)C(N)=N2)C2(CCC(OC)CC2)C3)c1",
    ),
    "EGFR": (
        "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1NC(=O)C=CCN1CCCCC1",
        "C=CC(=O)N1CCC(Oc2nc(Nc3ccc(N4CCC(N5CCN(C)CC5)CC4)cc3)c(C(N)=O)nc2CC)C1",
        "Cc1cc(C(=O)Nc2nc3cccc(Cl)c3n2C2CCCCN(C(=O)C=CCN(C)C)C2)ccn1",
        "C=CC(=O)Nc1cc(Nc2nccc(-n3cc(CN(C)C)c(-c4ccccc4)n3)n2)c(OC)cc1N1CCOCC1",
    ),
}
SIMILARITIES = ("fingerprint", "levenshtein")


class MolExp:
    """Similarity to the nearest target; the similarities to all of them are in the details.

    Args:
        task: one of `TARGETS`.
        similarity: `fingerprint` (MolExp): Tanimoto, of counted Morgan fingerprints of radius 2; `levenshtein`
            (MolExpL): of canonical SMILES, 1 - edits / length of the target, at least 0.
    """

    unit_range = True
    version = "1"

    def __init__(self, task: str, similarity: str = "fingerprint") -> None:
        check_choice("task", task, TARGETS)
        if similarity not in SIMILARITIES:
            raise ConfigError(f"similarity: must be {' or '.join(SIMILARITIES)}, got {similarity}")
        self.by_text = similarity == "levenshtein"
        mols = [Chem.MolFromSmiles(smiles) for smiles in TARGETS[task]]
        self.texts = [Chem.MolToSmiles(mol) for mol in mols]
        self.fingerprint = FINGERPRINTS["ECFP4"]
        self.fingerprints = [self.fingerprint(mol) for mol in mols]

    def __call__(self, molecule: Molecule) -> Value:
        """The largest similarity."""
        if self.by_text:
            smiles = molecule.smiles
            similarities = [max(1 - edit_distance(smiles, text) / len(text), 0.0) for text in self.texts]
        else:
            similarities = DataStructs.BulkTanimotoSimilarity(self.fingerprint(molecule.mol), self.fingerprints)
        return Value(max(similarities), list(similarities))


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: how many characters must be inserted, deleted or changed.

    Source: Myers (1999), doi:10.1145/316542.316550, as Hyyrö (2001) writes it; a column of the table is two bit sets.
    """
    if not first:
        return len(second)
    places = {char: sum(1 << i for i, other in enumerate(first) if other == char) for char in set(first)}
    last, everything = 1 << (len(first) - 1), (1 << len(first)) - 1
    rises, falls, distance = everything, 0, len(first)
    for char in second:
        match = places.get(char, 0)
        zero = (((match & rises) + rises) ^ rises) | match | falls
        right_rises = (falls | ~(zero | rises)) & everything
        right_falls = rises & zero
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = (right_rises << 1) | 1
        rises = ((right_falls << 1) | ~(zero | right_rises)) & everything
        falls = right_rises & zero & everything
    return distance
