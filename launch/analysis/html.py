"""report.html of `launch.collect`: one file without network access, in which no run's text is taken as markup."""

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

TITLES = {"pareto": "Reward against diversity", "curves": "Over the steps", "yield": "Yield"}  # of pictures


def write_report(
    path: Path,
    runs: Sequence[CollectedRun],
    rows: Sequence[Row],
    keys: Sequence[str],
    pictures: Sequence[Path],
    tests: Sequence[Comparison] = (),
    against: str = "",
) -> None:
    """Fill report.html.j2."""
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
        failures=[run for run in runs if run.state != "finished"],
        rows=rows,
        varying=list(rows[0].varying) if rows else [],
        keys=keys,
        tests=tests,
        against=against,
        nan=math.nan,
        pictures=[image(picture) for picture in pictures],
        galleries=galleries(rows),
        run_pictures=run_pictures(finished),
        shared=shared_config(finished),
        provenance=provenance(finished),
    )
    path.write_text(f"{page}\n", "utf-8")


def image(path: Path) -> dict[str, str]:
    title = TITLES.get(path.stem, path.stem)
    return {"name": path.stem, "title": title, "data": base64.b64encode(path.read_bytes()).decode()}


def galleries(rows: Sequence[Row]) -> dict[str, list[tuple[str, list[Item]]]]:
    """For each gallery's title the best items of each configuration, with its label."""
    titles = dict.fromkeys(title for row in rows for run in row.runs for title in run.artifacts.galleries)
    found: dict[str, list[tuple[str, list[Item]]]] = {}
    for title in titles:
        items = [
            (row.label, best_items([run.artifacts.galleries.get(title, []) for run in row.runs])) for row in rows
        ]
        found[title] = [(label, best) for label, best in items if best]
    return found


def run_pictures(runs: Sequence[CollectedRun]) -> list[tuple[str, list[dict[str, str]]]]:
    """Each run's own pictures: figure.png, and those that its package put into the folder `report`."""
    blocks = []
    for run in runs:
        paths = [run.folder / "figure.png", *sorted((run.folder / "report").glob("*.png"))]
        images = [image(path) for path in paths if path.exists()]
        if images:
            blocks.append((" ".join(run.overrides) or run.folder.name, images))
    return blocks


def shared_config(runs: Sequence[CollectedRun]) -> dict[str, Any]:
    """The keys of the configuration that have one value in all runs."""
    first = runs[0].config if runs else {}
    return {key: value for key, value in first.items() if all(run.config.get(key) == value for run in runs)}


def provenance(runs: Sequence[CollectedRun]) -> list[tuple[str, Any]]:
    """Code, packages and machine, once for all runs that have the same, with the names of those runs."""
    names: dict[str, list[str]] = {}
    for run in runs:
        known = {key: run.record.get(key) for key in ("code", "versions", "hardware")}
        names.setdefault(json.dumps(known, sort_keys=True), []).append(run.folder.name)
    return [(", ".join(folders), json.loads(text)) for text, folders in names.items()]
