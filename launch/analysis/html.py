"""report.html of `launch.collect`: one file, no network, nothing that a run wrote is taken as markup."""

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.analysis.artifacts import galleries_html
from launch.analysis.significance import Comparison

if TYPE_CHECKING:
    from launch.collect import CollectedRun, Row

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem } img { max-width: 100% }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th { cursor: pointer; border-bottom: 2px solid #888 } td.text, th.text { text-align: left }
.se { color: #777 } code, pre { font: 13px ui-monospace, monospace; background: #f4f4f4 }
pre { padding: .5rem; white-space: pre-wrap; overflow-wrap: anywhere } .failed { color: #a00 }
figure { margin: 0; text-align: center } figcaption { font-variant-numeric: tabular-nums } h3 { font-size: 1rem }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .5rem }
summary { cursor: pointer } .runs { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)) }
"""
SCRIPT = """
for (const head of document.querySelectorAll("table.sortable th")) head.addEventListener("click", () => {
  const table = head.closest("table"), column = head.cellIndex, up = head.dataset.up !== "1";
  const value = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (a, b) => {
    const x = value(a), y = value(b), d = x - y;
    return isNaN(d) ? x.localeCompare(y) : d;
  };
  const rows = [...table.tBodies[0].rows].sort((a, b) => up ? compare(a, b) : compare(b, a));
  head.dataset.up = up ? "1" : "0";
  table.tBodies[0].append(...rows);
});
"""


def write_report(
    path: Path,
    runs: "Sequence[CollectedRun]",
    rows: "Sequence[Row]",
    keys: Sequence[str],
    pictures: Sequence[Path],
    tests: Sequence[Comparison] = (),
    against: str = "",
) -> None:
    finished = [run for run in runs if run.state == "finished"]
    packages = escape(", ".join(sorted({run.package for run in runs})))
    parts = [
        f"<h1>{packages}: {len(finished)} of {len(runs)} runs finished</h1>",
        "<h2>Results</h2><p>Mean over seeds, with its bootstrap standard error. A column's head sorts by it.</p>",
        results(rows, keys),
        significance(tests, against),
        *(f"<h2>{title}</h2>{image(picture)}" for title, picture in zip(_titles(pictures), pictures, strict=True)),
        galleries_html([(row.label, [run.artifacts for run in row.runs]) for row in rows]),
        failures(runs),
        "<h2>Commands</h2><p>What made each row; the code and packages are below.</p>",
        *(f"<p>{escape(row.label)}</p><pre>{escape(row.command())}</pre>" for row in rows),
        run_pictures(finished),
        shared_configuration(finished),
        provenance(finished),
    ]
    page = "\n".join(parts)
    path.write_text(
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Report</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>\n{page}\n'
        f"<script>{SCRIPT}</script></body></html>\n",
        "utf-8",
    )


def _titles(pictures: Sequence[Path]) -> list[str]:
    names = {"pareto": "Reward against diversity", "curves": "Over the steps", "yield": "Yield"}
    return [names.get(picture.stem, escape(picture.stem)) for picture in pictures]


def results(rows: "Sequence[Row]", keys: Sequence[str]) -> str:
    varying = list(rows[0].varying) if rows else []
    head = [f'<th class="text">{escape(key.removesuffix(".name"))}</th>' for key in varying]
    head += ["<th>n</th>", *(f"<th>{escape(key)}</th>" for key in keys)]
    body = []
    for row in rows:
        cells = [f'<td class="text">{escape(str(value))}</td>' for value in row.varying.values()]
        cells.append(f"<td>{len(row.runs)}</td>")
        cells += [number_cell(*row.result(key), row.having(key)) for key in keys]
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="wide"><table class="sortable" id="results">{table}</table></div>'


def significance(tests: Sequence[Comparison], against: str) -> str:
    """Welch's t-test of every row against one; which side is the better one, the reader knows."""
    if not tests:
        return ""
    names = ("difference", "t", "degrees of freedom", "p (greater)", "p (less)")
    head = '<th class="text">result</th><th class="text">row</th>' + "".join(f"<th>{name}</th>" for name in names)
    body = "".join(
        f'<tr><td class="text">{escape(one.key)}</td><td class="text">{escape(one.label)}</td>'
        + "".join(
            number_cell(value, math.nan) for value in (one.difference, one.t, one.degrees, one.greater, one.less)
        )
        + "</tr>"
        for one in tests
    )
    table = f'<table class="sortable" id="tests"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    said = (
        f"Welch's t-test over seeds, one-sided, against {escape(against)}: p (greater) is the probability of such a "
        "difference or a larger one if the means were equal, p (less) that of such a one or a smaller. Results that "
        "not all runs of both rows have are left out."
    )
    return f'<h2>Against {escape(against)}</h2><p>{said}</p><div class="wide">{table}</div>'


def number_cell(value: float, error: float, having: str = "") -> str:
    if math.isnan(value):
        return '<td data-value="-1e999">-</td>'
    spread = "" if math.isnan(error) else f' <span class="se">± {error:.3g}</span>'
    note = f' <span class="se">({having})</span>' if having else ""
    return f'<td data-value="{value!r}">{value:.4g}{spread}{note}</td>'


def failures(runs: "Sequence[CollectedRun]") -> str:
    rows = [
        f'<tr><td class="text">{escape(run.folder.name)}</td><td class="text">{escape(" ".join(run.overrides))}</td>'
        f'<td class="text">{escape(run.state)}</td><td class="text">{escape(run.error)}</td></tr>'
        for run in runs
        if run.state != "finished"
    ]
    if not rows:
        return "<h2>Failures</h2><p>None.</p>"
    head = "".join(f'<th class="text">{name}</th>' for name in ("run", "overrides", "state", "error"))
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    title = f'<h2 class="failed">{len(rows)} runs did not finish</h2>'
    return f'{title}<div class="wide"><table id="failures">{table}</table></div>'


def run_pictures(runs: "Sequence[CollectedRun]") -> str:
    """Each run's own: figure.png, and what its package put into the folder `report`."""
    blocks = []
    for run in runs:
        found = [run.folder / "figure.png", *sorted((run.folder / "report").glob("*.png"))]
        images = "".join(image(picture) for picture in found if picture.exists())
        if images:
            blocks.append(f"<div><p>{escape(' '.join(run.overrides) or run.folder.name)}</p>{images}</div>")
    if not blocks:
        return ""
    pictures = f'<div class="runs">{"".join(blocks)}</div>'
    return f"<h2>Runs</h2><details><summary>{len(blocks)} pictures</summary>{pictures}</details>"


def image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{data}">'


def shared_configuration(runs: "Sequence[CollectedRun]") -> str:
    if not runs:
        return ""
    shared = {k: v for k, v in runs[0].config.items() if all(run.config.get(k) == v for run in runs)}
    return details("Configuration that all runs share", shared)


def provenance(runs: "Sequence[CollectedRun]") -> str:
    """Code, packages and machine, once for all runs that have the same."""
    texts: dict[str, list[str]] = {}
    for run in runs:
        known = {key: run.record.get(key) for key in ("code", "versions", "hardware")}
        texts.setdefault(json.dumps(known, sort_keys=True), []).append(run.folder.name)
    return "".join(
        details(f"Code and machine of runs {', '.join(names)}", json.loads(t)) for t, names in texts.items()
    )


def details(title: str, content: Any) -> str:
    text = escape(json.dumps(content, indent=1, ensure_ascii=False))
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"
