"""Conformers of molecules, computed or bound to a receptor, and checks of what is docked."""

from pathlib import Path
from typing import Any

from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdDistGeom

from conf.schema.base import ConfigError

CONFORMER_TRIES = 50
MIN_FLEXIBLE_RING = 7  # atoms; meeko opens no smaller ring


def embed_conformer(mol: Chem.Mol, seed: int) -> Chem.Mol:
    """The molecule with hydrogens and one conformer (ETKDG), relaxed if MMFF has its atom types.

    Raises:
        ValueError: no conformer is found.
    """
    with_hydrogens = Chem.AddHs(mol)
    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed = seed
    options.maxIterations = CONFORMER_TRIES
    if rdDistGeom.EmbedMolecule(with_hydrogens, options) != 0:
        options.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(with_hydrogens, options) != 0:
            raise ValueError("no conformer was found")
    if AllChem.MMFFHasAllMoleculeParams(with_hydrogens):  # type: ignore[attr-defined]
        AllChem.MMFFOptimizeMolecule(with_hydrogens)  # type: ignore[attr-defined]
    return with_hydrogens


def check_polar_hydrogens(key: str, receptor: Path) -> None:
    """Check that a receptor in PDBQT has polar hydrogens: without them, hydrogen bonds are missed silently.

    Args:
        key: parameter that names the file, for the message.
        receptor: the PDBQT file.

    Raises:
        ConfigError: it has nitrogen or oxygen atoms and no hydrogen that is bound to one (atom types HD and HS).
    """
    lines = receptor.read_text(errors="replace").splitlines()
    types = {line[77:].strip() for line in lines if line.startswith(("ATOM", "HETATM"))}
    if types & {"N", "NA", "O", "OA"} and not types & {"HD", "HS"}:
        raise ConfigError(
            f"{key}: {receptor.name} has no polar hydrogens (atom type HD), so hydrogen bonds would be missed; add "
            "hydrogens to the PDB file and convert it again, for example with reduce2 and mk_prepare_receptor.py"
        )


def check_ring_size(flexible_ring_size: int | None) -> None:
    """Raise ConfigError unless rings of this size can be opened, or none is (None)."""
    if flexible_ring_size is not None and flexible_ring_size < MIN_FLEXIBLE_RING:
        raise ConfigError(
            f"flexible_ring_size: must be >= {MIN_FLEXIBLE_RING}, or null for rigid rings, got {flexible_ring_size}"
        )


def read_bound_ligand(path: Path, smiles: str, key: str = "ligand") -> Chem.Mol:
    """Read a ligand from a PDB file and give it the bond orders of its SMILES.

    Args:
        path: the PDB file.
        smiles: the ligand.
        key: parameter that names the file, for messages.

    Raises:
        ConfigError: either is not a molecule, or they are different molecules.
    """
    template, bound = Chem.MolFromSmiles(smiles), Chem.MolFromPDBFile(str(path))
    if template is None:
        raise ConfigError(f"{key}_smiles: not a SMILES: {smiles}")
    if bound is None:
        raise ConfigError(f"{key}: {path.name} is not a PDB file of a molecule")
    if template.GetNumAtoms() != bound.GetNumAtoms():  # a part of the ligand would match too
        raise ConfigError(
            f"{key}_smiles: must be the molecule of {path.name}, which has {bound.GetNumAtoms()} heavy atoms, "
            f"got {smiles}"
        )
    try:
        with rdBase.BlockLogs():  # a symmetric ligand matches in several equivalent ways
            return AllChem.AssignBondOrdersFromTemplate(template, bound)
    except ValueError as error:
        raise ConfigError(f"{key}_smiles: must be the molecule of {path.name}, got {smiles} ({error})") from error
