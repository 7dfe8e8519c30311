"""One reader of molecule files for all commands: SMILES files, tables and SDF, plain or gzipped.

Rows may be separated by tabs, commas, semicolons or spaces, with quotes and a byte order mark, with a header or
without, with the SMILES in any column: ZINC's `smiles zinc_id`, ChEMBL's `chembl_id<TAB>canonical_smiles<TAB>...`.
"""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rdkit import Chem, rdBase

from chem.molecules import MAX_CHARACTERS, read_molecule
from chem.oracles.base import MAX_ATOMS
from conf.schema.base import ConfigError
from launch.runs.progress import tracked

DELIMITERS = ("\t", ",", ";", None)  # None: any white space
SAMPLE_ROWS = 50  # rows by which the delimiter and the column of the SMILES are found
SDF_SUFFIXES = {".sdf", ".sd"}


class MoleculeFile(NamedTuple):
    """The rows of a molecule file, without header and comments.

    Attributes:
        smiles: [N] SMILES as written, "" for an empty cell; a record of an SDF file that cannot be read is
            `unreadable record`.
        columns: [N] cells of each further column that was asked for, by name; "" where a row is too short.
        lines: [N] line on which each row ends; number of the record in an SDF file.
        column: name of the column of the SMILES, or its number from 1 without a header.
    """

    smiles: list[str]
    columns: dict[str, list[str]]
    lines: list[int]
    column: str


class Molecules(NamedTuple):
    """Distinct molecules of a file.

    Attributes:
        smiles: in the order of the file.
        counts: number of lines, of molecules kept, and of lines left out for each reason.
    """

    smiles: list[str]
    counts: dict[str, int]


class _Layout(NamedTuple):
    delimiter: str | None
    position: int
    header: list[str]  # empty without a header


def read_molecule_file(
    key: str,
    path: Path,
    smiles_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    column_key: str = "smiles_column",
) -> MoleculeFile:
    """Read the SMILES of a file, in its order, without parsing them.

    Args:
        key: configuration key that names the file, for error messages.
        path: the file. Lines that start with # are comments: everywhere if the columns are separated by white space,
            else above the first row.
        smiles_column: name of the column of the SMILES, or its number from 1; None: found by the header, else by
            which column holds molecules.
        columns: further columns that are needed, by the configuration key that names them.
        column_key: configuration key of `smiles_column`.

    Raises:
        ConfigError: the file cannot be read, a column is missing, or it is not clear which one holds the SMILES.
    """
    with _errors_named(key, path):
        if path.with_suffix("" if path.suffix == ".gz" else path.suffix).suffix.lower() in SDF_SUFFIXES:
            return _read_sdf(path, columns or {})
        layout = _find_layout(path, smiles_column, columns or {}, column_key)
        further = {name: layout.header.index(name) for name in (columns or {}).values()}
        column = layout.header[layout.position] if layout.header else str(layout.position + 1)
        table = MoleculeFile([], {name: [] for name in further}, [], column)
        for line, row in islice(_rows(path, layout.delimiter), 1 if layout.header else 0, None):
            if not row and layout.header:
                continue  # an empty line is no row of a table
            table.smiles.append(_first_word(_cell(row, layout.position)))
            table.lines.append(line)
            for name, index in further.items():
                table.columns[name].append(_cell(row, index))
        return table


def distinct_molecules(strings: Iterable[str], check: Callable[[str], tuple[str | None, str]]) -> Molecules:
    """Convert SMILES, leave out what cannot be used or is there already, and count the reasons.

    Args:
        strings: SMILES.
        check: returns a reason to leave a molecule out, or None, and the form of its SMILES that is kept.
    """
    strings = list(strings)
    reasons: Counter[str] = Counter()
    kept: dict[str, None] = {}
    with rdBase.BlockLogs():
        for string in tracked(strings, "reading molecules"):
            reason, smiles = check(string)
            if reason is None and smiles in kept:
                reason = "duplicate"
            if reason is None:
                kept[smiles] = None
            else:
                reasons[reason] += 1
    return Molecules(list(kept), {"lines": len(strings), "kept": len(kept), **dict(reasons.most_common())})


