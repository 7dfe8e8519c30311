"""Tables and pictures of a run and of a sweep: best molecules, yield over oracle calls, rewards over steps."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from chem.figures import draw_molecules, draw_run, draw_sweep, molecule_label, molecule_svg
from chem.metrics import OB_COUNTS, ScoredMolecules, collect_molecules, screen_metrics, yield_curve
from chem.models.tokenizer import TOKEN
from core.mara import reaches
from launch.analysis.csv_cells import csv_cell
from launch.analysis.sweep_runs import fold_seeds, read_sweep_runs, write_summaries
from launch.runs.atomic import make_folder, replacing
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.run import Run
from launch.runs.run_folder import read_config, read_jsonl, write_json

BEST_MOLECULES = 12  # in the picture and in the table
BEST_ROUTES = 6  # in the picture
FAILURE_REASONS = 8  # in the table and in summary.json; rarer ones are counted together
LAST_STEPS = 10  # whose means are reported
CURVE_SPACING = 10  # oracle calls between two points of the yield curve
CURVES = {  # metric -> name in the summary and the table
    "reward/raw": "reward",
    "valid": "valid",
    "unique": "distinct",
    "scaffolds": "scaffolds",
    "repeats": "repeats",
}


def report_run(
    run: Run, calls: int, failures: int, reason: str, stages: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Write molecules.csv, summary.json and the pictures of a run, and print its tables.

    Args:
        run: the run, with its metrics and samples logged.
        calls: distinct molecules scored.
        failures: oracle calls that failed.
        reason: why the run stopped.
        stages: for a run with stages, how many steps and calls each took and why it ended. Scores of different
            oracles cannot be compared, so what is reported of molecules is that of the last stage. The molecules of
            earlier ones are in files of their own.
    """
    rows = read_jsonl(run.folder / "samples.jsonl")
    metrics = read_jsonl(run.folder / "metrics.jsonl")
    last_stage = max((row.get("stage", 1) for row in metrics), default=1)
    for stage in range(1, last_stage):
        earlier = distinct_molecules(row for row in rows if row["stage"] == stage)
        write_molecules(run.folder / f"molecules_stage_{stage}.csv", earlier)
    samples = distinct_molecules(row for row in rows if row.get("stage", 1) == last_stage)
    scored = [row for row in samples if row["status"] == "ok"]
    write_molecules(run.folder / "molecules.csv", samples)
    best = sorted(scored, key=lambda row: -row["score"])[:BEST_MOLECULES]
    last = [row for row in metrics if row.get("stage", 1) == last_stage][-LAST_STEPS:]
    summary: dict[str, Any] = {"stopped_by": reason, "calls": calls, "failures": failures}
    if stages is not None:
        summary["stages"] = list(stages)
    summary |= {name: mean_of_known([row[key] for row in last]) for key, name in CURVES.items()}
    if stages is None and metrics:
        summary["base"] = {name: metrics[0][key] for key, name in CURVES.items()}
    config = OmegaConf.load(run.folder / "config.yaml")
    summary["good"] = good_molecules(scored, stage_threshold(config, last_stage))
    molecules = collect_molecules([row["smiles"] for row in samples], [row["score"] for row in samples])
    summary |= screen_metrics(molecules, config.screens)
    summary["best"] = [{"smiles": row["smiles"], "score": row["score"]} for row in best]
    reasons = failure_reasons(samples)
    if reasons:
        summary["failed"] = reasons
    run.finish(summary)
    if reasons:
        console.print(failure_table(reasons))
    if best:
        console.print(run_table([("run", summary)]))
        console.print(screen_table([("run", summary)], config.screens))
        console.print(molecule_table(best))
    else:
        run.warn(no_molecule_text(metrics, len(samples)))
    write_artifacts(run.folder / "report", molecules, config.screens, best)
    draw_run(run.folder, metrics, scores_by_call(rows))
    if best:
        draw_molecules(run.folder / "molecules.png", best)
    if routes := best_routes(scored):
        from chem.route_pictures import draw_routes  # loads syntheseus, which the oracle has used

        draw_routes(run.folder / "routes.png", routes)


