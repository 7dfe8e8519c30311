"""The import arrows between rooms: every import of every file, at any depth, importlib's included."""

import ast
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
ROOMS = ("core", "conf", "launch", "didactic", "llm", "chem")
MAY_IMPORT = {
    "core": {"core"},
    "conf": {"conf"},
    "launch": {"launch", "conf"},
    "didactic": {"didactic", "core", "launch", "conf"},
    "llm": {"llm", "core", "launch", "conf"},
    "chem": {"chem", "core", "launch", "conf"},
}
OUTSIDE = {"tests", "tools", "benchmarks", "docs"}  # of the repository, and of no room's concern
THIRD_PARTY = {"core": {"torch"}}  # a room that is absent here may use any
STANDARD_LIBRARY_ONLY = {"conf", "conf.schema"}  # `conf`: its __init__ runs before schema.py does
STANDARD_LIBRARY = sys.stdlib_module_names

# (module, argument as written) of each import_module whose argument is computed, and why it is safe.
COMPUTED_IMPORTS: set[tuple[str, str]] = {
    ("chem.files", "module"),  # of a component: named by the configuration, loaded in a worker process
}

IMPORTERS = {"import_module", "__import__"}


def violations(
    room: str,
    source: str,
    module: str | None = None,
    *,
    is_package: bool = False,
    computed: set[tuple[str, str]] = COMPUTED_IMPORTS,
) -> list[str]:
    """What `source`, the text of `module` in `room`, imports against the arrows; one line each."""
    module = module or f"{room}.module"
    package = module if is_package else module.rpartition(".")[0]
    found = []
    for line, name in imports(ast.parse(source), package, module, computed):
        reason = objection(room, module, name)
        if reason:
            found.append(f"{module}:{line}: {reason}")
    return found


def objection(room: str, module: str, name: str) -> str | None:
    """Why `module` may not import `name`, a dotted name or `?...` where it is not to be known."""
    top = name.partition(".")[0]
    if top.startswith("?"):
        return name[1:]
    if top in STANDARD_LIBRARY:
        return None
    if module in STANDARD_LIBRARY_ONLY:
        return f"imports {name}, and is for the standard library only"
    if top in ROOMS:
        return None if top in MAY_IMPORT[room] else f"{room} must not import {name}"
    if top in OUTSIDE:
        return f"a room must not import {name}"
    if room in THIRD_PARTY and top not in THIRD_PARTY[room]:
        return f"{room} must not import {name}: third parties are limited to {sorted(THIRD_PARTY[room])}"
    return None