def parse_smiles(string: str) -> Chem.Mol | str:
    """Parse a SMILES of a file; returns the reason as a string if it is not a molecule or too large."""
    if not string:
        return "empty"
    if len(string) > MAX_CHARACTERS:
        return "too large"
    mol = read_molecule(string) if string.isascii() else ""
    if isinstance(mol, str):
        return "not a molecule"
    return mol if mol.GetNumHeavyAtoms() <= MAX_ATOMS else "too large"


def canonical_smiles(string: str) -> tuple[str | None, str]:
    """A reason to leave a molecule out, or None, and its canonical SMILES: a `check` of `distinct_molecules`."""
    mol = parse_smiles(string)
    return (mol, "") if isinstance(mol, str) else (None, str(Chem.MolToSmiles(mol)))


def read_molecules(
    key: str,
    path: Path,
    smiles_column: str | None = None,
    check: Callable[[str], tuple[str | None, str]] = canonical_smiles,
    column_key: str = "smiles_column",
) -> Molecules:
    """Read the distinct molecules of a file.

    Args:
        key: configuration key that names the file, for error messages.
        path: the file.
        smiles_column: see `read_molecule_file`.
        check: see `distinct_molecules`.
        column_key: configuration key of `smiles_column`.

    Raises:
        ConfigError: the file cannot be read, or there is no molecule in it.
    """
    molecules = distinct_molecules(read_molecule_file(key, path, smiles_column, column_key=column_key).smiles, check)
    if not molecules.smiles:
        raise ConfigError(f"{key}: there are no molecules in {path.name} ({format_counts(molecules.counts)})")
    return molecules


def format_counts(counts: Mapping[str, int]) -> str:
    """Counts of molecules in words, e.g. `lines 12, kept 10, duplicate 2`."""
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())


@contextmanager
def _errors_named(key: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error, UnicodeError) as error:
        raise ConfigError(f"{key}: {path.name} must be text, plain or gzipped ({error})") from None
    except csv.Error as error:
        raise ConfigError(f"{key}: quotes in {path.name} do not match ({error})") from None


