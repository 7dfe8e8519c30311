"""Optional packages, and the extra of this project that installs each. Standard library only."""

import sys
from collections.abc import Iterator

EXTRAS: dict[str, str] = {  # import name -> extra
    "rdkit": "chem",
    "vina": "docking",
    "meeko": "docking",
    "gemmi": "docking",
    "syntheseus": "synthesis",
    "mol_ga": "genetic",
    "onnxruntime": "qsar",
    "skops": "qsar",
    "sklearn": "qsar",
    "peft": "lora",
    "datasets": "data",
    "sentence_transformers": "evaluation",
    "trl": "trl",
    "gguf": "smollm2",
    "deepspeed": "deepspeed",
    "submitit": "slurm",
    "pyarrow": "reports",
    "tensorboard": "tracking",
    "wandb": "tracking",
}
NOTES = {"vina": (3, 13)}  # packages without wheels from this version of Python on


def missing_package(error: BaseException) -> str | None:
    """One line that says how to install the optional package whose absence led to an error; None for other errors."""
    for cause in _causes(error):
        if isinstance(cause, ModuleNotFoundError):
            package = (cause.name or "").partition(".")[0]
            if package in EXTRAS:
                return f"{package} is not installed: pip install 'mara-rl[{EXTRAS[package]}]'{_note(package)}"
    return None


def _note(package: str) -> str:
    last = NOTES.get(package)
    if last is None or sys.version_info < last:
        return ""
    return f" with a Python before {last[0]}.{last[1]}, since {package} has no packages for later ones"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
