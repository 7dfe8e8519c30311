"""pyproject.toml, constraints.txt and environment.yml agree with each other."""

import re
import runpy
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from launch.cli.shadowing import ROOMS

HOME = Path(__file__).resolve().parents[1]
PYPROJECT = (HOME / "pyproject.toml").read_text(encoding="utf-8")
CONFIG = tomllib.loads(PYPROJECT)
PROJECT = CONFIG["project"]
EXTRAS = PROJECT["optional-dependencies"]
VENV_EXTRAS = (
    "dev",
    "slurm",
    "reports",
    "tracking",
    "deepspeed",
    "lora",
    "data",
    "evaluation",
    "trl",
    "chem",
    "docking",
    "qsar",
)  # the extras that `make venv` installs
INSTALLED = [*PROJECT["dependencies"], *(requirement for extra in VENV_EXTRAS for requirement in EXTRAS[extra])]
CONSTRAINTS = (HOME / "constraints.txt").read_text(encoding="utf-8")
render = runpy.run_path(str(HOME / "tools" / "environment.py"))["render"]


def pins(constraints: str) -> dict[str, Version]:
    """The versions by canonical name. A line that is not `name==version` is an error."""
    versions: dict[str, Version] = {}
    for line in constraints.splitlines():
        if not line or line.startswith("#"):
            continue
        name, equals, version = line.partition("==")
        if not equals:
            raise ValueError(f"not an exact pin: {line!r}")
        versions[canonicalize_name(name, validate=True)] = Version(version)
    return versions


def unmet(requirements: list[str], pinned: dict[str, Version]) -> list[str]:
    """The requirements that are not satisfied by a pin."""
    return [
        requirement
        for requirement, parsed in ((text, Requirement(text)) for text in requirements)
        if (version := pinned.get(canonicalize_name(parsed.name))) is None or version not in parsed.specifier
    ]


def test_each_requirement_has_a_pin_that_satisfies_it():
    assert unmet(INSTALLED, pins(CONSTRAINTS)) == []


@pytest.mark.parametrize("changed", ["torch>=99", "torch<2", "torch==2.13.1", "no-such-package>=1"])
def test_a_changed_requirement_is_caught(changed):
    assert unmet([*INSTALLED, changed], pins(CONSTRAINTS)) == [changed]


@pytest.mark.parametrize("line", ["numpy>=2", "-e .", "numpy", "numpy @ file:///numpy.whl"])
def test_a_line_that_is_no_exact_pin_is_caught(line):
    with pytest.raises(ValueError, match="not an exact pin"):
        pins(f"{CONSTRAINTS}{line}\n")


def test_constraints_suit_any_machine():
    names = set(pins(CONSTRAINTS))
    assert not {name for name in names if re.match("nvidia|cuda|triton", name)}
    assert not names & {"pip", "setuptools", "wheel", canonicalize_name(PROJECT["name"])}
    assert not [version for version in pins(CONSTRAINTS).values() if version.local]


def test_constraints_are_what_their_script_writes():
    rewritten = runpy.run_path(str(HOME / "tools" / "constraints.py"))["render"]
    assert rewritten(CONSTRAINTS) == CONSTRAINTS
    assert rewritten("torch==2.13.0+cpu\n").endswith("\ntorch==2.13.0\n")


def test_environment_is_what_pyproject_gives():
    text = (HOME / "environment.yml").read_text(encoding="utf-8")
    assert text == render(PYPROJECT), "run `make environment`"
    *conda, pip = yaml.safe_load(text)["dependencies"]
    assert conda == ["python" + PROJECT["requires-python"], "pip"]
    assert pip == {"pip": [*PROJECT["dependencies"], "-e ."]}

    # Control: another requirement gives another file.
    changed = PYPROJECT.replace('"numpy>=2"', '"numpy>=1"')
    assert changed != PYPROJECT
    assert render(changed) != text


def test_every_room_is_packaged_and_type_checked():
    patterns = CONFIG["tool"]["setuptools"]["packages"]["find"]["include"]
    rooms = {room for room in ROOMS if (HOME / room).is_dir()}
    packages = {path.parent.name for path in HOME.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(ROOMS)
    for room in rooms:
        assert any(fnmatchcase(room, pattern) for pattern in patterns)
        assert any(fnmatchcase(f"{room}.part", pattern) for pattern in patterns)
    assert rooms <= set(CONFIG["tool"]["mypy"]["files"])
    assert not any(fnmatchcase(other, pattern) for other in ("tests", "tools") for pattern in patterns)


def test_python_bound_is_one():
    minor = int(PROJECT["requires-python"].removeprefix(">=3."))
    assert CONFIG["tool"]["mypy"]["python_version"] == f"3.{minor}"
    assert CONFIG["tool"]["ruff"]["target-version"] == f"py3{minor}"


def unknown_targets(workflow: str, makefile: str) -> list[str]:
    """The `make TARGET` of a workflow's steps that the Makefile does not have."""
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    used = re.findall(r"\bmake ([a-z-]+)", workflow)
    return [target for target in used if target not in targets]


WORKFLOWS = sorted((HOME / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_targets_that_exist(path):
    workflow, makefile = path.read_text(encoding="utf-8"), (HOME / "Makefile").read_text(encoding="utf-8")
    assert yaml.safe_load(workflow)["jobs"]
    assert unknown_targets(workflow, makefile) == []
    assert unknown_targets(workflow + "\n  - run: make tests", makefile) == ["tests"]  # control


def test_each_supported_python_is_tested():
    matrix = yaml.safe_load((HOME / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    versions = matrix["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions[0] == PROJECT["requires-python"].removeprefix(">=")
    assert len(versions) == 3
