"""A child process must stop if another package has one of our names, and print both paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[3]
START = "from launch.cli.shadowing import refuse_shadowing; refuse_shadowing(); print('started')"


def start(*paths: Path, cwd: Path, code: str = START) -> subprocess.CompletedProcess[str]:
    """Run `code` in a child whose import path begins with `paths`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-P", "-c", code]  # -P: the working folder is not on the path
    return subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return folder


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder that holds a regular package named core."""
    package = tmp_path / "fake" / "core"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the fake was imported')\n")
    return package.parent


def assert_refused(child: subprocess.CompletedProcess[str], theirs: Path, ours: Path) -> None:
    assert child.returncode == 1
    assert child.stdout == ""
    (line,) = child.stderr.splitlines()
    assert line == (
        f"mara: another package named '{ours.name}' at {theirs} shadows ours at {ours}; "
        "uninstall it or use a separate environment"
    )


def test_a_package_earlier_on_the_path_is_refused_without_being_imported(fake, elsewhere):
    assert_refused(start(fake, HOME, cwd=elsewhere), fake / "core", HOME / "core")


def test_a_single_module_is_refused(tmp_path, elsewhere):
    module = tmp_path / "core.py"
    module.touch()
    assert_refused(start(tmp_path, HOME, cwd=elsewhere), module, HOME / "core")


def test_a_package_that_was_already_imported_is_refused(tmp_path, elsewhere):
    package = tmp_path / "fake" / "core"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    code = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import core; sys.path.pop(0); {START}"
    assert_refused(start(HOME, cwd=elsewhere, code=code), package, HOME / "core")


def test_ours_alone_starts(elsewhere):
    child = start(HOME, cwd=elsewhere)
    assert (child.returncode, child.stdout, child.stderr) == (0, "started\n", "")


def test_a_package_later_on_the_path_is_harmless(fake, elsewhere):
    assert start(HOME, fake, cwd=elsewhere).returncode == 0


def test_a_folder_that_is_no_package_is_harmless(tmp_path, elsewhere):
    (tmp_path / "core").mkdir()
    assert start(tmp_path, HOME, cwd=elsewhere).returncode == 0


def test_the_check_is_light(elsewhere):
    code = f"import sys; {START}; print({{'torch', 'hydra', 'numpy'}} & set(sys.modules))"
    assert start(HOME, cwd=elsewhere, code=code).stdout == "started\nset()\n"
