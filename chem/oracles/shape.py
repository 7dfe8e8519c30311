"""Similarity of a molecule's shape to that of a reference conformer."""

from typing import Any

from rdkit import Chem
from rdkit.Chem import AllChem, rdDistGeom, rdShapeAlign

from chem.files import file_hash, find_file
from chem.oracles.base import Molecule, Value
from chem.oracles.conformers import CONFORMER_TRIES, embed_conformer, read_bound_ligand
from conf.schema.base import ConfigError


class Shape:
    """Tanimoto similarity of volumes, after alignment, of the conformer that fits the reference best.

    The overlap is that of Gaussian volumes of heavy atoms, from RDKit's `rdShapeAlign` (PubChem's shape alignment).
    Conformers (ETKDG, MMFF) are seeded from the canonical SMILES.

    Args:
        reference: SDF or MOL file with the conformer to resemble, or a PDB file of a ligand, with `reference_smiles`.
        reference_smiles: SMILES of the ligand in a PDB file, for the bond orders that it lacks; without `reference`,
            a molecule of which one conformer is computed.
        conformers: number of conformers of a molecule that are aligned.
        colour: weight, 0 to 1, of the similarity of pharmacophoric features (donors, acceptors, rings, ...) beside
            that of the volumes, in the alignment and in the value.

    Raises:
        ConfigError: a file is missing or has no conformer, or a parameter is invalid.
    """

    unit_range = True
    version = "1"  # change it whenever the values change

    def __init__(
        self,
        reference: str | None = None,
        reference_smiles: str | None = None,
        conformers: int = 10,
        colour: float = 0.0,
    ) -> None:
        if conformers < 1 or not 0 <= colour <= 1:
            raise ConfigError(f"conformers, colour: must be >= 1, and within [0, 1], got {conformers} and {colour}")
        self.path = None if reference is None else find_file("reference", reference)
        self.reference = self._read_reference(reference_smiles)
        self.conformers, self.colour = conformers, colour

    def _read_reference(self, smiles: str | None) -> Chem.Mol:
        if self.path is None:
            mol = None if smiles is None else Chem.MolFromSmiles(smiles)
            if mol is None:
                raise ConfigError(f"reference_smiles: must be a SMILES if there is no reference, got {smiles}")
            return Chem.RemoveHs(embed_conformer(mol, Molecule(mol).seed))
        if self.path.suffix == ".pdb":
            if smiles is None:
                raise ConfigError("reference_smiles: must be given with a PDB file, which has no bond orders")
            return read_bound_ligand(self.path, smiles, "reference")
        mol = next(Chem.ForwardSDMolSupplier(str(self.path)), None)
        if mol is None or not mol.GetNumConformers() or not mol.GetConformer().Is3D():
            raise ConfigError(f"reference: {self.path.name} is not an SDF or MOL file with coordinates in 3D")
        return mol

    def identity(self) -> dict[str, Any]:
        """Hash of the file."""
        return {} if self.path is None else {"reference": file_hash(self.path)}

    def __call__(self, molecule: Molecule) -> Value:
        """Align the conformers; the similarities of volume and features are kept."""
        mol = Chem.RemoveHs(embed_conformers(molecule.mol, molecule.seed, self.conformers))
        best = max(self._similarity(mol, conformer.GetId()) for conformer in mol.GetConformers())
        return Value(best[0], {"shape": best[1], "colour": best[2]})

    def _similarity(self, mol: Chem.Mol, conformer: int) -> tuple[float, float, float]:
        """Value, similarity of the volumes, and similarity of the features."""
        shape, colour = rdShapeAlign.AlignMol(
            self.reference, mol, probeConfId=conformer, useColors=self.colour > 0, opt_param=1 - self.colour
        )
        value = (1 - self.colour) * shape + self.colour * colour
        return min(max(value, 0.0), 1.0), shape, colour


def embed_conformers(mol: Chem.Mol, seed: int, count: int) -> Chem.Mol:
    """The molecule with hydrogens and up to `count` relaxed conformers.

    Raises:
        ValueError: it has several fragments, or no conformer is found.
    """
    if len(Chem.GetMolFrags(mol)) != 1:
        raise ValueError("the molecule has several fragments, which have no shape in common")
    with_hydrogens = Chem.AddHs(mol)
    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed, options.maxIterations, options.numThreads = seed, CONFORMER_TRIES, 1
    if not rdDistGeom.EmbedMultipleConfs(with_hydrogens, count, options):
        return embed_conformer(mol, seed)  # tries random coordinates, and raises if there is none
    if AllChem.MMFFHasAllMoleculeParams(with_hydrogens):  # type: ignore[attr-defined]
        AllChem.MMFFOptimizeMoleculeConfs(with_hydrogens)  # type: ignore[attr-defined]
    return with_hydrogens
