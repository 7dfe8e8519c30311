"""Read the tables that REINVENT 4 and Saturn write of their molecules, and those of runs of this project.

REINVENT 4 (reinvent/runmodes/RL/reports/csv_summmary.py, `write_summary`): Agent, Prior and Target, negative
    log-likelihoods in nats; Score; SMILES; Scaffold, with a diversity filter; two columns for each component; step.
Saturn (oracles/oracle.py, `Oracle.write_out_oracle_history`): oracle_calls, scaffold, smiles, reward,
    penalized_reward, and two columns for each component. Each molecule once, unless allow_oracle_repeats is set.
This project: samples.jsonl of a run folder, or any table with the columns smiles and score.
"""

import csv
import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from chem.molecules import canonical_forms, scaffold_from_smiles
from conf.schema.base import ConfigError
from core.diagnosis.samples import Sample
from launch.runs.run_folder import iterate_jsonl, read_config, read_jsonl

REINVENT, SATURN, OURS, TABLE = "REINVENT 4", "Saturn", "this project", "a table"


@dataclass(frozen=True)
class Layout:
    """The columns of a format, by what they hold.

    Attributes:
        name: of the program that writes it.
        optional: columns that may be missing, in a file or in a row.
        sign: -1 where the log-probabilities are negative log-likelihoods.
    """

    name: str
    smiles: str
    score: str
    step: str = ""
    policy_logp: str = ""
    ref_logp: str = ""
    optional: tuple[str, ...] = ()
    sign: float = 1.0

    @property
    def needed(self) -> set[str]:
        """The columns by which the format is recognised."""
        columns = {self.smiles, self.score, self.step, self.policy_logp, self.ref_logp}
        return columns - {"", *self.optional}


OWN_LOGP = ("policy_seq_logp", "ref_seq_logp")
LAYOUTS = (
    Layout(REINVENT, "SMILES", "Score", "step", "Agent", "Prior", sign=-1.0),
    Layout(SATURN, "smiles", "reward", "oracle_calls"),
    Layout(OURS, "smiles", "score", "step", *OWN_LOGP, optional=OWN_LOGP),
    Layout(TABLE, "smiles", "score"),
)
LISTED_ONCE = {
    SATURN: "Each molecule is listed once (unless allow_oracle_repeats is set) and without log-likelihoods: repeated "
    "samples cannot be seen, so that scaffolds tell more than molecules.",
    OURS: "Each molecule is listed once, with the log-probabilities of the SMILES that was sampled: repeated samples "
    "cannot be seen, so that scaffolds tell more than molecules.",
}


@dataclass
class Molecules:
    """Molecules of files.

    Attributes:
        samples: with an empty answer; `with_classes` names them.
        origin: the program that wrote them.
        config: of the first run folder of this project; empty without one.
        metrics: lines of its metrics.jsonl.
        notes: what was read and how.
    """

    samples: list[Sample] = field(default_factory=list)
    origin: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    notes: list[str] = field(default_factory=list)


def read_molecules(paths: Sequence[Path]) -> Molecules:
    """Read tables and run folders.

    Raises:
        ConfigError: names the file and line that cannot be read, and why.
    """
    molecules = Molecules()
    for path in paths:
        path = path / "samples.jsonl" if path.is_dir() else path
        if not molecules.config and path.name == "samples.jsonl" and (path.parent / "config.yaml").exists():
            molecules.config = read_config(path.parent)
            metrics = path.parent / "metrics.jsonl"
            molecules.metrics = read_jsonl(metrics) if metrics.exists() else ()
        before = len(molecules.samples)
        layout: Layout | None = None
        for number, row in _rows(path):
            layout = layout or _layout(row, path)
            sample = _sample(row, layout, f"{path}, line {number}", len(molecules.samples))
            molecules.samples.append(sample)
        if layout is None:
            raise ConfigError(f"{path}: holds no molecules")
        molecules.origin = molecules.origin or layout.name
        molecules.notes.append(f"{path.name}: {len(molecules.samples) - before:,} molecules of {layout.name}.")
        if layout.name in LISTED_ONCE:
            molecules.notes.append(LISTED_ONCE[layout.name])
    return molecules


def repeats(metrics: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Mean share of samples that were met before, in the first and the last tenth of the steps; None: not known."""
    shares = [row["repeats"] for row in metrics if isinstance(row.get("repeats"), float | int)]
    tenth = max(len(shares) // 10, 1)
    return (fmean(shares[:tenth]), fmean(shares[-tenth:])) if shares else None


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The number and the content of each row."""
    try:
        if path.suffix == ".jsonl":
            yield from enumerate(iterate_jsonl(path), 1)
            return
        opener: Any = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                yield reader.line_num, row
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (UnicodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a table of text ({error})") from None


def _layout(row: Mapping[str, Any], path: Path) -> Layout:
    for layout in LAYOUTS:
        if layout.needed <= set(row):
            return layout
    raise ConfigError(
        f"{path}: must have the columns of REINVENT 4 (Agent, Prior, Score, SMILES, step), of Saturn (oracle_calls, "
        f"smiles, reward), or smiles and score; it has {', '.join(map(str, row)) or 'none'}"
    )


def _sample(row: Mapping[str, Any], layout: Layout, place: str, number: int) -> Sample:
    """A row as a sample. Raises ConfigError if a cell is no number or missing."""
    smiles = row[layout.smiles]
    if not isinstance(smiles, str):
        raise ConfigError(f"{place}: the row is cut off, or {layout.smiles} is not text")
    policy, ref = (_number(row, name, place) for name in (layout.policy_logp, layout.ref_logp))
    step = _number(row, layout.step, place)
    return Sample(
        number if step is None else int(step),
        "",
        "",
        smiles,
        _number(row, layout.score, place),
        None if policy is None else layout.sign * policy,
        None if ref is None else layout.sign * ref,
    )


def _number(row: Mapping[str, Any], name: str, place: str) -> float | None:
    """A number; None for an empty cell or NaN, as for a molecule that could not be scored."""
    value = row.get(name) if name else None
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{place}: {name} must be a number, got {str(value)[:40]!r}") from None
    return None if math.isnan(number) else number


def with_classes(samples: Sequence[Sample], classes: str) -> list[Sample]:
    """Samples with their answers: the canonical molecule, or its Murcko scaffold. What is no molecule is left out."""
    canonical = canonical_forms([sample.text for sample in samples])
    names = {
        smiles: scaffold_from_smiles(smiles) if classes == "scaffold" else smiles
        for smiles in set(canonical)
        if smiles
    }
    return [
        Sample(s.step, s.prompt, names[smiles], s.text, s.reward, s.policy_logp, s.ref_logp)
        for s, smiles in zip(samples, canonical, strict=True)
        if smiles
    ]