def distinct_molecules(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each molecule once, at the place of its first oracle call, with the answer that gave it a score if one did.

    Args:
        rows: lines of samples.jsonl. A molecule whose first answer was a failure may have another line.
    """
    distinct: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["score"] is not None or row["smiles"] not in distinct:
            distinct[row["smiles"]] = row
    return list(distinct.values())


def failure_reasons(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Number of molecules without a score for each reason, the most frequent first.

    Numbers in messages are replaced by #, since they often differ from molecule to molecule, and the rarest reasons
    are counted together.
    """
    counts = Counter(
        re.sub(r"\d+(\.\d+)?", "#", f"{row['status']}: {row.get('message') or 'no message'}")
        for row in rows
        if row["score"] is None and row["status"] != "seed"
    )
    reasons = dict(counts.most_common(FAILURE_REASONS))
    others = counts.total() - sum(reasons.values())
    return reasons | ({"other reasons": others} if others else {})


def failure_table(reasons: Mapping[str, int]) -> FittedTable:
    """Table of the reasons for which molecules have no score."""
    table = FittedTable("Molecules without a score")
    table.add_column("molecules")
    table.add_column("reason", "label")
    for reason, count in reasons.items():
        table.add_row(f"{count:,}", reason)
    return table


def no_molecule_text(metrics: Sequence[Mapping[str, Any]], failed: int) -> str:
    """Why a run has no scored molecule.

    Args:
        metrics: lines of metrics.jsonl.
        failed: molecules that the oracle was asked about.
    """
    if failed:
        return f"no molecule has a score: the oracle failed for all of the {failed:,} that it was asked about"
    steps = f"{len(metrics):,} step{'s' if len(metrics) > 1 else ''}"
    return (
        f"no string that was sampled in {steps} is a molecule, so there is nothing to report; use another prior, or "
        "a lower learning rate if this one does sample molecules"
    )


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def write_molecules(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV of distinct molecules: smiles, score, step, status, message and the raw value of each component.

    A molecule without a score has an empty cell there, and its status and message say why: it was an oracle call too.

    Args:
        path: the CSV file.
        rows: lines of samples.jsonl, in the order of the oracle calls.
    """
    names = sorted({name for row in rows for name in row["values"]})
    columns = ["smiles", "score", "step", "status", "message"]
    with replacing(path) as file, file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(map(csv_cell, [*columns, *names]))
        for row in rows:
            values = (row["values"].get(name) for name in names)
            writer.writerow(map(csv_cell, [*(row.get(name) for name in columns), *values]))


def stage_threshold(config: Any, stage: int) -> Any:
    """`transform.threshold` of a stage, which may have a value of its own.

    Args:
        config: the configuration of a run, as in config.yaml.
        stage: its number, from 1.
    """
    threshold = config.transform.threshold
    value = config.stages[stage - 1].get("threshold") if config.get("stages") else None
    return threshold if value is None else OmegaConf.merge(threshold, {"value": value})


def good_molecules(rows: Sequence[Mapping[str, Any]], threshold: Any) -> int | None:
    """Number of molecules that reach a constant `transform.threshold`; None without a constant threshold."""
    if threshold.value is None or threshold.kind != "constant":
        return None
    return int(reaches([row["score"] for row in rows], threshold.value).sum())


def run_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> FittedTable:
    """Table with one row per run, from (name, summary) pairs."""
    table = FittedTable(f"Distinct molecules, and means over the last {LAST_STEPS} steps")
    table.add_column("run", "label")
    for name in ("calls", "good", *CURVES.values()):
        table.add_column(name)
    for name, row in rows:
        good = "-" if row["good"] is None else f"{row['good']:,}"
        table.add_row(name, f"{row['calls']:,}", good, *(format_number(row[key]) for key in CURVES.values()))
    return table


SCREEN_LEGEND = (
    f"{', '.join(f'OB{n}' for n in OB_COUNTS)}: oracle calls until that many are found; IntDiv1: internal diversity; "
    "#Circles: how many differ from each other"
)


def screen_table(rows: Sequence[tuple[str, Mapping[str, Any]]], screens: Sequence[float]) -> FittedTable:
    """Table with one row per run and screen, with the columns of the paper's Table 2."""
    columns = {"yield": "yield", **{f"OB{n}": f"OB{n}" for n in OB_COUNTS}}
    columns |= {"int_div1": "IntDiv1", "circles": "#Circles", "scaffolds": "scaffolds"}
    table = FittedTable("Molecules with a score at or above the screen", SCREEN_LEGEND)
    for header in ("run", "screen"):
        table.add_column(header, "label")
    for header in columns.values():
        table.add_column(header)
    for run, row in rows:
        for screen in screens:
            values = {name: row[f"{screen:g}/{name}"] for name in columns}
            cells = [
                "not reached" if value is None and name.startswith("OB") else format_number(value)
                for name, value in values.items()
            ]
            table.add_row(run, f"{screen:g}", *cells)
    return table


def format_number(value: float | None) -> str:
    """A cell of a table: a count, a number with three decimals, or - for None."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def write_artifacts(
    folder: Path, molecules: ScoredMolecules, screens: Sequence[float], best: Sequence[Mapping[str, Any]]
) -> None:
    """Write what `launch.collect` puts into its report: pictures of the best molecules and the yield curve.

    Args:
        folder: made if it is missing.
        molecules: all molecules of the run.
        screens: scores from which a molecule is good; one curve each.
        best: lines of samples.jsonl.
    """
    make_folder(folder)
    items = [
        {
            "name": row["smiles"],
            "value": row["score"],
            "caption": molecule_label(row),
            "svg": molecule_svg(row["smiles"]),
        }
        for row in best
        if row["score"] > 0
    ]
    write_json(folder / "molecules.gallery.json", {"title": "Best distinct molecules", "items": items})
    calls = sorted({*range(0, len(molecules.smiles), CURVE_SPACING), len(molecules.smiles)})
    series = {}
    for screen in screens:
        counts = [0, *yield_curve(molecules.good(screen)).tolist()]
        series[f"molecules with a score of {screen:g} or more"] = [calls, [counts[call] for call in calls]]
    write_json(folder / "yield.curves.json", {"title": "Yield", "x": "oracle calls", "series": series})


def molecule_table(best: Sequence[Mapping[str, Any]]) -> FittedTable:
    """Table of the best molecules with the raw value of each component."""
    names = sorted({name for row in best for name in row["values"]})
    table = FittedTable("Best molecules")
    for name in ("score", *names):
        table.add_column(name)
    table.add_column("SMILES", "label", TOKEN)
    for row in best:
        values = (f"{row['values'][name]:.3g}" if name in row["values"] else "-" for name in names)
        table.add_row(f"{row['score']:.3f}", *values, row["smiles"])
    return table


def best_routes(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """The best molecules of which the oracle kept a route, as (line of samples.jsonl, route), best first."""
    routes = ((row, find_route(row)) for row in sorted(rows, key=lambda row: -row["score"]))
    return list(islice(((row, route) for row, route in routes if route is not None), BEST_ROUTES))


def find_route(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The route (`chem.oracles.synthesis.routes`) among the details of a molecule, None if there is none."""
    for details in row["details"].values():
        if isinstance(details, dict) and ("reactants" in details or list(details) == ["smiles"]):
            return details
    return None


def scores_by_call(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Score of each oracle call, NaN where there is none; the calls of one stage after those of another.

    Args:
        rows: lines of samples.jsonl.
    """
    stages = sorted({row.get("stage", 1) for row in rows})
    calls = (distinct_molecules(row for row in rows if row.get("stage", 1) == stage) for stage in stages)
    return [math.nan if row["score"] is None else row["score"] for stage in calls for row in stage]


def report_sweep(folders: Sequence[Path], sweep: Path) -> None:
    """Write summaries.json and figure.png of a sweep, and print its tables."""
    runs = read_sweep_runs(folders, without_key=("experiment",))
    summaries = [(run.name, run.summary) for run in runs]
    console.print(run_table(summaries))
    screens = [read_config(run.folder)["screens"] for run in runs]
    if all(other == screens[0] for other in screens):
        console.print(screen_table(summaries, screens[0]))
    write_summaries(sweep, runs)
    draw_sweep(fold_seeds(runs), sweep / "figure.png")
