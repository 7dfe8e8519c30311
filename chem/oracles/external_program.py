"""An external program as an oracle, such as QuickVina2-GPU or one of your own: one call per molecule."""

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
    """Write the canonical SMILES."""
    path.write_text(f"{molecule.smiles}\n")


def write_sdf(molecule: Molecule, path: Path) -> None:
    """Write a conformer with hydrogens."""
    from chem.oracles.docking import embed_conformer

    with Chem.SDWriter(str(path)) as writer:
        writer.write(embed_conformer(molecule.mol, molecule.seed))


def write_pdbqt(molecule: Molecule, path: Path) -> None:
    """Write a conformer prepared for docking."""
    from chem.oracles.docking import ligand_pdbqt

    path.write_text(ligand_pdbqt(molecule.mol, molecule.seed))


INPUTS: dict[str, Callable[[Molecule, Path], None]] = {"smi": write_smiles, "sdf": write_sdf, "pdbqt": write_pdbqt}
PLACEHOLDERS = {*INPUTS, "smiles", "seed", "folder", "output"}


class ExternalProgram:
    """A number that a program prints or writes for a molecule.

    Args:
        command: the program and its arguments, run without a shell. They may contain {smiles}, the canonical SMILES;
            {seed}; {smi}, {sdf} (a conformer with hydrogens) or {pdbqt}, a file with the molecule; {output}, a file
            for the program to write; {folder}, the working directory of the program, which is removed afterwards.
        pattern: regular expression with one group, the number.
        source: where to look for it: stdout or output.
        pick: which of several matches to take: first, last, min or max.
        time_limit_s: after it the program is killed with everything it started, and the result is `timed_out`.

    Raises:
        ConfigError: a parameter is invalid, or the program is not found.
    """

    version = "b20fce54990a6424"  # change it whenever the numbers change

    def __init__(
        self,
        command: Sequence[str],
        pattern: str,
        source: str = "stdout",
        pick: str = "first",
        time_limit_s: float = 60.0,
    ) -> None:
        if isinstance(command, str) or not command:
            raise ConfigError(f"command: must be a list of the program and its arguments, got {command!r}")
        try:
            fields = {
                name for part in command for _, name, _, _ in string.Formatter().parse(part) if name is not None
            }
            self.pattern = re.compile(pattern)
        except (ValueError, re.error) as error:
            raise ConfigError(f"command, pattern: not valid: {error}") from error
        if not fields <= PLACEHOLDERS:
            allowed_fields = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS))
            unknown = ", ".join(f"{{{name}}}" for name in sorted(fields - PLACEHOLDERS))
            raise ConfigError(f"command: unknown placeholder {unknown}; allowed: {allowed_fields}")
        if self.pattern.groups != 1:
            raise ConfigError(
                f"pattern: must have exactly one group, for the number, got {self.pattern.groups} in {pattern}"
            )
        for key, value, allowed in (("pick", pick, list(PICKS)), ("source", source, ["stdout", "output"])):
            if value not in allowed:
                raise ConfigError(f"{key}: must be one of {', '.join(allowed)}, got {value}")
        if source == "output" and "output" not in fields:
            raise ConfigError("command: must contain {output} with source=output")
        program = shutil.which(command[0])
        if program is None:
            raise ConfigError(f"command: the program {command[0]} was not found, or is not executable")
        self.program, self.fields = Path(program), fields
        self.command, self.source, self.pick, self.time_limit_s = list(command), source, PICKS[pick], time_limit_s

    def identity(self) -> dict[str, Any]:
        """Hash of the program."""
        return {"program": file_hash(self.program)}

    def __call__(self, molecule: Molecule) -> Value:
        """Run the program for one molecule."""
        with tempfile.TemporaryDirectory(prefix="mara-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            values = {"smiles": molecule.smiles, "seed": molecule.seed, "folder": folder, "output": folder / "output"}
            for suffix, write in INPUTS.items():
                values[suffix] = folder / f"molecule.{suffix}"
                if suffix in self.fields:
                    write(molecule, folder / f"molecule.{suffix}")
            stdout = self._run([part.format(**values) for part in self.command], folder)
            text = stdout if self.source == "stdout" else (folder / "output").read_text(errors="replace")
        numbers = [float(match) for match in self.pattern.findall(text)]
        if not numbers:
            raise ValueError(f"nothing in {self.source} matches {self.pattern.pattern}: {text[-300:]!r}")
        return Value(self.pick(numbers))

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
