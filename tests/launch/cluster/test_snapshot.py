"""The copy of the code that a sweep's jobs run."""

import json
import shutil
from pathlib import Path

from launch.cluster.snapshot import take_snapshot

ROOT = Path(__file__).parents[3]


def test_a_snapshot_has_untracked_source_and_knows_its_commit(tmp_path):
    home = tmp_path / "home"
    for room in ("core", "launch", "hydra_plugins"):
        shutil.copytree(ROOT / room, home / room, ignore=shutil.ignore_patterns("__pycache__"))
    (home / "core" / "mine.py").write_text("VALUE = 1\n")
    (home / "runs").mkdir()
    (tmp_path / "sweep").mkdir()
    code = take_snapshot(tmp_path / "sweep" / ".code", home)
    assert (code / "core" / "mine.py").read_text() == "VALUE = 1\n"
    assert not (code / "runs").exists()
    assert (code / "hydra_plugins" / "mara" / "__init__.py").exists()
    assert set(json.loads((code / "code.json").read_text())) >= {"commit", "dirty", "untracked"}
    (home / "core" / "mine.py").write_text("VALUE = 2\n")
    assert (take_snapshot(code, home) / "core" / "mine.py").read_text() == "VALUE = 1\n"  # a sweep has one


def test_a_snapshot_holds_only_our_packages_and_no_caches(tmp_path):
    for name in (
        "core/a.py",
        "core/__pycache__/a.pyc",
        "hydra_plugins/mara/x.py",
        "hydra_plugins/other/x.py",
        "docs/x.py",
    ):
        (tmp_path / "home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "home" / name).touch()
    code = take_snapshot(tmp_path / "code", tmp_path / "home")
    files = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert files == {"core/a.py", "hydra_plugins/mara/x.py", "code.json"}
    assert json.loads((code / "code.json").read_text()) == {"commit": None, "dirty": None, "untracked": None}
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("code")] == ["code"]  # none is partial
