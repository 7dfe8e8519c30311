"""`python -m chem.stock` on a small inventory."""

import pytest

from launch.runs.run_folder import read_json

from ..commands import run_module

pytest.importorskip("syntheseus", reason="needs the extra synthesis")

AMIDE = "O=C(Nc1ccccc1)c1ccc(-c2ccccc2)cc1"
BLOCKS = ["Nc1ccccc1", "OB(O)c1ccccc1", "O=C(O)c1ccc(Br)cc1", "O=C(Cl)c1ccc(Br)cc1"]


def test_the_command_prints_the_shares(tmp_path, monkeypatch):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    blocks, molecules = tmp_path / "blocks.smi", tmp_path / "molecules.smi"
    blocks.write_text("\n".join(BLOCKS))
    molecules.write_text(f"{AMIDE}\nNc1ccccc1\nO=C(Nc1ccccc1)c1ccc(Br)cc1\nCCCCCCC\nC1CC\n")
    files = f"inventory={blocks}", f"molecules={molecules}"
    process = run_module("chem.stock", *files, "workers=1", f"hydra.run.dir={tmp_path / 'run'}", status=0)
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["size"], summary["molecules"], summary["depth"]) == (4, 4, 3)
    assert (summary["solved/any"], summary["solved/amide"]) == (0.75, 0.5)
    assert "Share of molecules with a route" in process.stdout
    assert "0.750" in process.stdout
