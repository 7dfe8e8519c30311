"""Docking with AutoDock Vina: the energy of the best pose in the receptor's pocket, kcal/mol; lower is better."""

from importlib.metadata import version
from typing import Any

import numpy as np
from meeko import MoleculePreparation, PDBQTWriterLegacy
from rdkit import Chem

from chem.files import file_hash, find_file
from chem.oracles.base import Molecule, Value
from chem.oracles.conformers import check_polar_hydrogens, check_ring_size, embed_conformer, read_bound_ligand
from conf.schema.base import ConfigError


class Docking:
    """Vina's energy of the best pose, kcal/mol.

    Each molecule is docked on one core; the oracle's workers dock in parallel. The initial conformer is seeded from
    the canonical SMILES and Vina from `seed`, so a molecule has the same energy in every run and worker.

    Args:
        receptor: PDBQT file, prepared for docking.
        ligand: PDB file of a ligand bound to the receptor. Its centre is the centre of the box.
        ligand_smiles: SMILES of the ligand, for the bond orders and hydrogens that a PDB file lacks. The preflight
            docks it.
        centre: centre of the box, angstroms, if there is no ligand.
        size: edges of the box along x, y and z, angstroms; one number for a cube.
        exhaustiveness: of Vina's search.
        seed: of Vina's search.
        poses: number of poses kept in the details, as PDBQT.
        flexible_ring_size: size from which rings are docked opened, so that Vina changes their conformation; null:
            every ring is docked in the conformation of the conformer.

    Raises:
        ConfigError: a file is missing, or the parameters contradict each other.
    """

    unit_range = False
    version = "2: rigid rings"  # change it whenever the energies change

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
        flexible_ring_size: int | None = None,
    ) -> None:
        from vina import Vina  # not packaged for every Python; the rest of this module does without

        self.receptor = find_file("receptor", receptor)
        check_polar_hydrogens("receptor", self.receptor)
        if (ligand is None) == (centre is None):
            raise ConfigError(f"centre: give either centre or ligand, got {'neither' if ligand is None else 'both'}")
        if ligand is not None and ligand_smiles is None:
            raise ConfigError("ligand_smiles: must be given with ligand, whose PDB file has no bond orders")
        self.reference = (
            None if ligand is None else read_bound_ligand(find_file("ligand", ligand), str(ligand_smiles))
        )
        self.ligand_hash = None if ligand is None else file_hash(find_file("ligand", ligand))
        self.centre = list(centre or []) if self.reference is None else centroid(self.reference)
        self.size = [float(size)] * 3 if isinstance(size, int | float) else [float(side) for side in size]
        if len(self.centre) != 3 or len(self.size) != 3 or min(self.size) <= 0:
            raise ConfigError(
                f"centre, size: need three coordinates and three positive edges, got {self.centre} and {self.size}"
            )
        if exhaustiveness < 1 or seed < 1 or poses < 0:
            raise ConfigError(
                f"exhaustiveness, seed, poses: must be >= 1, >= 1 and >= 0, got {exhaustiveness}, {seed}, {poses}"
            )
        check_ring_size(flexible_ring_size)
        self.exhaustiveness, self.poses = exhaustiveness, poses
        self.flexible_ring_size = flexible_ring_size
        self.vina = Vina("vina", cpu=1, seed=seed, verbosity=0)
        self.vina.set_receptor(str(self.receptor))
        self.vina.compute_vina_maps(self.centre, self.size)

    def identity(self) -> dict[str, Any]:
        """Hashes of the files, the box and the versions of Vina and Meeko."""
        versions = {name: version(name) for name in ("vina", "meeko")}
        return {"receptor": file_hash(self.receptor), "ligand": self.ligand_hash, "centre": self.centre, **versions}

    def __call__(self, molecule: Molecule) -> Value:
        """Dock one molecule."""
        energy = self.dock(ligand_pdbqt(molecule.mol, molecule.seed, self.flexible_ring_size))
        return Value(energy, {"pdbqt": self.vina.poses(self.poses)} if self.poses else None)

    def dock(self, pdbqt: str) -> float:
        """Energy of the best pose of a prepared ligand, kcal/mol."""
        self.vina.set_ligand_from_string(pdbqt)
        self.vina.dock(exhaustiveness=self.exhaustiveness, n_poses=max(self.poses, 1))
        return float(self.vina.energies(n_poses=1)[0][0])

    def preflight(self) -> str:
        """Dock the reference ligand; return its energy and its distance from the bound ligand, for the log.

        Raises:
            ConfigError: it does not bind, so receptor, box and ligand do not belong together.
        """
        if self.reference is None:
            return f"box of {self.size} angstroms around {self.centre}; no ligand was given to test it"
        energy = self.dock(ligand_pdbqt(self.reference, 0, self.flexible_ring_size))
        if energy >= 0:
            raise ConfigError(
                f"receptor: the reference ligand does not bind in the box ({energy:.1f} kcal/mol); "
                "check that receptor and ligand belong together"
            )
        pose = np.asarray(self.vina.poses(1, coordinates_only=True)[0])
        distance = float(np.linalg.norm(pose.mean(axis=0) - centroid(self.reference)))
        return f"the reference ligand docks at {energy:.1f} kcal/mol, its centre {distance:.1f} A from the bound one"


def centroid(mol: Chem.Mol) -> list[float]:
    """Mean position of the heavy atoms, angstroms."""
    return [float(x) for x in mol.GetConformer().GetPositions().mean(axis=0)]


def ligand_pdbqt(mol: Chem.Mol, seed: int, flexible_ring_size: int | None = None) -> str:
    """The molecule in a seeded conformer, with atom types and rotatable bonds, as docking programs read it.

    Args:
        mol: the molecule.
        seed: of the conformer.
        flexible_ring_size: size from which rings are opened. An opened ring is held together by pairs of glue atoms
            of the types CG0 and G0, which Vina knows, but QuickVina 2 and gnina refuse. Vina's energies of opened
            rings of 7 atoms are some 2 kcal/mol too weak. None: no ring is opened.

    Raises:
        ValueError: it has several fragments, no conformer, or an atom without a type.
    """
    if len(Chem.GetMolFrags(mol)) != 1:
        raise ValueError("the molecule has several fragments; only one can be docked")
    if flexible_ring_size is None:
        preparation = MoleculePreparation(rigid_macrocycles=True)
    else:
        preparation = MoleculePreparation(min_ring_size=flexible_ring_size)
    text, success, message = PDBQTWriterLegacy.write_string(preparation.prepare(embed_conformer(mol, seed))[0])
    if not success:
        raise ValueError(f"no PDBQT: {message.strip()}")
    return str(text)
