"""What the repository's build backend refuses."""

import runpy
from pathlib import Path

import pytest

from launch.cli.shadowing import ROOMS

ROOT = Path(__file__).parents[2]
BACKEND = runpy.run_path(str(ROOT / "tools" / "build_backend.py"))


def test_it_knows_the_rooms():
    assert BACKEND["ROOMS"] == ROOMS


@pytest.mark.parametrize("hook", ["build_wheel", "build_sdist", "get_requires_for_build_sdist"])
def test_other_builds_than_editable_ones_end_in_one_line(hook):
    with pytest.raises(
        SystemExit, match=r"^mara: .*`make venv` or `pip install -e \.`.*`pip install \./core`"
    ) as stop:
        BACKEND[hook]("wheels")
    assert "\n" not in str(stop.value)


def test_a_package_of_the_same_name_is_named_with_its_distribution(tmp_path):
    namesake = BACKEND["namesake"]
    (tmp_path / "numpy").mkdir()
    assert namesake([str(tmp_path)]) is None  # control
    (tmp_path / "llm").mkdir()
    assert namesake([str(tmp_path)]).startswith("mara: an installed package has the import name")
    folder = tmp_path / "llm-0.36.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: llm\nVersion: 0.36\n")
    (folder / "RECORD").write_text("llm/__init__.py,,\n")
    line = namesake([str(tmp_path)])
    assert line.startswith("mara: the installed package llm 0.36 has the import name")
    assert line.endswith("make venv")
    assert "\n" not in line


def test_the_two_distributions_have_one_version_and_other_names():
    import tomllib

    import core

    texts = [(ROOT / folder / "pyproject.toml").read_text("utf-8") for folder in (".", "core")]
    repository, library = (tomllib.loads(text)["project"] for text in texts)
    assert repository["version"] == core.__version__
    assert library["name"] == "mara-rl" != repository["name"]
    assert library["dependencies"] == [line for line in repository["dependencies"] if line.startswith("torch")]
    assert library["optional-dependencies"]["trl"] == repository["optional-dependencies"]["trl"]
