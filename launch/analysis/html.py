"""Write report.html for `launch.collect`: one file that loads nothing and escapes all text of the runs."""

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from launch.analysis.artifacts import Item, best_items
from launch.analysis.significance import Comparison
from launch.analysis.table import CollectedRun, Row
from launch.runs.run_folder import write_text

TITLES = {"pareto": "Reward against diversity", "curves": "Over the steps", "yield": "Yield"}  # by file stem


def write_report(
    path: Path,
    runs: Sequence[CollectedRun],
    rows: Sequence[Row],
    keys: Sequence[str],
    pictures: Sequence[Path],
    tests: Sequence[Comparison] = (),
    against: str = "",
) -> None:
    """Render report.html.j2.

    Args:
        path: the file to write.
        runs: all runs.
        rows: one for each configuration of the finished runs.
        keys: the results to show.
        pictures: PNG files.
        tests: results of the t-tests.
        against: the row that the others are tested against, as the user typed it.
    """
    environment = Environment(loader=PackageLoader("launch.analysis", "."), autoescape=True)
    environment.filters |= {
        "pyrepr": repr,
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
        "pretty": lambda content: json.dumps(content, indent=1, ensure_ascii=False),
    }
    finished = [run for run in runs if run.state == "finished"]
    page = environment.get_template("report.html.j2").render(
        packages=", ".join(sorted({run.package for run in runs})),
        runs=runs,
        finished=finished,
        failures=[run for run in runs if run.state not in ("finished", "repeated")],
        repeated=[run for run in runs if run.state == "repeated"],
        rows=rows,
        varying=list(rows[0].varying) if rows else [],
        keys=keys,
        tests=tests,
        against=against,
        nan=math.nan,
        pictures=[embedded_picture(picture) for picture in pictures],
        galleries=best_galleries(rows),
        run_pictures=run_pictures(finished),
        shared=shared_config(finished),
        provenance=distinct_records(finished),
    )
    write_text(path, f"{page}\n")


def embedded_picture(path: Path) -> dict[str, str]:
    """A PNG file for the template: name, title and base64 data."""
    title = TITLES.get(path.stem, path.stem)
    return {"name": path.stem, "title": title, "data": base64.b64encode(path.read_bytes()).decode()}


def best_galleries(rows: Sequence[Row]) -> dict[str, list[tuple[str, list[Item]]]]:
    """For each gallery's title, the label and the best items of each configuration."""
    titles = dict.fromkeys(title for row in rows for run in row.runs for title in run.artifacts.galleries)
    galleries: dict[str, list[tuple[str, list[Item]]]] = {}
    for title in titles:
        items = [
            (row.label, best_items([run.artifacts.galleries.get(title, []) for run in row.runs])) for row in rows
        ]
        galleries[title] = [(label, best) for label, best in items if best]
    return galleries


def run_pictures(runs: Sequence[CollectedRun]) -> list[tuple[str, list[dict[str, str]]]]:
    """The label of each run with its own pictures: figure.png, and the PNG files in its folder `report`."""
    blocks = []
    for run in runs:
        paths = [run.folder / "figure.png", *sorted((run.folder / "report").glob("*.png"))]
        images = [embedded_picture(path) for path in paths if path.exists()]
        if images:
            blocks.append((" ".join(run.overrides) or run.folder.name, images))
    return blocks


def shared_config(runs: Sequence[CollectedRun]) -> dict[str, Any]:
    """The keys of the configuration whose value is the same in all runs."""
    first = runs[0].config if runs else {}
    return {key: value for key, value in first.items() if all(run.config.get(key) == value for run in runs)}


def distinct_records(runs: Sequence[CollectedRun]) -> list[tuple[str, Any]]:
    """The distinct records of code, packages and hardware, each with the names of the runs that share it."""
    names: dict[str, list[str]] = {}
    for run in runs:
        record = {key: run.record.get(key) for key in ("code", "versions", "hardware")}
        names.setdefault(json.dumps(record, sort_keys=True), []).append(run.folder.name)
    return [(", ".join(folders), json.loads(text)) for text, folders in names.items()]
