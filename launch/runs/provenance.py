"""The code, packages and hardware that a run records."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

DISTRIBUTION = "mara-workbench"  # of this repository; the library in core/ is mara-rl
EARLIER_NAME = "mara-rl"  # what it was called in older records
RECORDED_PACKAGES = (DISTRIBUTION, "torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "numpy")


def code_version(root: Path) -> dict[str, Any]:
    """The commit of the code in `root` and its uncommitted changes.

    Returns:
        `commit`; `dirty`, whether there are uncommitted changes or untracked files; `untracked`, the untracked files
        of code and configuration, which the patch does not include; and `patch`, the output of `git diff`. If git
        does not track the code, the values are None and there is no patch.
    """
    snapshot = root / "code.json"  # written by launch.cluster.snapshot, since git does not track a snapshot
    if snapshot.exists():
        return dict(json.loads(snapshot.read_text("utf-8")))
    try:
        _git(root, "ls-files", "--error-unmatch", "launch/runs/run.py")  # fails if another repository contains root
        commit = _git(root, "rev-parse", "HEAD").strip()
        patch = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "*.py", "*.yaml").splitlines()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None, "untracked": None}
    return {"commit": commit, "dirty": bool(patch or untracked), "untracked": untracked, "patch": patch}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    result = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=20)
    return result.stdout


def package_versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    """The operating system, processor, cores, torch threads and GPUs of this machine."""
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
