"""What a cluster's jobs are made of, where no cluster is needed: settings, the script, the snapshot, ports."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from conf.schema.launchers import SlurmLauncherConfig
from launch.cli.groups import CONF, options
from launch.cluster import job as cluster_job
from launch.cluster.snapshot import take_snapshot
from launch.cluster.sweep import read_sweep
from launch.engines import distributed
from launch.runs.run_folder import run_state

ROOT = Path(__file__).parents[2]


def test_a_job_that_gets_nowhere_is_not_requeued_for_ever(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(cluster_job.subprocess, "run", lambda command, **_: calls.append(command))
    task = cluster_job.JobTask("didactic", (), str(tmp_path), 0, str(tmp_path / "0"), "continue", str(tmp_path))
    job = types.SimpleNamespace(job_id="7_0", cluster="slurm", global_rank=0)
    for step in (0, 0, 4, 4, 9):  # two fruitless ones are never in a row
        (tmp_path / "0" / "checkpoints" / f"step_{step:08}").mkdir(parents=True, exist_ok=True)
        task._requeue(job)
    task._requeue(job)
    assert calls == [["scontrol", "requeue", "7_0"]] * 6
    with pytest.raises(cluster_job.JobFailed, match=r"told to leave 3 times at step 9 and came no further"):
        task._requeue(job)
    assert len(calls) == 6


def test_ports_of_jobs_and_of_restarts_differ():
    ports = {cluster_job.port(str(job), str(restart)) for job in range(100) for restart in range(3)}
    assert len(ports) > 290
    assert all(20000 <= port < 32000 for port in ports)
    assert cluster_job.port("7", "0") == cluster_job.port("7", "0")
