"""Write report.html for `launch.collect`: one file that loads nothing and escapes all text of the runs."""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader

from conf.schema.base import ConfigError
from launch.analysis.artifacts import Item, best_items
from launch.analysis.base_model import BaseModel, base_model, difference_to_base
from launch.analysis.finding import LEVEL, find
from launch.analysis.labels import metric_label
from launch.analysis.plots import row_labels, row_styles
from launch.analysis.samples import StepSamples, read_samples
from launch.analysis.significance import Comparison
from launch.analysis.table import NESTED, CollectedRun, Row
from launch.analysis.uncertainty import format_mean
from launch.runs.run_folder import write_text

TITLES = {"pareto": "Reward against diversity", "curves": "Over the steps", "yield": "Yield"}  # by file stem
MAX_COLUMNS = 7  # of the table of results, with the configuration and the number of its seeds
MAX_EXPERIMENTS = 3  # in the title


class Cell(NamedTuple):
    """A result in a table.

    Attributes:
        value: what it is sorted by.
        mean: text.
        error: of the mean, text; empty if there is none.
        difference: to the base, text; empty if there is none.
        coverage: of the seeds, as in `3 of 5`; empty if all have the result.
    """

    value: float
    mean: str
    error: str = ""
    difference: str = ""
    coverage: str = ""


class ReadRow(NamedTuple):
    """The samples of a configuration, of its first run. error: why they cannot be read."""

    number: int
    seed: Any
    steps: list[StepSamples]
    error: str


def write_report(
    path: Path,
    runs: Sequence[CollectedRun],
    rows: Sequence[Row],
    keys: Sequence[str],
    pictures: Sequence[Path],
    tests: Sequence[Comparison] = (),
    against: str = "",
    shown: Sequence[str] = (),
    axes: Sequence[str] = (),
) -> None:
    """Render report.html.j2.

    Args:
        path: the file to write.
        runs: all runs.
        rows: one for each configuration of the finished runs.
        keys: all results.
        pictures: PNG files, with an SVG file beside each.
        tests: results of the t-tests.
        against: the row that the others are tested against, as the user typed it.
        shown: the results in the first table, the most important first; as many are shown as it has columns. By
            default a selection.
        axes: the two results of which the finding speaks, diversity and reward.
    """
    environment = Environment(loader=PackageLoader("launch.analysis", "."), autoescape=True)
    filters: dict[str, Callable[..., str]] = {
        "pyrepr": repr,
        "base64": lambda text: base64.b64encode(text.encode()).decode(),
        "pretty": lambda content: json.dumps(content, indent=1, ensure_ascii=False),
        "metric": metric_label,
        "number": format_number,
    }
    environment.filters |= filters
    finished = [run for run in runs if run.state == "finished"]
    labels, base = row_labels(rows), base_model(rows)
    columns = list(shown)[: MAX_COLUMNS - 2] or default_columns(rows, keys, axes)
    script = report_script()
    page = environment.get_template("report.html.j2").render(
        title=report_title(runs),
        dates=report_dates(runs),
        finding=find(rows, labels, axes),
        level=LEVEL,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        runs=runs,
        finished=finished,
        failures=[run for run in runs if run.state not in ("finished", "repeated")],
        repeated=[run for run in runs if run.state == "repeated"],
        rows=rows,
        labels=labels,
        by_label={row.label: label for row, label in zip(rows, labels, strict=True)},
        colours=[style.colour for style in row_styles(rows)],
        columns=columns,
        keys=[key for key in keys if not key.startswith("base.")],
        base=base_cells(base, columns),
        cell=result_cell,
        tests=tests,
        against=against,
        pictures=[embedded_picture(picture) for picture in pictures],
        samples=samples_to_read(rows),
        galleries=best_galleries(rows),
        run_pictures=run_pictures(finished),
        shared=shared_config(finished),
        provenance=distinct_records(finished),
    )
    write_text(path, f"{page}\n")


def default_columns(rows: Sequence[Row], keys: Sequence[str], axes: Sequence[str]) -> list[str]:
    """The results in the first table: reward and diversity, then others that differ between the runs.

    Of the others, those come first that were measured of the base as well.
    """
    runs = [run for row in rows for run in row.runs]
    measured = {key for run in runs for key in run.results}
    others = [
        key
        for key in keys
        if key not in axes and not NESTED.match(key)
        if len({run.results[key] for run in runs if key in run.results}) > 1
    ]
    others.sort(key=lambda key: f"base.{key}" not in measured)
    return [*reversed(axes), *others][: MAX_COLUMNS - 2]


