"""Our code comes first on the import path, then libraries, and last the modules of a user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli.import_path import USER_MODULES, module_command, module_environment, python_path

HOME = Path(__file__).resolve().parents[3]
SHOW = "import sys; from launch.cli import import_path as path; path.{}(); print(*sys.path, sep='\\n')"


def import_path(function, folder, *flags, **environment):
    """`sys.path` of a process in a folder, after a function of the module has set it."""
    command = [sys.executable, *flags, "-c", SHOW.format(function)]
    variables = os.environ | {"PYTHONPATH": str(HOME)} | environment
    child = subprocess.run(command, cwd=folder, env=variables, text=True, capture_output=True, check=True)
    return child.stdout.splitlines()


@pytest.mark.parametrize("flags", [(), ("-P",)])
def test_mara_imports_from_the_working_folder_last(tmp_path, flags):
    path = import_path("set_import_path", tmp_path, *flags)
    assert path[0] == str(HOME)
    assert path[-1] == str(tmp_path)
    assert path.count(str(tmp_path)) == 1
    assert any("site-packages" in entry for entry in path[1:-1])


def test_a_removed_working_folder_is_left_out(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = f"import os; os.rmdir({str(gone)!r}); " + SHOW.format("set_import_path")
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(HOME)}
    child = subprocess.run(command, cwd=gone, env=environment, text=True, capture_output=True, check=True)
    assert child.stdout.splitlines()[0] == str(HOME)
    assert str(gone) not in child.stdout


def test_a_child_imports_from_the_named_folder_last_and_from_the_working_folder_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/before")
    environment = module_environment("/of/the/user")
    assert (environment["PYTHONPATH"], environment[USER_MODULES]) == (f"{HOME}:/before", "/of/the/user")
    path = import_path("append_user_modules", tmp_path, "-P", **environment)
    assert (path[0], path[-1], str(tmp_path) in path) == (str(HOME), "/of/the/user", False)
    path = import_path("append_user_modules", tmp_path, "-P", **module_environment())
    assert "/of/the/user" not in path
    assert module_command("llm") == [sys.executable, "-P", "-m", "llm"]


def test_a_folder_with_a_colon_is_left_out_of_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/before:/a")
    assert python_path("/a", "/b:c", "") == "/a:/before"
    monkeypatch.delenv("PYTHONPATH")
    assert python_path("/a", sys.prefix) == f"/a:{sys.prefix}"
