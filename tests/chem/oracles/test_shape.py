"""Similarity of shapes: 1 to itself, seeded, and told apart from another arrangement of the same atoms."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from chem.oracles.base import Molecule
from chem.oracles.conformers import embed_conformer
from chem.oracles.shape import Shape, embed_conformers
from conf.schema.base import ConfigError

PARACETAMOL, LONG = "CC(=O)Nc1ccc(O)cc1", "CCCCCCCCCCC"


def molecule(smiles):
    return Molecule(Chem.MolFromSmiles(smiles))


@pytest.fixture
def reference(tmp_path):
    """A conformer of paracetamol, turned and moved, as an SDF file."""
    mol = embed_conformer(Chem.MolFromSmiles(PARACETAMOL), molecule(PARACETAMOL).seed)
    conformer = mol.GetConformer()
    rdMolTransforms.CanonicalizeConformer(conformer)
    turned = [[10 - x, y, 5 - z] for x, y, z in conformer.GetPositions()]
    for index, position in enumerate(turned):
        conformer.SetAtomPosition(index, position)
    path = tmp_path / "reference.sdf"
    Chem.SDWriter(str(path)).write(mol)
    return path


def test_a_conformer_fits_itself_wherever_it_lies(reference):
    shape = Shape(str(reference), colour=0.5)
    own = shape(molecule(PARACETAMOL))
    assert own.value > 0.95
    assert own.value == pytest.approx((own.details["shape"] + own.details["colour"]) / 2)
    others = {smiles: shape(molecule(smiles)).value for smiles in ("CC(=O)Nc1ccc(N)cc1", "CCO", LONG)}
    assert own.value > others["CC(=O)Nc1ccc(N)cc1"] > max(others["CCO"], others[LONG])
    assert shape(molecule(LONG)).value == others[LONG]  # seeded
    assert len(shape.identity()["reference"]) == 64


def gaussian_overlap(first, second):
    """Overlap volume of molecules whose atoms are Gaussians of height 2.7 (Grant, Gallardo and Pickup, 1996)."""
    x, y = (mol.GetConformer().GetPositions() for mol in (first, second))
    a, b = (
        np.array(
            [2.41798793102 / Chem.GetPeriodicTable().GetRvdw(atom.GetAtomicNum()) ** 2 for atom in mol.GetAtoms()]
        )
        for mol in (first, second)
    )
    total = a[:, None] + b
    distances = ((x[:, None] - y) ** 2).sum(-1)
    return float((2.7**2 * np.exp(-a[:, None] * b * distances / total) * (np.pi / total) ** 1.5).sum())


def test_the_value_is_the_overlap_of_the_aligned_volumes():
    """Computed a second time from the coordinates after the alignment."""
    shape = Shape(reference_smiles=PARACETAMOL, conformers=1)
    for smiles in ("CC(=O)Oc1ccccc1", "CCO"):
        mol = Chem.RemoveHs(embed_conformers(Chem.MolFromSmiles(smiles), 1, 1))
        value, *_ = shape._similarity(mol, mol.GetConformer().GetId())
        overlap = gaussian_overlap(mol, shape.reference)
        own = gaussian_overlap(mol, mol) + gaussian_overlap(shape.reference, shape.reference)
        assert value == pytest.approx(overlap / (own - overlap), abs=0.01)


def test_more_conformers_fit_better():
    flexible = molecule("CCCCOc1ccccc1CCN")
    values = [Shape(reference_smiles=LONG, conformers=count)(flexible).value for count in (1, 20)]
    assert values[0] < values[1] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "^reference_smiles: must be a SMILES if there is no reference, got None$"),
        ({"reference_smiles": "C("}, r"^reference_smiles: must be a SMILES .*, got C\($"),
        ({"reference": "none.sdf"}, r"^reference: there is no file none\.sdf"),
        ({"reference_smiles": "C", "conformers": 0}, r"^conformers, colour: must be >= 1, .*, got 0 and 0\.0$"),
        ({"reference_smiles": "C", "colour": 2.0}, r"^conformers, colour: must be .*, got 10 and 2\.0$"),
    ],
)
def test_a_mistake_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Shape(**options)


def test_a_file_without_coordinates_is_refused(tmp_path):
    path = tmp_path / "flat.sdf"
    Chem.SDWriter(str(path)).write(Chem.MolFromSmiles("CCO"))
    with pytest.raises(ConfigError, match=r"^reference: flat\.sdf is not an SDF or MOL file with coordinates in 3D$"):
        Shape(str(path))
    with pytest.raises(ValueError, match="several fragments"):
        Shape(reference_smiles="CCO")(molecule("C.C"))
