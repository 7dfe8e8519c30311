"""Which rooms may import which, and no circular imports: checks every import statement of every file.

importlib.import_module, __import__, pkgutil.resolve_name and runpy count as imports, as do imports inside functions
and imports for type checkers only.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from importlib.util import resolve_name
from pathlib import Path

import pytest

from launch.cli.shadowing import ROOMS

HOME = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "core": {"core"},
    "conf": {"conf"},
    "launch": {"launch", "conf"},
    "didactic": {"didactic", "core", "launch", "conf"},
    "llm": {"llm", "core", "launch", "conf"},
    "chem": {"chem", "core", "launch", "conf"},
}
PURE = {"core.rules", "core.extension"}  # modules of core without torch, which conf may import
OUTSIDE = {"tests", "tools", "benchmarks", "docs"}  # folders that no room may import
# The packages that a room, or a package in it, may import; what is not listed may import any. The longest name wins.
THIRD_PARTY = {
    "core": {"torch"},
    "core.integrations": {"torch", "transformers", "accelerate", "jinja2", "trl", "verl", "transfer_queue"},
}
STANDARD_LIBRARY = sys.stdlib_module_names

SHADOWING = "str(Path(__file__).parents[1] / 'launch' / 'cli' / 'shadowing.py')"
# Imports of computed names, (module, argument as written), with the reason why each is allowed.
COMPUTED_IMPORTS: set[tuple[str, str]] = {
    ("core", "f'.{MODULE_OF[name]}'"),  # the module of a public name, when the name is first used
    ("core.extension", "path"),  # the import path of a user's own part
    ("launch.cli.sweep_report", "f'{package}.report'"),  # the report of the package whose sweep has ended
    ("launch.cluster.job", "self.package"),  # the package whose command the job runs
    ("launch.cli.mara", "module"),  # the command that was typed
    ("launch.diagnose", "module"),  # llm.diagnose or chem.diagnose, by the files that were given
    ("launch.cli.completion", "module"),  # the same, to read the flags of its help
    *((room, SHADOWING) for room in ("didactic", "llm", "chem")),  # launch.cli.shadowing, by its path
}

IMPORTERS = {"import_module", "__import__", "resolve_name", "run_module", "run_path"}


def violations(
    room: str,
    source: str,
    module: str | None = None,
    *,
    is_package: bool = False,
    computed: set[tuple[str, str]] = COMPUTED_IMPORTS,
) -> list[str]:
    """Return the forbidden imports of `source`, the text of `module` in `room`, one line each."""
    module = module or f"{room}.module"
    lines = []
    for line, name in imports(ast.parse(source), module, is_package, computed):
        reason = objection(room, module, name)
        if reason:
            lines.append(f"{module}:{line}: {reason}")
    return lines


def standard_library_only(module: str) -> bool:
    return module in {"conf", "core", *PURE} or module.startswith("conf.schema")


def objection(room: str, module: str, name: str) -> str | None:
    """Return why `module` may not import `name`, a dotted name or ?REASON if it is unknown; None if it may."""
    top = name.partition(".")[0]
    if top.startswith("?"):
        return name[1:]
    if top in STANDARD_LIBRARY:
        return None
    if standard_library_only(module) and room == "conf":
        if any(name == pure or name.startswith(f"{pure}.") for pure in PURE) or name.startswith("conf.schema."):
            return None
        return f"imports {name}, but may import the standard library only"
    if module == "core" or module in PURE:
        return None if name in PURE else f"imports {name}, but may import the standard library only"
    if top in ROOMS:
        return None if top in MAY_IMPORT[room] else f"{room} must not import {name}"
    if top in OUTSIDE:
        return f"a room must not import {name}"
    allowed = third_parties(module)
    if allowed is not None and top not in allowed:
        return f"{module} must not import {name}: third parties are limited to {sorted(allowed)}"
    return None


def third_parties(module: str) -> set[str] | None:
    """The packages that a module may import; None: any."""
    names = [name for name in THIRD_PARTY if module == name or module.startswith(f"{name}.")]
    return THIRD_PARTY[max(names, key=len)] if names else None


def imports(
    tree: ast.AST, module: str, is_package: bool, computed: set[tuple[str, str]] = COMPUTED_IMPORTS
) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute name) for each import; the name is ?REASON if it cannot be determined.

    `from a import b` gives a.b, which is a module or a name in the module a.
    """
    package = module if is_package else module.rpartition(".")[0]
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
            base = absolute("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield node.lineno, base if base.startswith("?") else f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and name_of(node.func) in importers:
            yield node.lineno, called_import(node, package, module, computed)
        elif isinstance(node, ast.expr) and name_of(node) in importers and id(node) not in called:
            yield node.lineno, f"?{name_of(node)} is not called directly, so its imports cannot be checked"


def name_of(node: ast.AST) -> str | None:
    """The name of a variable or an attribute."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None


def called_import(node: ast.Call, package: str, module: str, computed: set[tuple[str, str]]) -> str:
    """The absolute name that a call imports, or ?REASON."""
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    argument = node.args[0] if node.args else keywords.get("name") or keywords.get("mod_name")
    if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
        text = ast.unparse(argument) if argument is not None else ast.unparse(node)
        return "importlib" if (module, text) in computed else f"?imports a computed name, {text}"
    anchor = node.args[1] if len(node.args) > 1 else keywords.get("package")
    if isinstance(anchor, ast.Constant) and isinstance(anchor.value, str):
        package = anchor.value
    return absolute(argument.value.replace(":", "."), package)


def absolute(name: str, package: str) -> str:
    try:
        return resolve_name(name, package)
    except ImportError:
        return f"?the relative import {name} leaves {package}"


def python_files(room: str) -> list[Path]:
    return sorted((HOME / room).rglob("*.py"))


def module_of(path: Path) -> tuple[str, bool]:
    """Return the dotted name of a file and whether it is the __init__ of a package."""
    parts = path.relative_to(HOME).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if is_package else parts), is_package


@pytest.mark.parametrize("room", [room for room in ROOMS if (HOME / room).is_dir()])
def test_a_room_imports_only_what_it_may(room):
    lines = []
    for path in python_files(room):
        module, is_package = module_of(path)
        lines += violations(room, path.read_text(encoding="utf-8"), module, is_package=is_package)
    assert not lines, "\n".join(lines)


def import_graph(sources: Mapping[str, tuple[str, bool]]) -> dict[str, set[str]]:
    """Map each module to the other modules in `sources` that it imports."""
    graph: dict[str, set[str]] = {}
    for module, (source, is_package) in sources.items():
        graph[module] = set()
        for _, name in imports(ast.parse(source), module, is_package):
            candidates = (name, name.rpartition(".")[0])  # a module, or a name in one
            target = next((candidate for candidate in candidates if candidate in sources), None)
            if target not in (None, module):
                graph[module].add(target)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that import each other, directly or through others."""
    reach = {module: {module} for module in graph}
    changed = True
    while changed:
        changed = False
        for module, targets in graph.items():
            new = set().union(*(reach[target] for target in targets)) - reach[module] if targets else set()
            changed = changed or bool(new)
            reach[module] |= new
    groups = {frozenset(other for other in reach[module] if module in reach[other]) for module in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def all_sources() -> dict[str, tuple[str, bool]]:
    files = [path for room in (*ROOMS, "hydra_plugins") for path in python_files(room)]
    return {
        module: (path.read_text("utf-8"), is_package) for path in files for module, is_package in [module_of(path)]
    }


def test_there_are_no_circular_imports():
    assert circles(import_graph(all_sources())) == []


@pytest.mark.parametrize(
    "closing",
    [
        "import a.one",
        "from a import one",
        "from a.one import x",
        "from . import one",
        "def f():\n    from a.one import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a.one import X",
        "import pkgutil\npkgutil.resolve_name('a.one:x')",
        "import runpy\nrunpy.run_module('a.one')",
    ],
)
def test_a_circular_import_is_found(closing):
    sources = {
        "a": ("", True),
        "a.one": ("from a.two import y", False),
        "a.two": ("import a.three", False),
        "a.three": (closing, False),
        "a.four": ("import a.one", False),
    }
    assert circles(import_graph(sources)) == [["a.one", "a.three", "a.two"]]
    assert circles(import_graph({**sources, "a.three": ("import os", False)})) == []  # control


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
        ("conf", "import omegaconf\nfrom conf.schema import base"),
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
        ("launch", "import pkgutil\npkgutil.resolve_name('core.mara:augment_reward')"),
        ("launch", "from pkgutil import resolve_name\nresolve_name('llm.train')"),
        ("launch", "from pkgutil import resolve_name\nresolve_name(path)"),
        ("launch", "from pkgutil import resolve_name as load\nload('llm')"),
        ("launch", "import runpy\nrunpy.run_module('chem')"),
        ("launch", "from runpy import run_module\nrun_module(mod_name='chem')"),
        ("launch", "import runpy\nrunpy.run_module(package, run_name='__main__')"),
    ],
)
def test_forbidden_sources_are_caught(room, source):
    assert len(violations(room, source)) == 1


