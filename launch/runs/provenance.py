"""What a run's record says of code, packages and hardware."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RECORDED_PACKAGES = ("mara-rl", "torch", "transformers", "tokenizers", "hydra-core", "omegaconf", "numpy")


def code_version(root: Path) -> dict[str, Any]:
    """The commit of the code in `root` and how the code differs from it; None where git does not track that code.

    `untracked` lists files of code and configuration that are in no commit; the patch does not hold them.
    """
    snapshot = root / "code.json"  # of launch.cluster.snapshot, whose folder git does not track
    if snapshot.exists():
        return dict(json.loads(snapshot.read_text("utf-8")))
    try:
        _git(root, "ls-files", "--error-unmatch", "launch/runs/run.py")  # and not merely some other repository
        commit = _git(root, "rev-parse", "HEAD").strip()
        patch = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD")
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "*.py", "*.yaml").splitlines()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None, "untracked": None}
    return {"commit": commit, "dirty": bool(patch or untracked), "untracked": untracked, "patch": patch}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=20)
    return done.stdout


def package_versions() -> dict[str, str]:
    """Python's version and those of the packages that results depend on, where they are installed."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
