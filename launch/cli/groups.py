"""The configuration groups of a command and their options, as the files of conf have them."""

from pathlib import Path

from conf import schema

CONF = Path(schema.__file__).parent


def groups(package: str) -> list[str]:
    """The groups that a command line can pick from; a package's training has the shared ones, too."""
    folders = [path.parent for home in _homes(package) for path in home.glob("*/*.yaml")]
    return sorted({folder.name for folder in folders if not (folder / "config.yaml").exists()})  # a command's own


def options(package: str, group: str) -> list[str]:
    """The options of a group; none where there is no such group."""
    return sorted(path.stem for path in _files(package, group))


def owner(group: str, option: str) -> str | None:
    """The package that has an option, where one has."""
    homes = [path for path in sorted(CONF.iterdir()) if (path / group / f"{option}.yaml").is_file()]
    return homes[0].name if option and homes else None


def option_table(package: str) -> str:
    """All options for --help: `group=option`, and what the first line of comment in the option's file says."""
    rows = [
        (f"{group}={path.stem}", _description(path))
        for group in groups(package)
        for path in sorted(_files(package, group))
    ]
    width = max((len(name) for name, _ in rows), default=0)
    lines = (f"  {name:<{width}}  {text}".rstrip() for name, text in rows)
    return "\n".join(lines).replace("$", "$$")  # which Hydra substitutes in


def _homes(command: str) -> list[Path]:
    folder = CONF.joinpath(*command.split("."))
    return [folder] if "." in command else [folder, CONF / "shared"]


def _files(package: str, group: str) -> list[Path]:
    homes = [CONF / "shared"] if group.startswith("hydra/") else _homes(package)
    return [path for home in homes for path in (home / group).glob("*.yaml")]


def _description(path: Path) -> str:
    lines = [line.removeprefix("#").strip() for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    return next((line for line in lines if not line.startswith("@package")), "")
