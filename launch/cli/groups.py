"""The configuration groups of a command and their options: the YAML files in conf."""

from pathlib import Path

import conf

CONF = Path(conf.__path__[0])


def groups(package: str) -> list[str]:
    """The groups that a command line can choose from; a package's training has the shared ones, too."""
    folders = [path.parent for home in _homes(package) for path in home.glob("*/*.yaml")]
    return sorted({folder.name for folder in folders if not (folder / "config.yaml").exists()})  # not a command


def options(package: str, group: str) -> list[str]:
    """The options of a group; empty where there is no such group."""
    return sorted(path.stem for path in option_files(package, group))


def option_files(package: str, group: str) -> list[Path]:
    homes = [CONF / "shared"] if group.startswith("hydra/") else _homes(package)
    return [path for home in homes for path in (home / group).glob("*.yaml")]


def owner(group: str, option: str) -> str | None:
    """The package that has an option; None where none has."""
    homes = [path for path in sorted(CONF.iterdir()) if (path / group / f"{option}.yaml").is_file()]
    return homes[0].name if option and homes else None


def _homes(command: str) -> list[Path]:
    folder = CONF.joinpath(*command.split("."))
    return [folder] if "." in command else [folder, CONF / "shared"]
