"""What external programs have in common: a command line with placeholders, how it is run, and the number it gives."""

import os
import re
import shutil
import string
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from rdkit import Chem

from chem.files import file_hash
from chem.oracles.base import Molecule, TimedOut
from chem.oracles.conformers import check_polar_hydrogens, embed_conformer
from chem.parallel.processes import kill_group
from conf.schema.base import ConfigError, check_choice
from conf.schema.extras import not_installed
from launch.runs.run_folder import user_path

PICKS = ("first", "last", "min", "max")
CHECKED_SMILES = ("c1ccccc1", "CC(=O)Nc1ccc(O)cc1")  # given to a program at the start: benzene and paracetamol
EXPONENT = re.compile(r"[eE][-+]?\d")


def write_smiles(molecule: Molecule, path: Path) -> None:
    """Write the canonical SMILES."""
    path.write_text(f"{molecule.smiles}\n")


def write_sdf(molecule: Molecule, path: Path) -> None:
    """Write a conformer with hydrogens."""
    with Chem.SDWriter(str(path)) as writer:
        writer.write(embed_conformer(molecule.mol, molecule.seed))


class CommandLine:
    """A program with its arguments, run without a shell.

    Relative paths are those of a shell in the folder in which the run was started, {here}: so is the program's own
    path, and an argument, or what follows the = of an option, that names an existing file or folder there. With
    `cwd` the program starts in that folder, as if one had changed to it, and its arguments stay as they are.

    Args:
        command: the program and its arguments, with placeholders such as {here}.
        placeholders: those that the arguments may contain beside {here}.
        cwd: folder to start the program in; None: the temporary folder of a call.
        time_limit_s: of a call.

    Attributes:
        fields: the placeholders that are used.

    Raises:
        ConfigError: an argument is invalid, or the program or the folder is not found.
    """

    def __init__(
        self, command: Sequence[str | float], placeholders: Sequence[str], cwd: str | None, time_limit_s: float
    ) -> None:
        if isinstance(command, str) or not command:
            raise ConfigError(f"command: must be a list of the program and its arguments, got {command!r}")
        parts = [str(part) for part in command]
        self.fields = check_placeholders(parts, {*placeholders, "here"})
        self.here = user_path("").absolute()
        if cwd is not None and not (self.here / cwd).is_dir():
            raise ConfigError(f"cwd: there is no folder {self.here / cwd}")
        self.cwd = None if cwd is None else self.here / cwd
        self.program = find_program(parts[0].replace("{here}", str(self.here)), self.cwd or self.here)
        self.paths = {part: path for part in parts[1:] if (path := existing_path(part, self.cwd or self.here))}
        self.arguments = parts[1:] if cwd is not None else [self._with_path(part) for part in parts[1:]]
        for option, value in pairwise(parts):
            if option in ("--receptor", "-r") and value in self.paths and value.endswith(".pdbqt"):
                check_polar_hydrogens("command", self.paths[value])
        self.time_limit_s = time_limit_s

    def _with_path(self, part: str) -> str:
        """An argument with the absolute path of the file or folder that it names."""
        if part not in self.paths:
            return part
        path = str(self.paths[part]).replace("{", "{{").replace("}", "}}")  # placeholders are filled in later
        return f"{part[: -len(relative_path(part))]}{path}"

    def identity(self) -> dict[str, Any]:
        """Hash of the program, and of the files that relative paths name."""
        files = {part: file_hash(path) for part, path in self.paths.items() if path.is_file()}
        return {"program": file_hash(self.program), **({"files": files} if files else {})}

    def filled(self, values: Mapping[str, object]) -> list[str]:
        """The program and its arguments, with the placeholders filled in."""
        return [str(self.program), *(part.format(**values, here=self.here) for part in self.arguments)]

    def run(self, values: Mapping[str, object], folder: Path) -> str:
        """Run the program in a temporary folder, or in `cwd`, and return what it prints.

        Raises:
            TimedOut: it did not end in time; it was killed with everything that it started.
            RuntimeError: its exit status is not 0.
        """
        process = subprocess.Popen(
            self.filled(values),
            cwd=self.cwd or folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
        try:
            stdout, stderr = process.communicate(timeout=self.time_limit_s)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"the program did not end within {self.time_limit_s:g} s") from None
        finally:
            kill_group(process.pid)
            process.wait()
            for stream in (process.stdout, process.stderr):
                with suppress(OSError, ValueError):
                    stream.close()  # type: ignore[union-attr]
        if process.returncode != 0:
            raise RuntimeError(f"the program ended with status {process.returncode}: {stderr[-300:].strip()}")
        return stdout