def imports(tree: ast.AST, package: str, module: str, computed: set[tuple[str, str]]) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of each import; the name is `?why` where it cannot be told."""
    importers = IMPORTERS | {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in IMPORTERS and alias.asname
    }
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, absolute("." * node.level + (node.module or ""), package)
        elif isinstance(node, ast.Call) and referred(node.func) in importers:
            yield node.lineno, called_import(node, package, module, computed)
        elif referred(node) in importers and id(node) not in called:
            yield node.lineno, f"?{referred(node)} is passed on, so what it imports cannot be checked"


def referred(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def called_import(node: ast.Call, package: str, module: str, computed: set[tuple[str, str]]) -> str:
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    argument = node.args[0] if node.args else keywords.get("name")
    if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
        written = ast.unparse(argument) if argument is not None else ast.unparse(node)
        return "importlib" if (module, written) in computed else f"?imports a computed name, {written}"
    anchor = node.args[1] if len(node.args) > 1 else keywords.get("package")
    if isinstance(anchor, ast.Constant) and isinstance(anchor.value, str):
        package = anchor.value
    return absolute(argument.value, package)


def absolute(name: str, package: str) -> str:
    try:
        return resolve_name(name, package)
    except ImportError:
        return f"?the relative import {name} leaves {package}"


def python_files(room: str) -> list[Path]:
    return sorted((HOME / room).rglob("*.py"))


@pytest.mark.parametrize("room", [room for room in ROOMS if (HOME / room).is_dir()])
def test_room_keeps_to_its_arrows(room):
    found = []
    for path in python_files(room):
        parts = path.relative_to(HOME).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += violations(room, path.read_text(encoding="utf-8"), module, is_package=is_package)
    assert not found, "\n".join(found)


def test_there_are_files_to_check():
    assert all(python_files(room) for room in ("core", "launch"))


@pytest.mark.parametrize(
    ("room", "source"),
    [
        (
            "core",
            "import math, torch\nfrom torch.nn import functional\nfrom core.divergences import x\nfrom . import kl",
        ),
        ("core", "from __future__ import annotations\nfrom collections.abc import Callable"),
        ("core", "'import numpy'  # import numpy"),
        ("launch", "import torch, submitit\nfrom conf.schema import RunConfig\nfrom .record import Record"),
        ("launch", "import importlib\nimportlib.import_module('deepspeed')"),
        ("conf", "import omegaconf\nfrom conf import schema"),
        ("didactic", "import scipy\nfrom core import kl\nimport launch.runs.run\nimport conf"),
        ("llm", "import transformers\nfrom core.mara import augment_reward\nfrom .model import build"),
        ("chem", "import rdkit\nfrom core import kl\nfrom launch import run"),
        ("llm", "from importlib import import_module\nimport_module('.model', package='llm')"),
    ],
)
def test_allowed_sources_pass(room, source):
    assert violations(room, source) == []


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("core", "import numpy"),
        ("core", "import os, numpy.linalg as la"),
        ("core", "from omegaconf import DictConfig"),
        ("core", "import conf"),
        ("core", "import launch.runs.run"),
        ("core", "def f():\n    if True:\n        from llm import model"),
        ("core", "try:\n    import scipy\nexcept ImportError:\n    scipy = None"),
        ("core", "from tests import helpers"),
        ("conf", "import core"),
        ("conf", "from launch import run"),
        ("launch", "import core"),
        ("launch", "from core.mara import augment_reward"),
        ("launch", "from llm import train"),
        ("launch", "import didactic.__main__"),
        ("launch", "from chem import oracles"),
        ("didactic", "import llm"),
        ("didactic", "import chem"),
        ("llm", "from chem.metrics import x"),
        ("llm", "import didactic"),
        ("llm", "from benchmarks import speed"),
        ("chem", "import llm.model"),
        ("chem", "from didactic import exact"),
        ("llm", "from .. import chem"),
        ("llm", "from ..chem import oracles"),
        ("launch", "import importlib\nimportlib.import_module('core')"),
        ("launch", "import importlib as il\nil.import_module(name='core.mara')"),
        ("launch", "from importlib import import_module\nimport_module('llm')"),
        ("launch", "from importlib import import_module as load\nload('llm')"),
        ("launch", "__import__('core')"),
        ("launch", "import builtins\nbuiltins.__import__('core')"),
        ("launch", "import importlib\nimportlib.import_module('.mara', 'core')"),
        ("launch", "import importlib\nimportlib.import_module('.mara', package='core')"),
        ("launch", "import importlib\nname = 'co' + 're'\nimportlib.import_module(name)"),
        ("launch", "import importlib\nimportlib.import_module(f'{room}.mara')"),
        ("launch", "import importlib\nload = importlib.import_module\nload('core')"),
        ("core", "__import__('numpy')"),
    ],
)
def test_forbidden_sources_are_caught(room, source):
    assert len(violations(room, source)) == 1


def test_the_schema_is_for_the_standard_library_only():
    for module, is_package in [("conf.schema", False), ("conf", True)]:
        for source in (
            "import omegaconf",
            "import torch",
            "from hydra import main",
            "from conf import other",
        ):
            assert violations("conf", source, module, is_package=is_package)
        assert not violations("conf", "import dataclasses, enum, math", module, is_package=is_package)
    assert not violations("conf", "import omegaconf", "conf.register")


def test_relative_imports_are_resolved_where_they_stand():
    assert not violations("llm", "from ..model import build", "llm.tasks.one_two")
    assert not violations("llm", "from .model import build", "llm", is_package=True)
    assert violations("llm", "from ...chem import oracles", "llm.tasks.one_two")
    assert violations("llm", "from ..chem import oracles", "llm", is_package=True)


def test_a_computed_import_passes_only_in_the_place_listed():
    source = "import importlib\nimportlib.import_module(name)"
    listed = {("launch.engines.torch", "name")}
    assert not violations("launch", source, "launch.engines.torch", computed=listed)
    assert violations("launch", source, "launch.runs.run_folder", computed=listed)
    assert violations("launch", source.replace("(name)", "(other)"), "launch.engines.torch", computed=listed)
