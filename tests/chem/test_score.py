"""`python -m chem.score` on a file of molecules."""

import csv

from chem.evaluate import evaluate
from conf.schema.chem import ChemEvaluateConfig
from launch.cli.compose import compose_typed
from launch.runs.run_folder import read_json

from ..commands import run_module


class Summary:
    """A stand-in for `Run`."""

    def __init__(self, folder):
        self.folder = folder

    def finish(self, summary):
        self.summary = summary

    def info(self, line):
        pass


def test_the_command(tmp_path):
    """The table is one that chem.evaluate reads."""
    (tmp_path / "a.smi").write_text("OCC ethanol\nC(\nCCO\nc1ccccc1O\n")
    folder = tmp_path / "run"
    options = ["oracle=qed", "oracle.workers=1", "cache=null", f"hydra.run.dir={folder}"]
    run_module("chem.score", f"file={tmp_path / 'a.smi'}", *options, status=0)
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["smiles"] for row in rows] == ["OCC", "C(", "CCO", "c1ccccc1O"]
    assert [row["canonical"] for row in rows] == ["CCO", "", "CCO", "Oc1ccccc1"]
    assert [row["status"] for row in rows] == ["ok", "invalid", "ok", "ok"]
    assert rows[0]["score"] == rows[2]["score"] == rows[0]["qed"] != rows[3]["score"]
    assert (rows[1]["score"], rows[1]["message"]) == ("0.0", "not a molecule")
    assert rows[3]["scaffold"] == "c1ccccc1"
    summary = read_json(folder / "summary.json")
    assert (summary["strings"], summary["molecules"], summary["ok"], summary["cached"]) == (4, 2, 2, 0)
    assert summary["score/best"] == float(rows[3]["score"])
    config: ChemEvaluateConfig = compose_typed("chem.evaluate", [f"file={folder / 'scores.csv'}", "screens=[0.5]"])[0]
    run = Summary(tmp_path)
    evaluate(config, run)
    assert (run.summary["validity"], run.summary["calls"], run.summary["0.5/yield"]) == (0.75, 2, 1)
