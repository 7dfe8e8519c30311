"""Tables and pictures of a run and of a sweep: the best molecules, and how rewards and diversity went."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from omegaconf import OmegaConf
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from rich.table import Table

from launch.record import read_jsonl, write_json
from launch.run import Run, console

SHOWN = 12  # molecules in the picture and in the table
LAST = 10  # steps that closing figures are means of
CURVES = {
    "reward/raw": "reward",
    "valid": "valid",
    "unique": "distinct",
    "scaffolds": "scaffolds",
    "repeats": "repeats",
}


def report_run(run: Run, calls: int, failures: int, reason: str) -> None:
    """molecules.csv, summary.json, the closing tables, figure.png and molecules.png of one run."""
    found = [row for row in read_jsonl(run.folder / "samples.jsonl") if row["status"] == "ok"]
    metrics = read_jsonl(run.folder / "metrics.jsonl")
    write_molecules(run.folder / "molecules.csv", found)
    best = sorted(found, key=lambda row: -row["score"])[:SHOWN]
    last = metrics[-LAST:]
    summary: dict[str, Any] = {"stopped_by": reason, "calls": calls, "failures": failures}
    summary |= {name: sum(row[key] for row in last) / len(last) for key, name in CURVES.items()}
    summary["good"] = good_molecules(found, run.folder)
    summary["best"] = [{"smiles": row["smiles"], "score": row["score"]} for row in best]
    run.finish(summary)
    console.print(run_table([("run", summary)]))
    console.print(molecule_table(best))
    draw_curves(run.folder / "figure.png", [("", metrics)])
    if best:
        draw_molecules(run.folder / "molecules.png", best)
        run.say(f"pictures: {run.folder / 'figure.png'}, {run.folder / 'molecules.png'}")


def write_molecules(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Distinct molecules in the order of the oracle's calls: smiles, score, step, and each component's raw value."""
    names = sorted({name for row in rows for name in row["values"]})
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "score", "step", *names])
        for row in rows:
            writer.writerow([row["smiles"], row["score"], row["step"], *(row["values"].get(name) for name in names)])


def good_molecules(rows: Sequence[Mapping[str, Any]], folder: Path) -> int | None:
    """How many reach a constant transform.threshold.value; None where there is none."""
    threshold = OmegaConf.load(folder / "config.yaml").transform.threshold
    if threshold.value is None or threshold.kind != "constant":
        return None
    return sum(row["score"] >= threshold.value for row in rows)


def run_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """One row a run."""
    table = Table(title=f"Distinct molecules, and means over the last {LAST} steps", title_justify="left")
    table.add_column("run")
    for name in ("calls", "good", *CURVES.values()):
        table.add_column(name, justify="right")
    for name, row in rows:
        good = "-" if row["good"] is None else f"{row['good']:,}"
        table.add_row(name, f"{row['calls']:,}", good, *(f"{row[key]:.3f}" for key in CURVES.values()))
    return table


def molecule_table(best: Sequence[Mapping[str, Any]]) -> Table:
    names = sorted({name for row in best for name in row["values"]})
    table = Table(title="Best molecules", title_justify="left")
    table.add_column("score", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("SMILES", overflow="fold")
    for row in best:
        values = (f"{row['values'][name]:.3g}" if name in row["values"] else "-" for name in names)
        table.add_row(f"{row['score']:.3f}", *values, row["smiles"])
    return table


def draw_molecules(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The molecules with their scores, four in a line."""
    molecules = [Chem.MolFromSmiles(row["smiles"]) for row in rows]
    lines = -(-len(molecules) // 4)
    canvas = rdMolDraw2D.MolDraw2DCairo(1200, 240 * lines, 300, 240)
    canvas.DrawMolecules(molecules, legends=[f"{row['score']:.3f}" for row in rows])
    canvas.FinishDrawing()
    path.write_bytes(canvas.GetDrawingText())


def draw_curves(path: Path, runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """Rewards, and shares of the samples, over the steps."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name, metrics in runs:
        steps = [row["step"] + 1 for row in metrics]
        for axis, key in zip(axes, ("reward/raw", "valid", "scaffolds"), strict=True):
            axis.plot(steps, [row[key] for row in metrics], linewidth=1, label=name)
    titles = ("mean raw reward", "valid share", "distinct scaffolds among the valid")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel="step", title=title)
    if len(runs) > 1:
        axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report_sweep(runs: Sequence[Path], folder: Path) -> None:
    """The closing table and figure.png of a sweep, and its summaries in one file."""
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    names = run_names(runs)
    console.print(run_table(list(zip(names, summaries, strict=True))))
    write_json(folder / "summaries.json", dict(zip(names, summaries, strict=True)))
    draw_curves(
        folder / "figure.png",
        [(name, read_jsonl(run / "metrics.jsonl")) for name, run in zip(names, runs, strict=True)],
    )
    console.print(f"picture: {folder / 'figure.png'}", soft_wrap=True)


def run_names(runs: Sequence[Path]) -> list[str]:
    """What distinguishes each run of a sweep: the overrides that not all of them share."""
    overrides = [[str(one) for one in OmegaConf.load(run / "overrides.yaml")] for run in runs]
    common = set.intersection(*(set(some) for some in overrides))
    names = [", ".join(one.rpartition(".")[2] for one in some if one not in common) for some in overrides]
    return [name or f"run {number}" for number, name in enumerate(names)]