def _open_binary(path: Path) -> io.BufferedReader:
    with path.open("rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    return io.BufferedReader(gzip.open(path)) if gzipped else path.open("rb")


def _rows(path: Path, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row, comments left out."""
    with _open_binary(path) as binary:
        utf16 = binary.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
        file = io.TextIOWrapper(
            binary, encoding="utf-16" if utf16 else "utf-8-sig", errors="replace", newline=""
        )  # names may have any encoding, SMILES are ASCII
        if delimiter is None:
            yield from ((n, line.split()) for n, line in enumerate(file, 1) if not line.startswith("#"))
            return
        comments = 0
        first = next(file, "")
        while first.startswith("#"):
            comments += 1
            first = next(file, "")
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(_chain(first, file), delimiter=delimiter, strict=True)
        for row in reader:
            yield reader.line_num + comments, row


def _chain(first: str, others: Iterable[str]) -> Iterator[str]:
    if first:
        yield first
    yield from others


def _cell(row: list[str], index: int) -> str:
    return row[index].strip() if index < len(row) else ""


def _first_word(cell: str) -> str:
    """The SMILES of a cell, without what follows it in extended SMILES."""
    return cell.split(maxsplit=1)[0] if cell else ""


def _find_layout(path: Path, smiles_column: str | None, columns: Mapping[str, str], column_key: str) -> _Layout:
    """Choose the delimiter, the column of the SMILES, and whether there is a header.

    Raises:
        ConfigError: a column is missing, or several columns may hold the SMILES.
    """
    samples = {delimiter: _sample(path, delimiter) for delimiter in DELIMITERS}
    named = [*columns.values(), *([smiles_column] if smiles_column and not smiles_column.isdigit() else [])]
    if named:
        delimiter = max(samples, key=lambda each: len(set(named) & set(_header(samples[each]))))
        header = _header(samples[delimiter])
        for key, name in {**columns, **({column_key: smiles_column} if smiles_column in named else {})}.items():
            if name not in header:
                there = ", ".join(_header(max(samples.values(), key=lambda rows: len(_header(rows))))) or "none"
                raise ConfigError(f"{key}: {path.name} has no column {name}; its columns are: {there}")
    else:
        delimiter = max(samples, key=lambda each: max(_molecules_in_columns(samples[each]).values(), default=0))
        header = _header(samples[delimiter]) if any(map(_is_smiles_name, _header(samples[delimiter]))) else []
    if max(map(len, samples[delimiter]), default=0) == 1 and not named:
        delimiter = None  # one column
    rows = samples[delimiter][bool(header) :]
    if smiles_column in named:
        index = header.index(str(smiles_column))
    elif smiles_column is not None:
        index = int(smiles_column) - 1
        if not 0 <= index < max(map(len, samples[delimiter]), default=0):
            width = max(map(len, samples[delimiter]), default=0)
            raise ConfigError(f"{column_key}: {path.name} has {width} columns, got {smiles_column}")
    else:
        index = _find_column(path, header, rows, column_key)
    return _Layout(delimiter, index, header)


def _sample(path: Path, delimiter: str | None) -> list[list[str]]:
    """The first rows that are not empty, up to one whose quotes do not match."""
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(row for _, row in islice(_rows(path, delimiter), SAMPLE_ROWS) if row)
    return rows


def _header(rows: list[list[str]]) -> list[str]:
    return [cell.strip() for cell in rows[0]] if rows else []


def _is_smiles_name(name: str) -> bool:
    """Whether a column may be named so because it holds SMILES: smiles, canonical_smiles, SMILES (isomeric), smi."""
    letters = re.sub("[^a-z]", "", name.lower())
    return letters == "smi" or letters.startswith("smiles") or letters.endswith("smiles")


def _find_column(path: Path, header: list[str], rows: list[list[str]], column_key: str) -> int:
    """Number from 0 of the column of the SMILES: by its name, else the one that holds molecules.

    Raises:
        ConfigError: several columns may be meant.
    """
    candidates = [index for index, name in enumerate(header) if name.lower() == "smiles"]
    candidates = candidates or [index for index, name in enumerate(header) if _is_smiles_name(name)]
    if not candidates:
        counts = _molecules_in_columns(rows)
        most = max(counts.values(), default=0)
        candidates = [index for index, count in sorted(counts.items()) if count >= most / 2]
    if len(candidates) > 1:
        names = ", ".join(header[index] if header else str(index + 1) for index in candidates)
        raise ConfigError(
            f"{column_key}: several columns of {path.name} may hold the SMILES; set it to one of {names}"
        )
    if not candidates and header:
        raise ConfigError(
            f"{column_key}: no column of {path.name} holds SMILES; its columns are: {', '.join(header)}"
        )
    return candidates[0] if candidates else 0


def _molecules_in_columns(rows: list[list[str]]) -> Counter[int]:
    """Number of cells in each column that are a molecule and nothing else."""
    counts: Counter[int] = Counter()
    with rdBase.BlockLogs():
        for row in rows:
            counts.update(index for index, cell in enumerate(row) if _is_molecule(cell.strip()))
    return counts


def _is_molecule(cell: str) -> bool:
    word, _, rest = cell.partition(" ")
    return (not rest or rest.startswith("|")) and not isinstance(parse_smiles(word), str)


def _read_sdf(path: Path, columns: Mapping[str, str]) -> MoleculeFile:
    """Read an SDF file; the SMILES are RDKit's, and the columns are the data fields."""
    table = MoleculeFile([], {name: [] for name in columns.values()}, [], "structure")
    names: set[str] = set()
    with _open_binary(path) as file, rdBase.BlockLogs():
        for number, mol in enumerate(Chem.ForwardSDMolSupplier(file), 1):
            names.update(() if mol is None else mol.GetPropNames())
            table.smiles.append("unreadable record" if mol is None else Chem.MolToSmiles(mol))
            table.lines.append(number)
            for name, cells in table.columns.items():
                cells.append(mol.GetProp(name) if mol is not None and mol.HasProp(name) else "")
    for key, name in columns.items():
        if name not in names:
            raise ConfigError(f"{key}: {path.name} has no field {name}; its fields are: {', '.join(sorted(names))}")
    return table
