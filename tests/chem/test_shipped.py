"""The default command, with the shipped prior."""

from launch.runs.run_folder import read_jsonl

from ..commands import run_module


def test_the_default_command_designs_molecules(tmp_path):
    small = "steps=2", "batch_size=16", "oracle.workers=1", "cache=null"
    process = run_module("chem", *small, f"hydra.run.dir={tmp_path}", status=0)
    assert "Best molecules" in process.stdout
    assert (tmp_path / "molecules.png").stat().st_size > 5000
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert len(read_jsonl(tmp_path / "samples.jsonl")) > 16
