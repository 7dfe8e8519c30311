"""What a molecule is: a SMILES whose canonical form RDKit can read back; and its Bemis-Murcko scaffold.

Everything that receives SMILES from a model or a file asks `read_molecule` or `canonical_form`, so that a string is a
molecule everywhere or nowhere. For a few strings RDKit writes a canonical SMILES that it cannot read itself.
"""

from collections.abc import Sequence
from functools import lru_cache

from rdkit import Chem, rdBase
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.DataStructs import ExplicitBitVect

READINGS = 4  # of a canonical SMILES until it is its own canonical form; almost all are at once, a few at the second
MAX_CHARACTERS = 10_000  # of a SMILES; RDKit crashes on chains of 20,000 atoms
MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def read_molecule(smiles: str) -> Chem.Mol | str:
    """The molecule of a SMILES, read from its canonical form; or the reason why it is not a molecule."""
    found = _read_stable(smiles)
    return found if isinstance(found, str) else found[0]


@lru_cache(maxsize=2**16)  # a policy samples the same strings again
def canonical_form(smiles: str) -> str | None:
    """Canonical SMILES, which reads back as itself; None for what `read_molecule` calls no molecule."""
    found = _read_stable(smiles)
    return None if isinstance(found, str) else found[1]


def _read_stable(smiles: str) -> tuple[Chem.Mol, str] | str:
    """A molecule and the canonical SMILES that it was read from; or the reason why there is none."""
    if len(smiles) > MAX_CHARACTERS:
        return f"{len(smiles)} characters, the limit is {MAX_CHARACTERS}"
    reason = "not a molecule"
    for _ in range(READINGS):
        try:
            mol = Chem.MolFromSmiles(smiles) if smiles else None
            if mol is None or not mol.GetNumAtoms():
                return reason
            canonical = str(Chem.MolToSmiles(mol))
        except Exception as error:  # RDKit raises on some strings instead of returning None
            return " ".join(str(error).split()) or type(error).__name__
        if canonical == smiles:
            return mol, canonical
        smiles, reason = canonical, "its canonical SMILES cannot be read"
    return "its canonical SMILES changes each time it is read"


def canonical_forms(smiles: Sequence[str]) -> list[str | None]:
    """`canonical_form` of each string, without RDKit's messages."""
    with rdBase.BlockLogs():
        return [canonical_form(string) for string in smiles]


def murcko_scaffold(mol: Chem.Mol) -> str:
    """Canonical SMILES of the Bemis-Murcko scaffold; "" for a molecule without a ring.

    A molecule for which RDKit finds none is its own scaffold. The scaffold is a name: what is left of a molecule
    may break the rules of valence or aromaticity. Read it with `scaffold_fingerprint` and `generic_scaffold`.
    """
    if not mol.GetRingInfo().NumRings():
        return ""  # as RDKit does, whose time grows with the third power of a chain's length
    try:
        return str(MurckoScaffold.MurckoScaffoldSmiles(mol=mol))
    except Exception:
        return str(Chem.MolToSmiles(mol))


@lru_cache(maxsize=2**16)  # a policy samples the same molecules again, and the diversity filter asks too
def scaffold_from_smiles(smiles: str) -> str:
    """`murcko_scaffold` of a molecule given as canonical SMILES."""
    return murcko_scaffold(Chem.MolFromSmiles(smiles))


def generic_scaffold(scaffold: str) -> str:
    """A scaffold without atom and bond types: all atoms C and all bonds single.

    Where that is no molecule, because an atom has more than four neighbours, all atoms are `*`.
    """
    mol = _read_scaffold(scaffold)
    try:
        return str(Chem.MolToSmiles(MurckoScaffold.MakeScaffoldGeneric(mol)))
    except Exception:
        return _graph_smiles(mol)


def scaffold_fingerprint(scaffold: str) -> ExplicitBitVect:
    """Morgan fingerprint, radius 2, of a scaffold or molecule, valid or not."""
    return MORGAN.GetFingerprint(_read_scaffold(scaffold))


def _read_scaffold(scaffold: str) -> Chem.Mol:
    """A scaffold as a molecule, without RDKit's checks of valence and aromaticity if it does not pass them."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(scaffold)
    if mol is None:
        mol = Chem.MolFromSmiles(scaffold, sanitize=False)
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
    return mol


def _graph_smiles(mol: Chem.Mol) -> str:
    """SMILES of a molecule's graph, with `*` for each atom."""
    graph = Chem.RWMol()
    for _ in range(mol.GetNumAtoms()):
        graph.AddAtom(Chem.Atom(0))
    for bond in mol.GetBonds():
        graph.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    return str(Chem.MolToSmiles(graph))
