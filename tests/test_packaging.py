"""pyproject.toml, constraints.txt and environment.yml agree with each other."""

import re
import runpy
import tomllib
from fnmatch import fnmatchcase
from itertools import pairwise
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
    python, _, pip = yaml.safe_load(text)["dependencies"]
    assert Version("3.12") in Requirement(python).specifier
    assert f"3.{PROJECT['requires-python'].removeprefix('>=3.')}" in python
    (constraints, project), extras = pip["pip"], set(EXTRAS)
    assert constraints == "-c constraints.txt"
    assert set(project.removeprefix("-e .[").removesuffix("]").split(",")) == extras - {
        "dev",
        "docs",
        "deepspeed",
        "trl",
    }

    # Control: another extra gives another file.
    changed = PYPROJECT.replace('lora = ["peft', 'adapters = ["peft')
    assert changed != PYPROJECT
    assert render(changed) != text


def test_the_container_copies_what_there_is_and_runs_targets_and_commands():
    text = (HOME / "Dockerfile").read_text(encoding="utf-8")
    copied = [name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert [name for name in copied if not (HOME / name).exists()] == []
    packages = {path.parent.name for path in HOME.glob("*/__init__.py")} - {"tests"}
    assert packages | {"hydra_plugins", "tools", PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)
    makefile = (HOME / "Makefile").read_text(encoding="utf-8")
    (target,) = re.findall(r"^RUN (make .*)$", text, re.MULTILINE)
    assert unknown_targets(target, makefile) == []
    (python,) = re.findall(r"^FROM python:([\d.]+)-slim$", text, re.MULTILINE)
    assert (
        Version(python) in Requirement(f"python{PROJECT['requires-python']},<3.13").specifier
    )  # Vina's last is 3.12
    (extras,) = re.findall(r'^ARG EXTRAS="(.*)"$', text, re.MULTILINE)
    assert set(extras.split(",")) <= set(EXTRAS)
    (command,) = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    assert yaml.safe_load(command)[0] in PROJECT["scripts"]


# packages on pip's index that are no part of an extra
NO_PART = {"vllm", "chemprop", "guacamol", "molscore", "tqdm", "func-timeout", "dask", "setuptools", "wheel"} | {
    "verl",
    "openrlhf",
}
WITH_VALUE = ("-c", "-d", "-r", "--find-links", "--target", "--index-url")
TEXTS = [
    path
    for pattern in ("*.md", "docs/**/*.md", "Makefile", "Dockerfile", "environment.yml", "*/**/*.py", "*/**/*.yaml")
    for path in sorted(HOME.glob(pattern))
    if path.relative_to(HOME).parts[0] not in ("tests", ".venv", ".venv-vllm", "build")
    and path.name != "CHANGELOG.md"
]


def wrong_installs(text: str) -> list[str]:
    """What the `pip install` and `pip download` of a text name that no index and no extra has, or is not quoted."""
    known = NO_PART | set(pins(CONSTRAINTS))
    wrong = []
    for arguments in re.findall(r"pip (?:install|download) ([^`\n#()|]*)", text):
        tokens = re.findall(r"'[^']*'|\"[^\"]*\"|[^\s,;:]+", arguments)
        for before, token in pairwise(["", *tokens]):
            word = re.split("[<>=]", token.strip("'\""))[0]
            if before in WITH_VALUE or "/" in word:
                continue
            if word.startswith(".[") or word.startswith(f"{PROJECT['name']}["):
                exist = word.startswith(".") and set(word[2:].rstrip("]").split(",")) <= set(EXTRAS)
                wrong += [] if exist and token[0] in "'\"" else [word]
            elif re.match("[a-z]", word) and canonicalize_name(word) not in known:
                wrong.append(word)
    return wrong


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(HOME)))
def test_what_a_text_tells_to_install_exists(path):
    assert wrong_installs(path.read_text(encoding="utf-8")) == []


def test_control_what_does_not_exist_is_found():
    assert wrong_installs("pip install 'mara-rl[chem]'") == ["mara-rl[chem]"]
    assert wrong_installs("`pip install -e .[chem]`, `pip install -e '.[chemistry]'`") == [".[chem]", ".[chemistry]"]
    assert wrong_installs("pip install --no-deps datamol no-such") == ["no-such"]
    assert wrong_installs("pip install --no-deps -c constraints.txt -e '.[chem,lora]' 'setuptools>=77'") == []


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