def report_script() -> str:
    """The script of the page. Its hash is in the page's content security policy, so that no other script runs."""
    return files("launch.analysis").joinpath("report.js").read_text("utf-8")


def report_title(runs: Sequence[CollectedRun]) -> str:
    """The package and the experiments of the runs, as in `llm: one_two`."""
    packages = ", ".join(sorted({run.package for run in runs}))
    typed = (o.lstrip("+").partition("=")[2] for run in runs for o in run.overrides if o.startswith("experiment="))
    experiments = list(dict.fromkeys(typed))
    named = ", ".join(experiments[:MAX_EXPERIMENTS])
    others = len(experiments) - MAX_EXPERIMENTS
    named += f" and {others} more" if others > 0 else ""
    return f"{packages}: {named}" if named else packages


def report_dates(runs: Sequence[CollectedRun]) -> str:
    """The days between the first start and the last end of the runs; empty if no run recorded them."""
    times = [run.record.get(key) for run in runs for key in ("started", "ended")]
    days = sorted({day for day in map(_day, times) if day})
    ends = dict.fromkeys((*days[:1], *days[-1:]))
    return " to ".join(f"{int(day[8:])} {datetime.fromisoformat(day):%B %Y}" for day in ends)


def _day(time: Any) -> str:
    """The day of a recorded time, as in 2026-11-29; empty if it is no time."""
    try:
        return datetime.fromisoformat(str(time)).date().isoformat()
    except ValueError:
        return ""


def result_cell(row: Row, key: str) -> Cell:
    """A result of a configuration, with its difference to the base."""
    value, error = row.result(key)
    difference = difference_to_base(row, key)
    mean, _, error_text = format_mean(value, error).partition(" ± ")
    return Cell(value, mean, error_text, format_difference(difference, mean), row.coverage(key))


def base_cells(base: BaseModel, keys: Sequence[str]) -> list[Cell]:
    """The results of the base; empty if the configurations do not share one, or it has none of them."""
    results = [base.result(key) for key in keys] if base.shared else []
    if all(math.isnan(value) for value, _ in results):
        return []
    texts = (format_mean(*result).partition(" ± ") for result in results)
    return [Cell(value, mean, error) for (value, _), (mean, _, error) in zip(results, texts, strict=True)]


def format_number(value: float) -> str:
    """A number with four significant digits; - if it is undefined."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def format_difference(difference: float, mean: str) -> str:
    """A difference with its sign and as many decimals as a mean has; empty if it is undefined."""
    if math.isnan(difference):
        return ""
    if "e" in mean:
        return f"{difference:+.4g}"
    return f"{difference:+.{len(mean.partition('.')[2])}f}"


def embedded_picture(path: Path) -> dict[str, str]:
    """A picture for the template: name, title and its data URI, that of the SVG file beside it if there is one."""
    vector = path.with_suffix(".svg")
    kind, source = ("svg+xml", vector) if vector.exists() else ("png", path)
    data = base64.b64encode(source.read_bytes()).decode()
    return {"name": path.stem, "title": TITLES.get(path.stem, path.stem), "data": f"data:image/{kind};base64,{data}"}


def samples_to_read(rows: Sequence[Row]) -> list[ReadRow]:
    """Samples of the first run of each configuration, where there are any."""
    blocks = []
    for number, row in enumerate(rows):
        run = row.runs[0]
        try:
            block = ReadRow(number, run.config.get("seed"), read_samples(run.folder), "")
        except ConfigError as error:
            block = ReadRow(number, run.config.get("seed"), [], str(error))
        if block.steps or block.error:
            blocks.append(block)
    return blocks


def best_galleries(rows: Sequence[Row]) -> dict[str, list[tuple[str, list[Item]]]]:
    """For each gallery's title, the label and the best items of each configuration."""
    labels = row_labels(rows)
    titles = dict.fromkeys(title for row in rows for run in row.runs for title in run.artifacts.galleries)
    galleries: dict[str, list[tuple[str, list[Item]]]] = {}
    for title in titles:
        items = [
            (label, best_items([run.artifacts.galleries.get(title, []) for run in row.runs]))
            for row, label in zip(rows, labels, strict=True)
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
