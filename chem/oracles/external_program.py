"""An external program as an oracle, such as QuickVina 2 or one of your own: one call per molecule."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from chem.oracles.base import Molecule, Value
from chem.oracles.conformers import check_ring_size
from chem.oracles.program import (
    CommandLine,
    NumberPattern,
    checked_molecules,
    one_line,
    write_sdf,
    write_smiles,
)
from conf.schema.base import ConfigError, check_choice

SUFFIXES = ("smi", "sdf", "pdbqt")
PLACEHOLDERS = (*SUFFIXES, "smiles", "seed", "folder", "output")


def write_pdbqt(flexible_ring_size: int | None, molecule: Molecule, path: Path) -> None:
    """Write a conformer prepared for docking."""
    from chem.oracles.docking import ligand_pdbqt  # loads meeko

    path.write_text(ligand_pdbqt(molecule.mol, molecule.seed, flexible_ring_size))


def molecule_writers(flexible_ring_size: int | None) -> dict[str, Callable[[Molecule, Path], None]]:
    """The function that writes a molecule's file, by the suffix of the file."""
    return {"smi": write_smiles, "sdf": write_sdf, "pdbqt": partial(write_pdbqt, flexible_ring_size)}


class ExternalProgram:
    """A number that a program prints or writes for a molecule.

    Args:
        command: the program and its arguments, run without a shell. They may contain {smiles}, the canonical SMILES;
            {seed}; {smi}, {sdf} (a conformer with hydrogens) or {pdbqt}, a file with the molecule; {output}, a file
            for the program to write; {folder}, a temporary folder, which is removed afterwards; {here}, the folder
            in which the run was started. Relative paths of existing files are resolved against {here}.
        pattern: regular expression with one group, the number.
        source: where to look for it: stdout or output.
        pick: which of several matches to take: first, last, min or max.
        time_limit_s: after it the program is killed with everything it started, and the result is `timed_out`.
        cwd: folder to start the program in, relative to {here}; its arguments are then not resolved. None: {folder}.
        flexible_ring_size: size from which rings are open in {pdbqt}; None: every ring is rigid.

    Raises:
        ConfigError: a parameter is invalid, or the program is not found.
    """

    version = "b20fce54990a6424"  # change it whenever the numbers change

    def __init__(
        self,
        command: Sequence[str | float],
        pattern: str,
        source: str = "stdout",
        pick: str = "first",
        time_limit_s: float = 60.0,
        cwd: str | None = None,
        flexible_ring_size: int | None = None,
    ) -> None:
        self.program = CommandLine(command, PLACEHOLDERS, cwd, time_limit_s)
        self.pattern = NumberPattern(pattern, pick)
        check_choice("source", source, ["stdout", "output"])
        if source == "output" and "output" not in self.program.fields:
            raise ConfigError("command: must contain {output} with source=output")
        check_ring_size(flexible_ring_size)
        self.source, self.writers = source, molecule_writers(flexible_ring_size)

    def identity(self) -> dict[str, Any]:
        """Hashes of the program and its files, and how rings are prepared where they are."""
        return {**self.program.identity(), **({"rings": "rigid"} if "pdbqt" in self.program.fields else {})}

    def __call__(self, molecule: Molecule) -> Value:
        """Run the program for one molecule."""
        with tempfile.TemporaryDirectory(prefix="mara-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            values = {"smiles": molecule.smiles, "seed": molecule.seed, "folder": folder, "output": folder / "output"}
            for suffix, write in self.writers.items():
                values[suffix] = folder / f"molecule.{suffix}"
                if suffix in self.program.fields:
                    write(molecule, folder / f"molecule.{suffix}")
            stdout = self.program.run(values, folder)
            text = stdout if self.source == "stdout" else (folder / "output").read_text(errors="replace")
        return Value(self.pattern.pick(text, self.source))

    def preflight(self) -> str:
        """Run the program for a molecule; return its value, for the log.

        Raises:
            ConfigError: it fails for each of the molecules that it is tried with.
        """
        errors = []
        for molecule in checked_molecules():
            try:
                return f"{self(molecule).value:g} for {molecule.smiles}"
            except Exception as error:
                errors.append(f"{molecule.smiles}: {one_line(error)}")
        raise ConfigError(f"command: the program gives no number for a simple molecule; {errors[0]}")
