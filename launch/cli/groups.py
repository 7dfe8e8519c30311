"""The configuration groups of a command and their options, which are the YAML files in conf."""

from pathlib import Path

import conf

CONF = Path(conf.__path__[0])
BORROWED = {"chem.score": {"oracle": "chem"}}  # groups of another package that a command also has


def groups(package: str) -> list[str]:
    """The groups of a command. The command `python -m PACKAGE` also has the groups in conf/shared."""
    folders = [path.parent for root in _roots(package) for path in root.glob("*/*.yaml")]
    # a folder with a config.yaml is a command PACKAGE.COMMAND, not a group
    own = {folder.name for folder in folders if not (folder / "config.yaml").exists()}
    return sorted(own | BORROWED.get(package, {}).keys())


def options(package: str, group: str) -> list[str]:
    """The options of a group; empty if the command has no such group."""
    return sorted(path.stem for path in option_files(package, group))


def option_files(package: str, group: str) -> list[Path]:
    """The YAML files of a group's options; empty if the command has no such group."""
    roots = [CONF / "shared"] if group.startswith("hydra/") else _roots(package)
    lender = BORROWED.get(package, {}).get(group)
    roots += [CONF / lender] if lender else []
    return [path for root in roots for path in (root / group).glob("*.yaml")]


def owner(group: str, option: str) -> str | None:
    """The package that has an option, None if no package has it."""
    folders = [path for path in sorted(CONF.iterdir()) if (path / group / f"{option}.yaml").is_file()]
    return folders[0].name if option and folders else None


def _roots(command: str) -> list[Path]:
    folder = CONF.joinpath(*command.split("."))
    return [folder] if "." in command else [folder, CONF / "shared"]
