"""`python -m chem.stock` on a small inventory."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.runs.run_folder import read_json

pytest.importorskip("syntheseus", reason="needs the extra synthesis")

HOME = Path(__file__).resolve().parents[2]
AMIDE = "O=C(Nc1ccccc1)c1ccc(-c2ccccc2)cc1"
BLOCKS = ["Nc1ccccc1", "OB(O)c1ccccc1", "O=C(O)c1ccc(Br)cc1", "O=C(Cl)c1ccc(Br)cc1"]


def test_the_command_prints_the_shares(tmp_path, monkeypatch):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "cache"))
    blocks, molecules = tmp_path / "blocks.smi", tmp_path / "molecules.smi"
    blocks.write_text("\n".join(BLOCKS))
    molecules.write_text(f"{AMIDE}\nNc1ccccc1\nO=C(Nc1ccccc1)c1ccc(Br)cc1\nCCCCCCC\nC1CC\n")
    command = [sys.executable, "-m", "chem.stock", f"inventory={blocks}", f"molecules={molecules}"]
    options = ["workers=1", f"hydra.run.dir={tmp_path / 'run'}"]
    process = subprocess.run([*command, *options], cwd=HOME, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    summary = read_json(tmp_path / "run" / "summary.json")
    assert (summary["size"], summary["molecules"], summary["depth"]) == (4, 4, 3)
    assert (summary["solved/any"], summary["solved/amide"]) == (0.75, 0.5)
    assert "Share of molecules with a route" in process.stdout
    assert "0.750" in process.stdout
