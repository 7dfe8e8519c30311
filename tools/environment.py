"""Write environment.yml, the conda environment, from pyproject.toml: `make environment`."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def render(pyproject: str) -> str:
    """The text of environment.yml for the text of a pyproject.toml."""
    project = tomllib.loads(pyproject)["project"]
    lines = [
        "# Written from pyproject.toml by `make environment`; edit that file instead.",
        "name: mara",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python{project['requires-python']}",
        "  - pip",
        "  - pip:",
        *(f"      - {requirement}" for requirement in [*project["dependencies"], "-e ."]),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = render((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (ROOT / "environment.yml").write_text(text, encoding="utf-8")
