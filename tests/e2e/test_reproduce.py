"""`launch.reproduce` on real runs: an equal run, one that was tampered with, and one with other overrides."""

import json

import pytest

from launch.runs.run_folder import read_jsonl

from ..commands import run_module

pytestmark = pytest.mark.slow
BANDIT = ["experiment=bandit", "gradient=sampled", "steps=12", "log_every=1", "samples=16"]


def command(*arguments):
    return run_module(*arguments, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduce") / "run"
    done = command("didactic", *BANDIT, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_is_reproduced_bit_for_bit_and_a_tampered_one_is_not(run, tmp_path):
    done = command("launch.reproduce", str(run), "--out", str(tmp_path / "again"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "compared bit for bit" in done.stdout
    assert "reproduced: 12 lines of metrics" in done.stdout
    assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "again" / "metrics.jsonl").read_bytes()
    rows = read_jsonl(run / "metrics.jsonl")
    rows[7]["grad_norm"] += 1e-12
    rows[9]["loss"] += 1
    again = tmp_path / "again"
    (again / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = command("launch.reproduce", str(again), "--out", str(tmp_path / "third"))
    assert done.returncode == 2
    assert "metrics.jsonl: damaged, or changed since the run wrote it" in done.stderr
    record = json.loads((again / "run.json").read_text())
    del record["checksums"]  # as in a run of an earlier version
    (again / "run.json").write_text(json.dumps(record))
    done = command("launch.reproduce", str(again), "--out", str(tmp_path / "third"))
    assert done.returncode == 1
    assert "not reproduced; the first difference: step 7, grad_norm (metrics.jsonl line 8)" in done.stdout
    # On another machine the same 1e-12 is tolerated, and the first difference is a later one.
    record = json.loads((again / "run.json").read_text())
    record["hardware"]["processor"] = "another"
    (again / "run.json").write_text(json.dumps(record))
    done = command("launch.reproduce", str(again), "--out", str(tmp_path / "fourth"))
    assert done.returncode == 1
    assert "hardware: processor: another -> " in done.stdout
    assert "compared within 0.0001" in done.stdout
    assert "the first difference: step 9, loss" in done.stdout


def test_a_run_under_a_config_diff(run, tmp_path):
    done = command(
        "launch.reproduce", str(run), "--out", str(tmp_path / "mara"), "--with", "transform=mara", "seed=1"
    )
    assert done.returncode == 0, done.stderr
    assert "transform.name: identity -> mara" in done.stdout
    assert "seed: 0 -> 1" in done.stdout
    assert "B - A" in done.stdout
    wrong = command("launch.reproduce", str(run), "--out", str(tmp_path / "wrong"), "--with", "sed=1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("launch.reproduce: sed: no such key")
    assert not (tmp_path / "wrong").exists()
