import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clpp():
    """Parameters of docking into ClpP (PDB 7UVU)."""
    folder = Path(os.environ.get("MARA_DATA", ""))
    if not (folder / "clpp_7uvu_receptor.pdbqt").is_file():
        pytest.skip("needs MARA_DATA with clpp_7uvu_receptor.pdbqt and clpp_7uvu_ligand.pdb")
    return {
        "receptor": "clpp_7uvu_receptor.pdbqt",
        "ligand": "clpp_7uvu_ligand.pdb",
        "ligand_smiles": "N#Cc1cccc(CN2CCc3ncn(Cc4ccc(Cl)cc4)c(=O)c3C2)c1",
        "exhaustiveness": 1,
    }
