"""Draw molecules from a prior or a policy, and write them."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from chem.models.corpus import randomise_smiles
from chem.models.network import sample, token_logp
from chem.models.prior import Prior
from chem.models.prior_source import open_prior
from chem.molecules import canonical_forms
from conf.schema.base import ConfigError
from conf.schema.chem import SampleConfig
from core.sequence import masked_sum
from launch.analysis.csv_cells import csv_cell
from launch.runs.atomic import replacing
from launch.runs.closing import shown_path
from launch.runs.progress import tracked, working
from launch.runs.rng import rollout_uniforms
from launch.runs.run import Run

BATCH = 500
MAX_DRAWS = 50  # samples for each molecule that is asked for, after which sampling distinct ones is given up


class Sample(NamedTuple):
    """A string that was drawn.

    Attributes:
        smiles: as it was drawn; empty for one that is cut at the longest sequence.
        canonical: canonical SMILES, None if it is no molecule.
        logp: log-likelihood of the string, nats.
    """

    smiles: str
    canonical: str | None
    logp: float


def sample_molecules(config: SampleConfig, run: Run) -> None:
    """Draw molecules, write molecules.csv or molecules.smi and summary.json, and print the counts."""
    with working("loading the prior"):
        prior = open_prior("prior", config.prior)
    samples, drawn = collect_samples(prior, config.count, config.unique, config.seed)
    valid = sum(found.canonical is not None for found in drawn)
    distinct = len({found.canonical for found in drawn} - {None})
    path = run.folder / f"molecules.{config.format}"
    write_samples(path, samples, config)
    run.finish({"drawn": len(drawn), "valid": valid, "distinct": distinct, "written": len(samples)})
    run.info(
        f"{len(drawn):,} strings drawn, {valid:,} of them molecules, {distinct:,} distinct; {len(samples):,} written "
        f"to {shown_path(path)}"
    )


def collect_samples(prior: Prior, count: int, unique: bool, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Draw samples, each determined by (prior, seed, its number).

    Args:
        prior: what is sampled.
        count: number of distinct molecules or, without `unique`, of samples.
        unique: leave out what is no molecule, and repeats.
        seed: of the random numbers.

    Returns:
        The samples that were asked for, and all that were drawn.

    Raises:
        ConfigError: there are not enough distinct molecules among MAX_DRAWS times `count` samples.
    """
    drawn: list[Sample] = []
    chosen: dict[str, Sample] = {}
    batches = draw_batches(prior, MAX_DRAWS * count if unique else count, seed)
    for batch in tracked(batches, "sampling"):
        for found in batch:
            drawn.append(found)
            if found.canonical is not None:
                chosen.setdefault(found.canonical, found)
            if unique and len(chosen) == count:
                return list(chosen.values()), drawn
    if unique:
        raise ConfigError(
            f"count: {len(drawn):,} samples have only {len(chosen):,} distinct molecules, fewer than {count:,}; ask "
            "for fewer, or set unique=false"
        )
    return drawn, drawn


@torch.no_grad()
def draw_batches(prior: Prior, count: int, seed: int) -> Iterator[list[Sample]]:
    """Yield `count` samples in batches."""
    for first in range(0, count, BATCH):
        rows = list(range(first, min(first + BATCH, count)))
        rollout = sample(prior.network, rollout_uniforms(seed, 0, [0] * len(rows), rows, prior.max_tokens))
        logp = masked_sum(token_logp(prior.network, rollout.tokens, rollout.mask), rollout.mask)
        smiles = prior.decode(rollout)
        yield [Sample(*row) for row in zip(smiles, canonical_forms(smiles), logp.tolist(), strict=True)]


def write_samples(path: Path, samples: list[Sample], config: SampleConfig) -> None:
    """Write samples as CSV, with the string that was drawn and its log-likelihood, or as SMILES only, one a line."""
    with replacing(path) as file, file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if config.format == "csv":
            writer.writerow(["smiles", "drawn_as", "logp_nats"])
        for found in samples:
            smiles = spell(found, config)
            if config.format == "csv":
                writer.writerow([csv_cell(smiles), csv_cell(found.smiles), f"{found.logp:.6g}"])
            else:
                stream.write(f"{smiles}\n")


def spell(found: Sample, config: SampleConfig) -> str:
    """The SMILES that is written for a sample. A string that is no molecule is written as it was drawn."""
    if found.canonical is None or config.spelling == "sampled":
        return found.smiles
    if config.spelling == "randomised":
        return randomise_smiles(found.canonical, config.seed, 0)
    return found.canonical
