"""A converted configuration, and the files that it is written to."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from chem.foreign.ledger import Ledger
from conf.schema.base import ConfigError
from launch.runs.atomic import replacing


@dataclass
class Conversion:
    """What a configuration became.

    Attributes:
        ledger: what became of each of its keys.
        module: the command here, without `python -m`.
        arguments: of that command, beside those that name what is written.
        experiment: keys of an experiment of `chem`; None for other commands.
        oracle: None if there is none.
        seeds: molecules that the source holds, for replay.seeds.
        notes: differences that no key is about.
    """

    ledger: Ledger
    module: str = "chem"
    arguments: list[str] = field(default_factory=list)
    experiment: dict[str, Any] | None = None
    oracle: dict[str, Any] | None = None
    seeds: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)

    def write(self, folder: Path, source: Path) -> list[str]:
        """Write the files into a folder for --config-dir.

        Args:
            folder: it gets experiment/NAME.yaml and oracle/NAME.yaml.
            source: the file that was converted; NAME is its name.

        Returns:
            The command that runs it, word by word.

        Raises:
            ConfigError: one of the files exists.
        """
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", source.stem)
        command = ["python", "-m", self.module]
        files: dict[Path, str] = {}
        if self.oracle is not None:
            comments = self._comments(source) if self.experiment is None else f"# The oracle of experiment={name}.\n"
            files[folder / "oracle" / f"{name}.yaml"] = comments + _yaml(self.oracle)
            command += ["--config-dir", str(folder)]
        if self.seeds:
            seeds = (folder / f"{name}_seeds.smi").absolute()
            files[seeds] = "".join(f"{smiles}\n" for smiles in self.seeds)
            assert self.experiment is not None
            self.experiment["replay"]["seeds"] = str(seeds)
        if self.experiment is not None:
            defaults = {"defaults": [{"override /oracle": name}, {"override /loss": "reinvent"}]}
            content = _yaml({**defaults, **self.experiment})
            files[folder / "experiment" / f"{name}.yaml"] = f"# @package _global_\n{self._comments(source)}{content}"
            command.append(f"experiment={name}")
        elif self.oracle is not None:
            command.append(f"oracle={name}")
        for path in files:
            if path.exists():
                raise ConfigError(f"{path}: exists already; remove it, or name another folder")
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.write_text(content, encoding="utf-8")
        return [*command, *self.arguments]

    def _comments(self, source: Path) -> str:
        """The lines of the table without counterpart, and the notes, as comments."""
        lost = [str(row) for row in self.ledger.table() if row.status == "none"]
        lines = [f"Converted from {source.name} by chem.convert.", *lost, *self.notes]
        return "".join(f"# {' '.join(line.split())}\n" for line in lines)


def command_line(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return shlex.join(words)


def _yaml(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118, default_flow_style=None)
