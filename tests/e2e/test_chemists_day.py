"""docs/chem.md, "A chemist's day": its blocks, in a folder that is not the repository, with small counts."""

import csv
import os
import re
import subprocess

import pytest

from launch.runs.run_folder import read_json

from ..commands import module_words, run_module
from .typed import ROOT

PAGE = (ROOT / "docs" / "chem.md").read_text(encoding="utf-8")
SECTION = re.split(r"^## ", PAGE.partition("## A chemist's day\n")[2], flags=re.MULTILINE)[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
SMALL = (  # what the page says, and what the test does instead
    ("count=1000", "count=60"),
    ("count=200", "count=10"),
    ("epochs=5", "epochs=1"),
    ("report_samples=1000", "report_samples=20"),
    ("budget: 320", "budget: 24"),
    ("budget: 100", "budget: 16"),
    ("batch_size: 32", "batch_size: 8"),
    ("size: 20,", "size: 8,"),
    ("override /oracle: synth ", "override /oracle: synth_fast "),  # without docking
    ("oracle=synth oracle.components.3.parameters.exhaustiveness=8", "oracle=synth_fast"),
    ("--screen 0.4", "--screen 0"),
)


def in_small(text):
    for long, short in SMALL:
        text = text.replace(long, short)
    return text


def run_line(line, folder):
    if not line.startswith("mara "):  # awk and sort, which a shell runs
        subprocess.run(["sh", "-c", line], cwd=folder, check=True)
        return
    module, *arguments = module_words(line)
    path = os.pathsep.join([str(folder), str(ROOT)])
    run_module(module, *arguments, folder=folder, status=0, PYTHONPATH=path, MARA_CACHE=str(folder / "cache"))


@pytest.mark.slow
def test_the_pages_commands_in_small(tmp_path):
    pytest.importorskip("syntheseus")
    assert [long for long, _ in SMALL if long not in SECTION] == []
    for language, text in ((language, in_small(text)) for language, text in BLOCKS):
        if language == "yaml":
            path = tmp_path / re.findall(r"# (\S+\.yaml)", text)[0]
            path.parent.mkdir(parents=True)
            path.write_text(text)
        else:
            for line in text.splitlines():
                run_line(line, tmp_path)
    day = tmp_path / "day"
    assert (day / "adapted" / "prior" / "model.safetensors").is_file()
    for name in ("reinvent", "mara"):
        stages = read_json(day / name / "summary.json")["stages"]
        assert [stage["calls"] for stage in stages] == [24, 16]
        assert {"figure.png", "molecules.png", "routes.png", "molecules.csv", "molecules_stage_1.csv"} <= {
            path.name for path in (day / name).iterdir()
        }
    with (day / "best" / "scores.csv").open() as file:
        best = list(csv.DictReader(file))
    with (day / "mara" / "molecules.csv").open() as file:
        molecules = sorted((row for row in csv.DictReader(file)), key=lambda row: -float(row["score"]))
    assert [row["score"] for row in best] == [row["score"] for row in molecules[:5]]
    assert set(read_json(day / "reinvent" / "space" / "space.json")["runs"]) == {"reinvent", "mara"}
    assert read_json(day / "evaluated" / "summary.json")["calls"] == 16
