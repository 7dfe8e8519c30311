"""mara diagnose: which package diagnoses which file, and that it does."""

import gzip
import json

import pytest

from launch.diagnose import has_molecules
from tests.commands import run_module


def test_molecules_are_known_by_their_column(tmp_path):
    files = {
        "reinvent.csv": "Agent,Prior,Target,Score,SMILES,step\n",
        "saturn.csv": ",oracle_calls,scaffold,smiles,reward\n",
        "tabs.tsv": "smiles\tscore\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        assert has_molecules(tmp_path / name)
    (tmp_path / "zipped.csv.gz").write_bytes(gzip.compress(files["saturn.csv"].encode()))
    assert has_molecules(tmp_path / "zipped.csv.gz")
    (tmp_path / "samples.jsonl").write_text(json.dumps({"step": 1, "smiles": "C"}) + "\n")
    assert has_molecules(tmp_path)
    for name, content in {
        "verl.jsonl": b'{"input": "write SMILES", "output": "smiles"}\n',
        "table.csv": b"prompt,completion\n",
        "binary.bin": bytes(range(256)),
        "empty.csv": b"",
        "list.json": b"[1]",
    }.items():
        (tmp_path / name).write_bytes(content)
        assert not has_molecules(tmp_path / name)
    assert not has_molecules(tmp_path / "nowhere.csv")


@pytest.mark.slow
def test_the_command_reads_both_kinds(tmp_path):
    rows = [{"completion": f"{i % 2}", "reward": 1.0, "step": i // 8} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run_module("launch.diagnose", "a.jsonl", "out=a", folder=tmp_path, status=0)
    assert "200 completions" in done.stdout
    pytest.importorskip("rdkit", reason="needs the extra chem")
    (tmp_path / "b.csv").write_text("smiles,score\n" + "CCO,0.5\nCCN,0.5\n" * 40)
    done = run_module("launch.diagnose", "b.csv", "out=b", folder=tmp_path, status=0)
    assert "80 molecules of 1 prompt" in done.stdout
    assert (tmp_path / "b" / "diagnosis.html").is_file()
    done = run_module("launch.diagnose", "--help", folder=tmp_path, status=0)
    assert "REINVENT 4, Saturn" in done.stdout
