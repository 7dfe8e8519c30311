"""Import modules of trainers that cannot be installed here, with stand-ins for what they import and do not need."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What each trainer imports and none of the functions that are called here uses.
UNUSED = {
    "verl": (
        *("ray", "tensordict", "torchdata", "codetiming", "orjson", "transfer_queue"),
        *("verl.single_controller.ray", "verl.workers.rollout.llm_server", "verl.workers.engine"),
    ),
    "openrlhf": (
        *("ray", "torchdata", "pylatexenc", "deepspeed", "flash_attn", "aiohttp"),
        *("openrlhf.trainer.ray.vllm_engine", "openrlhf.trainer.ray.launcher", "openrlhf.utils.deepspeed"),
        *("openrlhf.models.actor", "openrlhf.models.model"),
    ),
}


class Missing(ImportError):
    """A trainer is not installed."""


class _Anything(type):
    """A class whose attributes are such classes, and which returns a function that it decorates."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (_Instance,), {})

    def __call__(cls, *arguments: Any, **options: Any) -> Any:
        return _decorated(arguments, options) or super().__call__()


class _Instance(metaclass=_Anything):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _decorated(arguments, options) or self

    def __getattr__(self, name: str) -> Any:
        return getattr(type(self), name)


def _decorated(arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return arguments[0] if len(arguments) == 1 and callable(arguments[0]) and not options else None


class _Module(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - a module with submodules

    def __getattr__(self, name: str) -> Any:
        return getattr(_Instance, name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if any(fullname == name or fullname.startswith(name + ".") for name in self.names):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextmanager
def _stand_ins(names: Sequence[str]) -> Iterator[None]:
    """Put modules in the place of `names` while a trainer is imported, and take them out again.

    Left in, they would tell other libraries that these packages are installed.
    """
    hidden = {name: module for name, module in sys.modules.items() if _inside(name, names)}
    for name in hidden:
        del sys.modules[name]
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Module)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _inside(name: str, names: Sequence[str]) -> bool:
    return any(name == top or name.startswith(top + ".") for top in names)


def load(trainer: str, *modules: str, folder: Path | None = None) -> list[Any]:
    """Import modules of a trainer.

    Args:
        trainer: verl or openrlhf.
        modules: their names below the trainer's package.
        folder: where `pip install --no-deps --target FOLDER` wrote the trainer; None: it is on the path.

    Raises:
        Missing: the trainer is not there.
    """
    with _on_path(folder), _stand_ins(UNUSED[trainer]):
        if trainer not in sys.modules and importlib.util.find_spec(trainer) is None:
            where = f"in {folder}" if folder else "on the path"
            install = f"`pip install --no-deps --target FOLDER {trainer}`"
            raise Missing(f"{trainer} is not {where}: {install}, then --{trainer} FOLDER")
        return [importlib.import_module(f"{trainer}.{module}") for module in modules]


def version(package: str, folder: Path | None = None) -> str:
    """The version of an installed package."""
    with _on_path(folder):
        return importlib.metadata.version(package)


@contextmanager
def _on_path(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
