"""The commit and the uncommitted changes of a made-up repository; packages and hardware of this machine."""

import json
import os
import platform
import subprocess
from importlib import metadata

import torch

from launch.runs import provenance
from launch.runs.provenance import code_version, hardware, package_versions


def test_the_code_is_named_with_what_no_commit_has(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    unknown = {"commit": None, "dirty": None, "untracked": None}
    code = tmp_path / "launch" / "runs" / "run.py"
    code.parent.mkdir(parents=True)
    code.write_text("old\n")
    assert code_version(tmp_path) == unknown  # no checkout
    git("init")
    git("commit", "--allow-empty", "-m", "first")
    assert code_version(tmp_path) == unknown  # somebody else's checkout
    git("add", ".")
    git("commit", "-m", "second")
    clean = code_version(tmp_path)
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], clean["untracked"], clean["patch"]) == (False, [], "")

    code.write_text("new: é\n")
    git("config", "color.ui", "always")
    changed = code_version(tmp_path)
    assert changed["dirty"] is True
    assert changed["commit"] == clean["commit"]
    (tmp_path / "code.patch").write_text(changed["patch"])
    git("checkout", "launch/runs/run.py")
    git("apply", "code.patch")
    assert code.read_text() == "new: é\n"

    git("checkout", "launch/runs/run.py")
    (tmp_path / "launch" / "more.py").touch()
    (tmp_path / "notes.txt").touch()
    added = code_version(tmp_path)
    assert (added["dirty"], added["untracked"], added["patch"]) == (True, ["launch/more.py"], "")


def test_a_snapshot_knows_the_code_it_was_taken_from(tmp_path):
    code = {"commit": "abc", "dirty": True, "untracked": ["a.py"], "patch": "+ a line"}
    (tmp_path / "code.json").write_text(json.dumps(code))
    assert code_version(tmp_path) == code


def test_a_machine_without_git_knows_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(provenance.Path(__file__).parents[3]) == {"commit": None, "dirty": None, "untracked": None}


def test_only_installed_packages_have_a_version(monkeypatch):
    monkeypatch.setattr(provenance, "RECORDED_PACKAGES", ("torch", "no-such-package"))
    assert package_versions() == {"python": platform.python_version(), "torch": metadata.version("torch")}


def test_the_hardware_is_what_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 6}, raising=False)
    monkeypatch.setattr(provenance.sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    known = hardware()
    assert (known["cores"], known["gpus"]) == (3, ["GPU 0", "GPU 1"])
    assert (known["processor"], known["threads"]) == (platform.machine(), torch.get_num_threads())
