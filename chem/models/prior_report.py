"""Compare samples of a prior with its training set: tables, summary.json and figure.png."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from rdkit import rdBase
from scipy.stats import wasserstein_distance

from chem.models.corpus import Corpus
from chem.models.network import sample
from chem.models.prior import Prior
from chem.molecules import canonical_forms, murcko_scaffold, read_molecule
from chem.oracles.base import Molecule
from chem.oracles.properties import PROPERTIES
from launch.analysis.figures import draw_line, integer_ticks, panels, save_figure
from launch.analysis.palette import BASE, BLUE, GREY, Style
from launch.analysis.uncertainty import format_mean
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.progress import tracked
from launch.runs.rng import rollout_uniforms
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl

COMPARED_PROPERTIES = {  # name -> unit
    "weight": "g/mol",
    "logp": "",
    "tpsa": "Å²",
    "qed": "",
    "donors": "",
    "acceptors": "",
    "rings": "",
    "rotatable_bonds": "",
}
SAMPLE_BATCH = 500


class MeasuredMolecules(NamedTuple):
    """Distinct molecules with their scaffolds and properties.

    Attributes:
        smiles: N canonical SMILES.
        scaffolds: distinct Murcko scaffolds, "" for a molecule without a ring.
        properties: [N] values of each property.
    """

    smiles: list[str]
    scaffolds: set[str]
    properties: dict[str, np.ndarray]


def sample_smiles(prior: Prior, count: int, seed: int) -> list[str]:
    """Sample `count` strings from a prior, determined by (prior, count, seed)."""
    smiles: list[str] = []
    firsts = range(0, count, SAMPLE_BATCH)
    for first in tracked(firsts, "sampling"):
        rows = list(range(first, min(first + SAMPLE_BATCH, count)))
        uniforms = rollout_uniforms(seed, 0, [0] * len(rows), rows, prior.max_tokens)
        smiles += prior.decode(sample(prior.network, uniforms))
    return smiles


def measure_molecules(smiles: Sequence[str]) -> MeasuredMolecules:
    """Compute scaffolds and properties of distinct canonical SMILES; strings that are no molecules are left out."""
    scaffolds: set[str] = set()
    functions = {name: PROPERTIES[name]() for name in COMPARED_PROPERTIES}
    values: dict[str, list[float]] = {name: [] for name in functions}
    measured = []
    for string in smiles:
        molecule = read_molecule(string)
        if isinstance(molecule, str):
            continue
        measured.append(string)
        scaffolds.add(murcko_scaffold(molecule))
        for name, function in functions.items():
            values[name].append(float(function(Molecule(molecule))))  # type: ignore[arg-type]
    return MeasuredMolecules(measured, scaffolds, {name: np.array(column) for name, column in values.items()})


def compare_with_training(
    sampled: Sequence[str], training: Sequence[str], seed: int
) -> tuple[dict[str, Any], MeasuredMolecules, MeasuredMolecules]:
    """Compare samples with a random part of the training set that has as many distinct molecules.

    Args:
        sampled: strings sampled from the prior.
        training: canonical SMILES of the training set.
        seed: seed for the random part.

    Returns:
        The figures, the distinct sampled molecules, and the part of the training set. The figures are: validity, the
        share of samples that are molecules; uniqueness, distinct molecules among the valid samples; novelty, the
        share of distinct molecules outside the training set; scaffolds, the number of distinct Murcko scaffolds, also
        per molecule, and the share of them that the part of the training set lacks; and for each property the mean
        and standard deviation of both sides, and their Wasserstein-1 distance in standard deviations of the training
        set.
    """
    with rdBase.BlockLogs():
        valid = [smiles for smiles in canonical_forms(sampled) if smiles is not None]
        unique = list(dict.fromkeys(valid))
        rows = np.random.default_rng(seed).permutation(len(training))[: max(len(unique), 1)]
        molecules, reference = measure_molecules(unique), measure_molecules([training[row] for row in rows])
    known = set(training)
    figures: dict[str, Any] = {
        "samples": len(sampled),
        "validity": len(valid) / len(sampled),
        "uniqueness": len(unique) / max(len(valid), 1),
        "novelty": sum(smiles not in known for smiles in unique) / max(len(unique), 1),
        "scaffolds": len(molecules.scaffolds),
        "scaffolds/per_molecule": len(molecules.scaffolds) / max(len(unique), 1),
        "scaffolds/per_training_molecule": len(reference.scaffolds) / len(rows),
        "scaffolds/new_share": len(molecules.scaffolds - reference.scaffolds) / max(len(molecules.scaffolds), 1),
    }
    for name in COMPARED_PROPERTIES if unique else ():
        sample_values, training_values = molecules.properties[name], reference.properties[name]
        distance = wasserstein_distance(sample_values, training_values)
        figures[f"property/{name}"] = {
            "mean": sample_values.mean(),
            "std": sample_values.std(),
            "training_mean": training_values.mean(),
            "training_std": training_values.std(),
            "wasserstein_in_std": distance / max(training_values.std(), 1e-12),
        }
    return figures, molecules, reference


def report_prior(
    run: Run, prior: Prior, corpus: Corpus, training: Sequence[str], *, samples: int, seed: int, loss: float
) -> None:
    """Write summary.json and figure.png of a pretraining run, and print its tables.

    Args:
        run: the run.
        prior: the trained prior.
        corpus: for its counts and origin.
        training: canonical SMILES of the training set.
        samples: number of samples to draw.
        seed: seed for the samples.
        loss: validation loss, nats per molecule.
    """
    figures, molecules, reference = compare_with_training(sample_smiles(prior, samples, seed), training, seed)
    parameters = sum(tensor.numel() for tensor in prior.network.parameters())
    summary = {"validation/molecule": loss, **figures, "parameters": parameters, "vocabulary": len(prior.tokenizer)}
    run.finish({**summary, "data": {**corpus.origin, **corpus.counts}})
    console.print(sample_table(summary))
    if molecules.smiles:
        console.print(property_table(summary))
        draw_comparison(run, molecules, reference)
    else:
        run.warn(f"none of the {samples:,} samples is a molecule; train for more epochs, or on more molecules")


def sample_table(summary: Mapping[str, Any]) -> FittedTable:
    """Table with one row: validity, uniqueness, novelty and scaffolds of the samples."""
    table = FittedTable(f"{summary['samples']:,} samples")
    names = ("validation/molecule", "validity", "uniqueness", "novelty", "scaffolds", "scaffolds/new_share")
    headers = {"validation/molecule": "held-out nats", "scaffolds/new_share": "new scaffolds"}
    for name in names:
        table.add_column(headers.get(name, name))
    table.add_row(*(f"{summary[name]:.4g}" for name in names))
    return table


def property_table(summary: Mapping[str, Any]) -> FittedTable:
    """Table with one row per property: mean and standard deviation of both sides, and their distance."""
    table = FittedTable("Distinct samples and as many training molecules", "±: standard deviation")
    for header in ("property", "samples", "training", "distance, std"):
        table.add_column(header, "label" if header == "property" else "number")
    for name in COMPARED_PROPERTIES:
        row = summary[f"property/{name}"]
        cells = (format_mean(row[f"{side}mean"], row[f"{side}std"]) for side in ("", "training_"))
        table.add_row(name, *cells, f"{row['wasserstein_in_std']:.3f}")
    return table


def draw_comparison(run: Run, molecules: MeasuredMolecules, reference: MeasuredMolecules) -> None:
    """Draw the learning curve and the distribution of each property as figure.png."""
    draw_report(read_jsonl(run.folder / "metrics.jsonl"), molecules, reference, run.folder / "figure.png")


def draw_report(
    metrics: Sequence[Mapping[str, Any]], molecules: MeasuredMolecules, reference: MeasuredMolecules, path: Path
) -> Path:
    """Draw the learning curve and the distribution of each property, and return the path.

    Args:
        metrics: lines of metrics.jsonl, with `nll/molecule`, `validation/molecule` or both.
        molecules: distinct samples of the prior.
        reference: the part of the training set that they are compared with.
        path: of the PNG.
    """
    figure, axes = panels(3, 3, (3.7, 3.0))
    curve, *others = axes.flat
    draw_learning_curve(curve, metrics)
    for axis, name in zip(others, COMPARED_PROPERTIES, strict=True):
        draw_property(axis, name, reference.properties[name], molecules.properties[name])
    others[0].legend()
    return save_figure(figure, path)


def draw_learning_curve(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw the training and the held-out loss over the updates."""
    losses = np.array([row["nll/molecule"] for row in metrics if "nll/molecule" in row])
    window = max(len(losses) // 100, 1)
    smooth = losses[: len(losses) // window * window].reshape(-1, window).mean(1)
    if len(smooth):
        updates = ((np.arange(len(smooth)) + 1) * window).tolist()
        draw_line(axes, updates, smooth.tolist(), Style(BLUE, "-", "s"), "training")
    validation = [(row["step"] + 1, row["validation/molecule"]) for row in metrics if "validation/molecule" in row]
    axes.plot([step for step, _ in validation], [loss for _, loss in validation], "o", color=BASE, label="held out")
    if len(smooth) > 1 and validation:
        low, high = min(smooth) * 0.95, np.quantile(smooth, 0.97)  # the first updates would hide the others
        if all(low <= loss <= high for _, loss in validation):
            axes.set_ylim(low, high)
    axes.set(xlabel="update", ylabel="nats per molecule")
    axes.legend()
    integer_ticks(axes)


def draw_property(axes: Axes, name: str, training: np.ndarray, samples: np.ndarray) -> None:
    """Draw the distributions of a property over training molecules and samples."""
    values = [training, samples]
    low, high = np.quantile(np.concatenate(values), [0.001, 0.999])
    integers = all(np.equal(np.mod(side, 1), 0).all() for side in values)
    bins = (np.arange(low - 0.5, high + 1.5) if integers else np.linspace(low, high, 41)).tolist()
    shares = [np.full(len(side), 1 / max(len(side), 1)) for side in values]
    axes.hist(values, bins, weights=shares, color=[GREY, BLUE], label=["training", "samples"])
    unit = COMPARED_PROPERTIES[name]
    label = name.replace("_", " ")
    axes.set(xlabel=f"{label}, {unit}" if unit else label, yticks=[])
