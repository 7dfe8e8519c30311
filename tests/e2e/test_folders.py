"""Sweeps and runs in folders of any name, with configuration files of one's own, that are resumed and reproduced."""

import shutil
import string

import pytest

from launch.cli.groups import CONF
from launch.cli.overrides import run_folder_override
from launch.runs.run_folder import read_jsonl, read_record

from ..commands import run_module

NAME = "".join(c for c in string.printable if c.isprintable() and c != "/") + "é漢😀${x}$(touch x)"
OWN = ["--config-dir", "own", "--config-name", "mycfg"]  # 9 steps, and a line for each


def command(cwd, *arguments):
    return run_module(*arguments, folder=cwd, status=0, OMP_NUM_THREADS="1").stdout


@pytest.fixture
def folder(tmp_path):
    """A working folder with every printable character in its name, and a configuration file in it."""
    cwd = tmp_path / NAME
    (cwd / "own").mkdir(parents=True)
    text = (CONF / "didactic" / "config.yaml").read_text("utf-8")
    (cwd / "own" / "mycfg.yaml").write_text(
        text.replace("steps: 1000", "steps: 9").replace("log_every: 50", "log_every: 1")
    )
    return cwd


@pytest.mark.slow
def test_a_local_sweep_is_started_and_resumed(folder, tmp_path):
    """Its jobs and what is resumed from another folder use the configuration file and the folders of the sweep."""
    subdir = "hydra.sweep.subdir=${hydra.job.override_dirname}"
    command(folder, "didactic", *OWN, "-m", "seed=1", "hydra/launcher=local", "hydra.sweep.dir=sweep", subdir)
    run = folder / "sweep" / "seed=1"
    assert len(read_jsonl(run / "metrics.jsonl")) == 9
    before = (run / "metrics.jsonl").read_bytes()
    shutil.rmtree(run)
    assert "[0] missing, will run: seed=1" in command(tmp_path, "launch.resume", str(folder / "sweep"))
    assert (run / "metrics.jsonl").read_bytes() == before
    assert list(tmp_path.rglob("x")) == []


@pytest.mark.long
def test_a_run_is_reproduced(folder, tmp_path):
    """The folder is typed by the user, and the run is reproduced from another folder."""
    run = folder / NAME
    command(folder, "didactic", *OWN, run_folder_override(run))
    record = read_record(run)
    assert record["command"][3:] == ["--config-name", "mycfg", "--config-dir", str(folder / "own")]
    assert record["cwd"] == str(folder)
    assert "reproduced: 9 lines" in command(tmp_path, "launch.reproduce", str(run), "--out", str(folder / "again"))
    assert list(tmp_path.rglob("x")) == []
