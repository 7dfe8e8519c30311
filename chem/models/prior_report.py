"""What a prior draws beside what it was trained on: table, report.json, pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rdkit import Chem, rdBase
from rich.progress import track
from rich.table import Table
from scipy.stats import wasserstein_distance

from chem.models.corpus import Corpus
from chem.models.network import sample
from chem.models.prior import Prior
from chem.oracles.base import Molecule
from chem.oracles.properties import PROPERTIES
from chem.scoring import canonical_forms, murcko
from launch.analysis.palette import BLUE, GREY, ORANGE
from launch.runs.console import console
from launch.runs.rng import rollout_uniforms
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl

COMPARED = {  # name -> unit
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


class Molecules(NamedTuple):
    """Distinct molecules: canonical SMILES, Murcko scaffolds (canonical SMILES, "" without a ring), properties."""

    smiles: list[str]
    scaffolds: set[str]
    properties: dict[str, np.ndarray]


def draw(prior: Prior, count: int, seed: int) -> list[str]:
    """`count` SMILES as they were drawn; a function of (prior, count, seed)."""
    found: list[str] = []
    firsts = range(0, count, SAMPLE_BATCH)
    quiet = not console.is_terminal
    for first in track(firsts, "sampling", console=console, transient=True, disable=quiet):
        rows = list(range(first, min(first + SAMPLE_BATCH, count)))
        uniforms = rollout_uniforms(seed, 0, [0] * len(rows), rows, prior.max_tokens)
        found += prior.decode(sample(prior.network, uniforms))
    return found


def describe(smiles: Sequence[str]) -> Molecules:
    """Scaffolds and properties of distinct canonical SMILES."""
    scaffolds: set[str] = set()
    functions = {name: PROPERTIES[name]() for name in COMPARED}
    values: dict[str, list[float]] = {name: [] for name in functions}
    for one in smiles:
        molecule = Chem.MolFromSmiles(one)
        scaffolds.add(murcko(one))
        for name, function in functions.items():
            values[name].append(float(function(Molecule(molecule))))  # type: ignore[arg-type]
    return Molecules(list(smiles), scaffolds, {name: np.array(column) for name, column in values.items()})


def compare(drawn: Sequence[str], training: Sequence[str], seed: int) -> tuple[dict[str, Any], Molecules, Molecules]:
    """Figures of a sample, and the molecules that properties are compared of.

    validity: share of what was drawn that is a molecule. uniqueness: distinct molecules among the valid. novelty:
    share of the distinct that are not in the training set. scaffolds: distinct Murcko scaffolds, also a molecule, and
    the share that a random part of the training set, as large, lacks. properties: mean and standard deviation of both
    sides, and the Wasserstein-1 distance in standard deviations of the training set's.
    """
    with rdBase.BlockLogs():
        valid = [smiles for smiles in canonical_forms(drawn) if smiles is not None]
        unique = list(dict.fromkeys(valid))
        chosen = np.random.default_rng(seed).permutation(len(training))[: max(len(unique), 1)]
        sampled, reference = describe(unique), describe([training[row] for row in chosen])
    known = set(training)
    figures: dict[str, Any] = {
        "samples": len(drawn),
        "validity": len(valid) / len(drawn),
        "uniqueness": len(unique) / max(len(valid), 1),
        "novelty": sum(smiles not in known for smiles in unique) / max(len(unique), 1),
        "scaffolds": len(sampled.scaffolds),
        "scaffolds/per_molecule": len(sampled.scaffolds) / max(len(unique), 1),
        "scaffolds/per_training_molecule": len(reference.scaffolds) / len(chosen),
        "scaffolds/new_share": len(sampled.scaffolds - reference.scaffolds) / max(len(sampled.scaffolds), 1),
    }
    for name in COMPARED if unique else ():
        ours, theirs = sampled.properties[name], reference.properties[name]
        figures[f"property/{name}"] = {
            "mean": ours.mean(),
            "std": ours.std(),
            "training_mean": theirs.mean(),
            "training_std": theirs.std(),
            "wasserstein_in_std": wasserstein_distance(ours, theirs) / max(theirs.std(), 1e-12),
        }
    return figures, sampled, reference


def report_prior(
    run: Run, prior: Prior, corpus: Corpus, training: Sequence[str], *, samples: int, seed: int, loss: float
) -> None:
    """summary.json, the closing table and figure.png of a pretraining run.

    Args:
        loss: of the validation molecules, nats a molecule.
    """
    figures, sampled, reference = compare(draw(prior, samples, seed), training, seed)
    parameters = sum(tensor.numel() for tensor in prior.network.parameters())
    summary = {"validation/molecule": loss, **figures, "parameters": parameters, "vocabulary": len(prior.tokenizer)}
    run.finish({**summary, "data": {**corpus.origin, **corpus.counts}})
    console.print(figure_table(summary))
    if sampled.smiles:
        console.print(property_table(summary))
        draw_report(run, sampled, reference)


def figure_table(summary: Mapping[str, Any]) -> Table:
    """One row: what a prior draws."""
    table = Table(title=f"{summary['samples']:,} samples", title_justify="left")
    names = ("validation/molecule", "validity", "uniqueness", "novelty", "scaffolds", "scaffolds/new_share")
    for name in names:
        table.add_column({"validation/molecule": "held out, nats"}.get(name, name), justify="right")
    table.add_row(*(f"{summary[name]:.4g}" for name in names))
    return table


def property_table(summary: Mapping[str, Any]) -> Table:
    table = Table(title="Distinct samples beside as many training molecules", title_justify="left")
    for name in ("property", "samples", "training", "distance, std"):
        table.add_column(name, justify="left" if name == "property" else "right")
    for name in COMPARED:
        row = summary[f"property/{name}"]
        both = (f"{row[f'{side}mean']:.3g} ± {row[f'{side}std']:.3g}" for side in ("", "training_"))
        table.add_row(name, *both, f"{row['wasserstein_in_std']:.3f}")
    return table


def draw_report(run: Run, sampled: Molecules, reference: Molecules) -> None:
    """figure.png: learning curve and property distributions."""
    metrics = read_jsonl(run.folder / "metrics.jsonl")
    figure, axes = plt.subplots(3, 3, figsize=(11, 9), layout="constrained")
    curve, *rest = axes.flat
    width = max(len(metrics) // 100, 1)
    losses = np.array([row["nll/molecule"] for row in metrics])
    smooth = losses[: len(losses) // width * width].reshape(-1, width).mean(1)
    curve.plot((np.arange(len(smooth)) + 1) * width, smooth, color=BLUE, label="training")
    held = [(row["step"] + 1, row["validation/molecule"]) for row in metrics if "validation/molecule" in row]
    curve.plot(*zip(*held, strict=True), "o", color=ORANGE, label="held out")
    curve.set(xlabel="update", ylabel="nats a molecule", ylim=(min(smooth) * 0.95, np.quantile(smooth, 0.97)))
    curve.legend(frameon=False)
    for axis, name in zip(rest, COMPARED, strict=True):
        both = [reference.properties[name], sampled.properties[name]]
        low, high = np.quantile(np.concatenate(both), [0.001, 0.999])
        whole = all(np.equal(np.mod(values, 1), 0).all() for values in both)
        bins = np.arange(low - 0.5, high + 1.5) if whole else np.linspace(low, high, 41)
        axis.hist(both, bins, density=True, color=[GREY, BLUE], label=["training", "samples"])
        axis.set(xlabel=f"{name}, {COMPARED[name]}" if COMPARED[name] else name, yticks=[])
    rest[0].legend(frameon=False)
    figure.savefig(run.folder / "figure.png", dpi=130)
    plt.close(figure)
