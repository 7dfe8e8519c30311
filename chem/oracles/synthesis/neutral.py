"""Neutral forms of molecules, in which targets, intermediates and building blocks are compared.

Templates are written for neutral molecules, and vendors sell amines as hydrochlorides and acids as sodium salts.
"""

from functools import cache, lru_cache

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.SaltRemover import SaltRemover


def neutral_form(mol: Chem.Mol) -> Chem.Mol:
    """Remove and add protons until no charge is left that a proton can balance.

    What has no neutral form with the same bonds keeps its charges: quaternary ammonium and its counter-charge in a
    betaine, nitro groups, N-oxides, azides, isocyanides, trifluoroborates. The input is not modified; it is returned
    itself where there is nothing to do, or where RDKit cannot read the neutral form.

    Source: RDKit's Uncharger.
    """
    if not any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        return mol
    neutral = Chem.MolFromSmiles(Chem.MolToSmiles(_uncharger().uncharge(mol)))  # read again: N loses its stereo tag
    return mol if neutral is None else neutral


@lru_cache(maxsize=100_000)
def neutral_smiles(smiles: str) -> str:
    """Canonical SMILES of the neutral form of a molecule given as canonical SMILES."""
    if "+" not in smiles and "-" not in smiles:  # no charge
        return smiles
    return str(Chem.MolToSmiles(neutral_form(Chem.MolFromSmiles(smiles))))


def strip_salt(mol: Chem.Mol) -> Chem.Mol:
    """Remove counter-ions and solvents, and all but one of several equal fragments; at least one fragment is left.

    Source: RDKit's SaltRemover, with its list.
    """
    stripped = _salt_remover().StripMol(mol, dontRemoveEverything=True)
    fragments = {Chem.MolToSmiles(fragment): fragment for fragment in Chem.GetMolFrags(stripped, asMols=True)}
    return next(iter(fragments.values())) if len(fragments) == 1 else stripped


@cache
def _uncharger() -> rdMolStandardize.Uncharger:
    return rdMolStandardize.Uncharger()


@cache
def _salt_remover() -> SaltRemover:
    return SaltRemover()