def test_the_schema_and_the_rules_import_the_standard_library_only():
    for room, module, is_package in [
        ("conf", "conf.schema.llm", False),
        ("conf", "conf.schema", True),
        ("conf", "conf", True),
        ("core", "core.rules", False),
        ("core", "core.extension", False),
        ("core", "core", True),
    ]:
        for source in ("import omegaconf", "import torch", "from hydra import main", "from core.mara import x"):
            assert violations(room, source, module, is_package=is_package), (module, source)
        assert not violations(room, "import dataclasses, enum, math", module, is_package=is_package)
    assert not violations("conf", "from core.rules import Choices", "conf.schema.run")
    assert not violations("conf", "from conf.schema.base import key", "conf.schema.run")
    assert violations("core", "from conf.schema.base import key", "core.rules")


def test_only_the_adapters_of_core_import_trainers():
    for source in ("import trl", "from transformers import GenerationConfig"):
        assert not violations("core", source, "core.integrations.trl")
        assert violations("core", source, "core.objective")
    assert violations("core", "import numpy", "core.integrations.trl")
    assert violations("core", "from llm.rewards import Scores", "core.integrations.trl")


def test_relative_imports_are_resolved_from_their_module():
    assert not violations("llm", "from ..model import build", "llm.tasks.one_two")
    assert not violations("llm", "from .model import build", "llm", is_package=True)
    assert violations("llm", "from ...chem import oracles", "llm.tasks.one_two")
    assert violations("llm", "from ..chem import oracles", "llm", is_package=True)


def test_a_computed_import_is_allowed_only_in_the_listed_module():
    source = "import importlib\nimportlib.import_module(name)"
    listed = {("launch.engines.torch", "name")}
    assert not violations("launch", source, "launch.engines.torch", computed=listed)
    assert violations("launch", source, "launch.runs.run_folder", computed=listed)
    assert violations("launch", source.replace("(name)", "(other)"), "launch.engines.torch", computed=listed)
