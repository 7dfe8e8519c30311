"""A program of your own, or QuickVina2-GPU and its like, as an oracle: a command for each molecule."""

import re
import shutil
import string
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rdkit import Chem

from chem.files import file_hash
from chem.oracles.base import Molecule, TimedOut, Value
from chem.parallel.processes import kill_group
from conf.schema.base import ConfigError

PICKS: dict[str, Callable[[list[float]], float]] = {
    "first": lambda values: values[0],
    "last": lambda values: values[-1],
    "min": min,
    "max": max,
}


def write_smiles(molecule: Molecule, path: Path) -> None:
    path.write_text(f"{molecule.smiles}\n")


def write_sdf(molecule: Molecule, path: Path) -> None:
    from chem.oracles.docking import conformer

    with Chem.SDWriter(str(path)) as writer:
        writer.write(conformer(molecule.mol, molecule.seed))


def write_pdbqt(molecule: Molecule, path: Path) -> None:
    from chem.oracles.docking import ligand_pdbqt

    path.write_text(ligand_pdbqt(molecule.mol, molecule.seed))


INPUTS: dict[str, Callable[[Molecule, Path], None]] = {"smi": write_smiles, "sdf": write_sdf, "pdbqt": write_pdbqt}
WORDS = {*INPUTS, "smiles", "seed", "folder", "output"}


class ExternalProgram:
    """The number that a program tells about a molecule.

    command: the program and its arguments; no shell reads them. They may hold {smiles}, the canonical SMILES; {seed};
        {smi}, {sdf} (a conformer with hydrogens) or {pdbqt}, a file with the molecule; {output}, a file to be
        written; {folder}, the program's folder, where it starts and which is removed afterwards.
    pattern: regular expression with one group, the number.
    source: where it is looked for, stdout or output.
    pick: which of several matches: first, last, min or max.
    time_limit_s: of the program; beyond, it is ended with all that it started and the result is `timed_out`.
    """

    def __init__(
        self,
        command: Sequence[str],
        pattern: str,
        source: str = "stdout",
        pick: str = "first",
        time_limit_s: float = 60.0,
    ) -> None:
        if isinstance(command, str) or not command:
            raise ConfigError(f"command: must be a list, the program and its arguments, got {command!r}")
        try:
            words = {name for part in command for _, name, _, _ in string.Formatter().parse(part) if name is not None}
            self.pattern = re.compile(pattern)
        except (ValueError, re.error) as error:
            raise ConfigError(f"command, pattern: cannot be read: {error}") from error
        if not words <= WORDS:
            allowed_words = ", ".join(f"{{{word}}}" for word in sorted(WORDS))
            raise ConfigError(f"command: may hold {allowed_words}, got {sorted(words - WORDS)}")
        if self.pattern.groups != 1:
            raise ConfigError(f"pattern: must have one group, the number, got {self.pattern.groups} in {pattern}")
        for key, value, allowed in (("pick", pick, list(PICKS)), ("source", source, ["stdout", "output"])):
            if value not in allowed:
                raise ConfigError(f"{key}: must be one of {', '.join(allowed)}, got {value}")
        if source == "output" and "output" not in words:
            raise ConfigError("command: must hold {output} with source=output, got none")
        program = shutil.which(command[0])
        if program is None:
            raise ConfigError(f"command: must be a program that can be run, got {command[0]}")
        self.program, self.words = Path(program), words
        self.command, self.source, self.pick, self.time_limit_s = list(command), source, PICKS[pick], time_limit_s

    def identity(self) -> dict[str, Any]:
        return {"program": file_hash(self.program)}

    def __call__(self, molecule: Molecule) -> Value:
        with tempfile.TemporaryDirectory(prefix="mara-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            values = {"smiles": molecule.smiles, "seed": molecule.seed, "folder": folder, "output": folder / "output"}
            for suffix, write in INPUTS.items():
                values[suffix] = folder / f"molecule.{suffix}"
                if suffix in self.words:
                    write(molecule, folder / f"molecule.{suffix}")
            printed = self._run([part.format(**values) for part in self.command], folder)
            text = printed if self.source == "stdout" else (folder / "output").read_text(errors="replace")
        found = [float(match) for match in self.pattern.findall(text)]
        if not found:
            raise ValueError(f"nothing in the {self.source} matches {self.pattern.pattern}: {text[-300:]!r}")
        return Value(self.pick(found))

    def _run(self, command: list[str], folder: Path) -> str:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
        )
        try:
            printed, complaint = process.communicate(timeout=self.time_limit_s)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"the program did not end within {self.time_limit_s:g} s") from None
        finally:
            kill_group(process.pid)
            process.wait()
            for stream in (process.stdout, process.stderr):
                with suppress(OSError, ValueError):
                    stream.close()  # type: ignore[union-attr]
        if process.returncode != 0:
            raise RuntimeError(f"the program ended with status {process.returncode}: {complaint[-300:].strip()}")
        return printed
