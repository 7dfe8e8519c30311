import pytest
from rdkit import Chem, rdBase

from chem.oracles.base import Molecule

AMIDE = "O=C(Nc1ccccc1)c1ccc(-c2ccccc2)cc1"  # one amide coupling, after a Suzuki coupling of one of its reactants
BLOCKS = ["Nc1ccccc1", "OB(O)c1ccccc1", "O=C(O)c1ccc(Br)cc1", "O=C(Cl)c1ccc(Br)cc1"]


@pytest.fixture(scope="session", autouse=True)
def silent():
    with rdBase.BlockLogs():
        yield


@pytest.fixture
def amide():
    """A molecule that takes two reactions from the blocks."""
    return AMIDE


@pytest.fixture
def blocks(tmp_path, monkeypatch):
    """A file of building blocks, with a cache of its own."""
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "blocks.smi"
    path.write_text("".join(f"{smiles} {number}\n" for number, smiles in enumerate(BLOCKS)))
    return str(path)


@pytest.fixture
def ask():
    """Call a component with a SMILES."""
    return lambda component, smiles: component(Molecule(Chem.MolFromSmiles(smiles)))
