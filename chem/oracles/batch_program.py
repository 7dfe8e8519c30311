"""An external program that scores many molecules in one call, such as QuickVina2-GPU: a folder in, a folder out."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chem.oracles.base import Molecule, Value
from chem.oracles.conformers import check_ring_size
from chem.oracles.external_program import SUFFIXES, molecule_writers
from chem.oracles.program import CommandLine, NumberPattern, checked_molecules, one_line
from conf.schema.base import ConfigError, check_choice

FOLDERS = {f"{suffix}_folder": suffix for suffix in SUFFIXES}
PLACEHOLDERS = (*FOLDERS, "smi_list", "seed", "folder", "output", "output_folder")


class BatchProgram:
    """A number for each molecule of a batch, from one call of a program.

    Args:
        command: as for `ExternalProgram`, with other placeholders: {pdbqt_folder}, {sdf_folder} or {smi_folder}, a
            folder with a file molecule_0001.pdbqt (.sdf, .smi), molecule_0002.pdbqt, ... for each molecule; or
            {smi_list}, a file with lines `SMILES molecule_0001`. {output_folder} and {output} are a folder and a file
            for the program to write; {folder} a temporary folder, {here} that in which the run was started, {seed}
            the oracle's seed.
        pattern: regular expression with one group, the number.
        source: where to look for it. output_folder: in the files whose names begin with a molecule's, such as
            molecule_0001_out.pdbqt; a molecule without a file fails. stdout or output: there must be one number for
            each molecule, in their order.
        pick: which of several matches in a molecule's files to take: first, last, min or max.
        time_limit_s: of a call. After it the program is killed with everything it started.
        cwd: folder to start the program in, relative to {here}; its arguments are then not resolved. None: {folder}.
        flexible_ring_size: size from which rings are open in PDBQT files; None: every ring is rigid.

    A call that fails or takes too long is repeated for each half of its batch (`chem.oracles.compose`).

    Raises:
        ConfigError: a parameter is invalid, or the program is not found.
    """

    version = "1"  # change it whenever the numbers change

    def __init__(
        self,
        command: Sequence[str | float],
        pattern: str,
        source: str = "output_folder",
        pick: str = "first",
        time_limit_s: float = 600.0,
        cwd: str | None = None,
        flexible_ring_size: int | None = None,
    ) -> None:
        self.program = CommandLine(command, PLACEHOLDERS, cwd, time_limit_s)
        self.pattern = NumberPattern(pattern, pick)
        check_choice("source", source, ["output_folder", "stdout", "output"])
        if not self.program.fields & {*FOLDERS, "smi_list"}:
            inputs = ", ".join(f"{{{name}}}" for name in (*FOLDERS, "smi_list"))
            raise ConfigError(f"command: must contain the molecules, as one of {inputs}")
        if source != "stdout" and source not in self.program.fields:
            raise ConfigError(f"command: must contain {{{source}}} with source={source}")
        check_ring_size(flexible_ring_size)
        self.source, self.writers = source, molecule_writers(flexible_ring_size)

    def identity(self) -> dict[str, Any]:
        """Hashes of the program and its files."""
        return self.program.identity()

    def __call__(self, molecule: Molecule) -> Value:
        """Run the program for one molecule."""
        answer = self.score_batch([molecule])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def score_batch(self, molecules: Sequence[Molecule]) -> list[Value | Exception]:
        """Run the program for a batch.

        Returns:
            For each molecule its value, or why it alone has none: it cannot be prepared, or has no output.

        Raises:
            TimedOut, RuntimeError, ValueError: the call failed.
        """
        with tempfile.TemporaryDirectory(prefix="mara-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            answers = self._write_inputs(molecules, folder)
            written = [stem for stem, error in answers.items() if error is None]
            if written:
                paths = {field: folder / field for field in (*FOLDERS, "smi_list", "output", "output_folder")}
                stdout = self.program.run({**paths, "folder": folder, "seed": molecules[0].run_seed}, folder)
                answers |= self._read_outputs(written, stdout, folder)
        return [answer for answer in answers.values() if answer is not None]

    def _write_inputs(self, molecules: Sequence[Molecule], folder: Path) -> dict[str, Value | Exception | None]:
        """Write the files; return by file stem None, or why the molecule cannot be prepared."""
        for field in ("output_folder", *FOLDERS):
            (folder / field).mkdir()
        answers: dict[str, Value | Exception | None] = {}
        lines = []
        for position, molecule in enumerate(molecules, start=1):
            stem = f"molecule_{position:04d}"
            answers[stem] = None
            try:
                for field in self.program.fields & FOLDERS.keys():
                    self.writers[FOLDERS[field]](molecule, folder / field / f"{stem}.{FOLDERS[field]}")
            except Exception as error:
                answers[stem] = error
            else:
                lines.append(f"{molecule.smiles} {stem}\n")
        (folder / "smi_list").write_text("".join(lines))
        return answers

    def _read_outputs(self, stems: Sequence[str], stdout: str, folder: Path) -> dict[str, Value | Exception]:
        """Find the numbers of the molecules with these file stems."""
        if self.source == "output_folder":
            return {stem: self._read_files(stem, folder / "output_folder") for stem in stems}
        text = stdout if self.source == "stdout" else (folder / "output").read_text(errors="replace")
        numbers = self.pattern.numbers(text, self.source)
        if len(numbers) != len(stems):
            raise ValueError(f"{self.source} has {len(numbers)} numbers for {len(stems)} molecules")
        return {stem: Value(number) for stem, number in zip(stems, numbers, strict=True)}

    def _read_files(self, stem: str, folder: Path) -> Value | Exception:
        own = re.compile(rf"{stem}(?!\d)")
        files = sorted(path for path in folder.rglob("*") if own.match(path.name) and path.is_file())
        if not files:
            return ValueError("the program wrote no file for this molecule")
        try:
            return Value(self.pattern.pick("".join(path.read_text(errors="replace") for path in files), "its files"))
        except ValueError as error:
            return error

    def preflight(self) -> str:
        """Run the program for a batch; return its values, for the log.

        Raises:
            ConfigError: it fails, or no molecule has a value.
        """
        molecules = checked_molecules()
        try:
            answers = self.score_batch(molecules)
        except Exception as error:
            raise ConfigError(f"command: the program fails for simple molecules: {one_line(error)}") from error
        values = [
            f"{answer.value:g} for {molecule.smiles}"
            for molecule, answer in zip(molecules, answers, strict=True)
            if isinstance(answer, Value)
        ]
        if not values:
            raise ConfigError(f"command: the program gives no number for a simple molecule; {answers[0]}")
        return ", ".join(values)
