"""Score a file of molecules with an oracle, and write a table of the answers."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rdkit import rdBase

from chem.files import file_hash, find_file
from chem.molecule_files import read_molecule_file
from chem.molecules import canonical_forms, read_molecule
from chem.oracles import Oracle, OracleError, Result, Status
from chem.report import failure_reasons, failure_table, format_number, mean_of_known
from chem.scoring import ask_oracle, batch_scaffolds, open_cache
from conf.schema.base import ConfigError
from conf.schema.chem import ScoreConfig
from launch.analysis.csv_cells import csv_cell
from launch.runs.atomic import replacing
from launch.runs.closing import shown_path
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.progress import tracked, working
from launch.runs.run import Run

COLUMNS = ("smiles", "canonical", "score", "status", "message", "scaffold")


def score_file(config: ScoreConfig, run: Run) -> None:
    """Score the molecules of a file, write scores.csv and summary.json, and print the counts."""
    path = find_file("file", config.file)
    strings = read_molecule_file("file", path, config.smiles_column).smiles
    canonical = canonical_forms(strings)
    molecules = [molecule for molecule in dict.fromkeys(canonical) if molecule is not None]
    if not molecules:
        raise ConfigError(f"file: {path.name} has no molecule among its {len(strings):,} strings")
    try:
        with ExitStack() as stack:
            with working("starting the oracle"):
                oracle = stack.enter_context(Oracle(config.oracle))
            for note in oracle.notes:
                run.info(note)
            results, cached = score_chunks(oracle, config, run.folder, molecules)
    except OracleError as error:
        raise ConfigError(f"{error}; the answers so far are kept, run the same command to resume") from error
    answers = {result.smiles: result for result in results}
    rows = [
        unread_result(string) if molecule is None else answers[molecule]
        for string, molecule in zip(strings, canonical, strict=True)
    ]
    write_scores(run.folder / "scores.csv", strings, rows)
    statuses = Counter(result.status.value for result in results)
    summary = {
        "strings": len(strings),
        "molecules": len(molecules),
        "cached": cached,
        **{status.value: statuses[status.value] for status in Status},
        "score/mean": mean_of_known([result.score for result in results]),
        "score/best": max((result.score for result in results if result.score is not None), default=None),
        "file": path.name,
        "sha256": file_hash(path),
    }
    reasons = failure_reasons(
        [{"score": result.score, "status": result.status.value, "message": result.message} for result in results]
    )
    run.finish(summary | ({"failed_for": reasons} if reasons else {}))
    console.print(score_table(summary))
    if reasons:
        console.print(failure_table(reasons))
    run.info(f"scores: {shown_path(run.folder / 'scores.csv')}")


def score_chunks(
    oracle: Oracle, config: ScoreConfig, folder: Path, molecules: Sequence[str]
) -> tuple[list[Result], int]:
    """Results of distinct canonical SMILES, in chunks, so that a run that is killed loses one chunk of answers."""
    cache = open_cache(config.cache or str((folder / "scores.sqlite").absolute()), oracle.key)
    results: list[Result] = []
    cached = 0
    firsts = range(0, len(molecules), config.chunk)
    for first in tracked(firsts, "scoring"):
        chunk, known = ask_oracle(oracle, cache, molecules[first : first + config.chunk])
        results += chunk
        cached += known
    return results, cached


def unread_result(string: str) -> Result:
    """The result of a string that is no molecule, with the reason."""
    with rdBase.BlockLogs():
        reason = read_molecule(string)
    return Result("", Status.invalid, 0.0, message=str(reason))


def write_scores(path: Path, strings: Sequence[str], results: Sequence[Result]) -> None:
    """Write a CSV with a row for each string of the file: COLUMNS, and the raw value of each component."""
    names = list(dict.fromkeys(name for result in results for name in result.values))
    scaffolds = batch_scaffolds([result.smiles or None for result in results], results)
    with replacing(path) as file, file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(map(csv_cell, [*COLUMNS, *names]))
        for string, result, scaffold in zip(strings, results, scaffolds, strict=True):
            answer = (result.score, result.status.value, result.message, scaffold)
            values = (result.values.get(name) for name in names)
            writer.writerow(map(csv_cell, [string, result.smiles, *answer, *values]))


def score_table(summary: Mapping[str, Any]) -> FittedTable:
    """Table with one row: how many molecules have a score, and the mean and best score."""
    table = FittedTable("Distinct molecules")
    names = ("strings", "molecules", "cached", *(status.value for status in Status), "score/mean", "score/best")
    for name in names:
        table.add_column(name)
    table.add_row(*(format_number(summary[name]) for name in names))
    return table
