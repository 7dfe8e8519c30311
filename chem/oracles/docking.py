"""Docking with AutoDock Vina: the best energy of a pose in the receptor's pocket, kcal/mol, less is better."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from meeko import MoleculePreparation, PDBQTWriterLegacy
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, rdDistGeom
from vina import Vina

from chem.files import file_hash, find_file
from chem.oracles.base import Molecule, Value
from conf.schema.base import ConfigError

CONFORMER_TRIES = 50


class Docking:
    """Vina's energy of the best pose, kcal/mol.

    A molecule takes one core; the oracle's workers dock side by side. Docking starts from a conformer seeded
    from the canonical SMILES, and Vina from `seed`, so a molecule has one energy, whoever docks it and when.

    receptor: PDBQT file, prepared for docking.
    ligand: PDB file of a ligand bound to it, whose centre is the centre of the box; or None with `centre` given.
    ligand_smiles: its SMILES, for the bond orders and hydrogens that a PDB file lacks. The preflight docks it.
    centre: of the box, angstroms. size: of the box along x, y and z.
    exhaustiveness: of Vina's search. poses: kept in the details, as PDBQT, 0: none.
    """

    unit_range = False

    def __init__(
        self,
        receptor: str,
        ligand: str | None = None,
        ligand_smiles: str | None = None,
        centre: list[float] | None = None,
        size: float | list[float] = 20.0,
        exhaustiveness: int = 8,
        seed: int = 1,
        poses: int = 0,
    ) -> None:
        self.receptor = find_file("receptor", receptor)
        if (ligand is None) == (centre is None):
            raise ConfigError("centre: must be given without ligand, and null with it, got both or none")
        if ligand is not None and ligand_smiles is None:
            raise ConfigError("ligand_smiles: must be given with ligand, whose bond orders it tells, got null")
        self.reference = None if ligand is None else bound_ligand(find_file("ligand", ligand), str(ligand_smiles))
        self.ligand_hash = None if ligand is None else file_hash(find_file("ligand", ligand))
        self.centre = list(centre or []) if self.reference is None else centre_of(self.reference)
        self.size = [float(size)] * 3 if isinstance(size, int | float) else [float(side) for side in size]
        if len(self.centre) != 3 or len(self.size) != 3 or min(self.size) <= 0:
            raise ConfigError(f"centre, size: must be three lengths, got {self.centre} and {self.size}")
        if exhaustiveness < 1 or seed < 1 or poses < 0:
            raise ConfigError(
                f"exhaustiveness, seed, poses: must be >= 1, >= 1 and >= 0, got {exhaustiveness}, {seed}, {poses}"
            )
        self.exhaustiveness, self.poses = exhaustiveness, poses
        self.vina = Vina("vina", cpu=1, seed=seed, verbosity=0)
        self.vina.set_receptor(str(self.receptor))
        self.vina.compute_vina_maps(self.centre, self.size)

    def identity(self) -> dict[str, Any]:
        versions = {name: version(name) for name in ("vina", "meeko")}
        return {"receptor": file_hash(self.receptor), "ligand": self.ligand_hash, "centre": self.centre, **versions}

    def __call__(self, molecule: Molecule) -> Value:
        energy = self.dock(ligand_pdbqt(molecule.mol, molecule.seed))
        return Value(energy, {"pdbqt": self.vina.poses(self.poses)} if self.poses else None)

    def dock(self, pdbqt: str) -> float:
        self.vina.set_ligand_from_string(pdbqt)
        self.vina.dock(exhaustiveness=self.exhaustiveness, n_poses=max(self.poses, 1))
        return float(self.vina.energies(n_poses=1)[0][0])

    def preflight(self) -> str:
        """Dock the reference ligand; tells its energy, and how far the pose is from the bound one.

        Raises ConfigError where it does not bind at all: the receptor, the box or the ligand is another's.
        """
        if self.reference is None:
            return f"box of {self.size} angstroms around {self.centre}; no ligand was given to try it with"
        energy = self.dock(ligand_pdbqt(self.reference, seed=0))
        if energy >= 0:
            raise ConfigError(f"receptor: the reference ligand must bind in the box, got {energy:.1f} kcal/mol")
        pose = np.asarray(self.vina.poses(1, coordinates_only=True)[0])
        away = float(np.linalg.norm(pose.mean(axis=0) - centre_of(self.reference)))
        return f"the reference ligand docks at {energy:.1f} kcal/mol, its centre {away:.1f} A from the bound one"


def bound_ligand(path: Path, smiles: str) -> Chem.Mol:
    """A ligand of a PDB file with the bond orders of its SMILES."""
    template, bound = Chem.MolFromSmiles(smiles), Chem.MolFromPDBFile(str(path))
    if template is None or bound is None:
        which = f"ligand_smiles: must be SMILES, got {smiles}" if template is None else "ligand: must be a PDB file"
        raise ConfigError(which)
    if template.GetNumAtoms() != bound.GetNumAtoms():  # else a part of the ligand would match
        raise ConfigError(
            f"ligand_smiles: must be the molecule of {path.name}, {bound.GetNumAtoms()} heavy atoms, got {smiles}"
        )
    try:
        with rdBase.BlockLogs():  # a symmetric ligand matches in several ways, all the same
            return AllChem.AssignBondOrdersFromTemplate(template, bound)
    except ValueError as error:
        raise ConfigError(f"ligand_smiles: must be the molecule of {path.name}, got {smiles} ({error})") from error


def centre_of(mol: Chem.Mol) -> list[float]:
    """Mean position of the heavy atoms, angstroms."""
    return [float(x) for x in mol.GetConformer().GetPositions().mean(axis=0)]


def conformer(mol: Chem.Mol, seed: int) -> Chem.Mol:
    """The molecule with hydrogens and one conformer, relaxed where the force field knows it.

    Raises ValueError where no conformer is found.
    """
    whole = Chem.AddHs(mol)
    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed = seed
    options.maxIterations = CONFORMER_TRIES
    if rdDistGeom.EmbedMolecule(whole, options) != 0:
        options.useRandomCoords = True
        if rdDistGeom.EmbedMolecule(whole, options) != 0:
            raise ValueError("no conformer was found")
    if AllChem.MMFFHasAllMoleculeParams(whole):  # type: ignore[attr-defined]
        AllChem.MMFFOptimizeMolecule(whole)  # type: ignore[attr-defined]
    return whole


def ligand_pdbqt(mol: Chem.Mol, seed: int) -> str:
    """The molecule in a seeded conformer, with atom types and rotatable bonds, as docking programs read it.

    Raises ValueError where it has several fragments, or no conformer, or atoms without a type.
    """
    if len(Chem.GetMolFrags(mol)) != 1:
        raise ValueError("docking takes one fragment at a time")
    setup = MoleculePreparation().prepare(conformer(mol, seed))[0]
    text, fine, message = PDBQTWriterLegacy.write_string(setup)
    if not fine:
        raise ValueError(f"no PDBQT: {message.strip()}")
    return str(text)