def check_placeholders(parts: Sequence[str], allowed: set[str]) -> set[str]:
    """The placeholders in a command line.

    Raises:
        ConfigError: one is not among those allowed.
    """
    try:
        fields = {name for part in parts for _, name, _, _ in string.Formatter().parse(part) if name is not None}
    except ValueError as error:
        raise ConfigError(f"command: not valid: {error}") from error
    if not fields <= allowed:
        allowed_fields = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        unknown = ", ".join(f"{{{name}}}" for name in sorted(fields - allowed))
        raise ConfigError(f"command: unknown placeholder {unknown}; allowed: {allowed_fields}")
    if "pdbqt" in {name.partition("_")[0] for name in fields} and find_spec("meeko") is None:
        raise ConfigError(f"command: PDBQT files need meeko, and {not_installed('meeko')}")
    return fields


def find_program(name: str, folder: Path) -> Path:
    """Absolute path of a program: one on PATH, or a path relative to a folder.

    Raises:
        ConfigError: it does not exist, or is not executable.
    """
    path = shutil.which(str(folder / name) if os.sep in name else name)
    if path is None:
        raise ConfigError(f"command: the program {name} was not found, or is not executable")
    return Path(path).absolute()


def relative_path(argument: str) -> str:
    """The part of an argument that may be a path: all of it, or what follows the = of an option."""
    return argument.partition("=")[2] if argument.startswith("-") else argument


def existing_path(argument: str, folder: Path) -> Path | None:
    """The file or folder that an argument names by a relative path; None if it names none."""
    path = relative_path(argument)
    if not path or "\0" in path or Path(path).is_absolute() or not (folder / path).exists():
        return None
    return folder / path


class NumberPattern:
    """Finds numbers in what a program wrote.

    Args:
        pattern: regular expression with one group, the number.
        pick: which of several to take: first, last, min or max.

    Raises:
        ConfigError: the pattern or `pick` is invalid.
    """

    def __init__(self, pattern: str, pick: str) -> None:
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"pattern: not valid: {error}") from error
        if self.pattern.groups != 1:
            raise ConfigError(
                f"pattern: must have exactly one group, for the number, got {self.pattern.groups} in {pattern}"
            )
        check_choice("pick", pick, PICKS)
        self._pick = pick

    def numbers(self, text: str, source: str) -> list[float]:
        """All numbers in a text, at least one.

        Raises:
            ValueError: nothing matches, or what matches is no number or is followed by an exponent.
        """
        return [self._number(match) for match in self._matches(text, source)]

    def pick(self, text: str, source: str) -> float:
        """The number to take. Raises ValueError as `numbers` does, but only for a number that is taken."""
        matches = self._matches(text, source)
        chosen = {"first": matches[:1], "last": matches[-1:]}.get(self._pick, matches)
        return (max if self._pick == "max" else min)(self._number(match) for match in chosen)

    def _matches(self, text: str, source: str) -> list[re.Match[str]]:
        matches = list(self.pattern.finditer(text))
        if not matches:
            raise ValueError(f"nothing in {source} matches {self.pattern.pattern}: {text[-300:]!r}")
        return matches

    def _number(self, match: re.Match[str]) -> float:
        if EXPONENT.match(match.string, match.end(1)):
            raise ValueError(rf"pattern: reads {match[1]} without its exponent; write (\S+) for the number")
        return float(match[1])


def one_line(error: Exception) -> str:
    """The message of an error, in one line."""
    return " ".join(str(error).split())


def checked_molecules() -> list[Molecule]:
    """The molecules that a program is tried with at the start."""
    return [Molecule(Chem.MolFromSmiles(smiles)) for smiles in CHECKED_SMILES]
