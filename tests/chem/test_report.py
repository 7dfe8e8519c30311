"""The report of a run and of a sweep, from samples and metrics written by hand."""

import json
import math
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from chem.csv_metrics import read_scored_file
from chem.metrics import collect_molecules, run_metrics
from chem.report import (
    distinct_molecules,
    failure_reasons,
    format_number,
    good_molecules,
    report_run,
    report_sweep,
    run_table,
    scores_by_call,
    screen_table,
    write_molecules,
)
from launch.runs.run_folder import read_json

SAMPLES = [
    {"step": 0, "smiles": "CCO", "score": 0.5, "status": "ok", "values": {"qed": 0.4, "weight": 46.0}, "details": {}},
    {"step": 0, "smiles": "CCN", "score": None, "status": "failed", "values": {}, "details": {}, "message": "no"},
    {"step": 1, "smiles": "c1ccccc1", "score": 0.9, "status": "ok", "values": {"qed": 0.8}, "details": {}},
    {"step": 1, "smiles": "CCC", "score": 0.0, "status": "ok", "values": {"qed": 0.1}, "details": {}},
]
SHARES = {"valid": 1.0, "unique": 0.5, "scaffolds": 0.25, "repeats": 0.0}
CONFIG = {"screens": [0.5], "transform": {"threshold": {"kind": "constant", "value": 0.6}}}


def metrics_rows(count):
    return [{"step": step, "reward/raw": step / count, "oracle/calls": 2 * step, **SHARES} for step in range(count)]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def cells(table):
    columns = [list(column.cells) for column in table.columns]
    return [
        dict(zip([column.header for column in table.columns], row, strict=True)) for row in zip(*columns, strict=True)
    ]


@pytest.fixture
def run(tmp_path):
    """A stand-in for `Run` with the files that a run has written by its end."""
    write_lines(tmp_path / "samples.jsonl", SAMPLES)
    write_lines(tmp_path / "metrics.jsonl", metrics_rows(20))
    OmegaConf.save(CONFIG, tmp_path / "config.yaml")
    run = SimpleNamespace(folder=tmp_path, summary=None, lines=[])
    run.finish = lambda summary: setattr(run, "summary", summary)
    run.info = run.warn = run.lines.append
    return run


def test_the_files_of_a_run(run):
    report_run(run, calls=4, failures=1, reason="budget")
    summary = run.summary
    assert (summary["stopped_by"], summary["calls"], summary["failures"], summary["good"]) == ("budget", 4, 1, 1)
    assert summary["reward"] == pytest.approx(sum(range(10, 20)) / 20 / 10)  # the last ten steps, not all 20
    assert (summary["distinct"], summary["scaffolds"], summary["repeats"]) == (0.5, 0.25, 0.0)
    assert (summary["0.5/yield"], summary["0.5/OB1"], summary["0.5/OB10"]) == (2, 1, None)
    assert [row["smiles"] for row in summary["best"]] == ["c1ccccc1", "CCO", "CCC"]
    lines = (run.folder / "molecules.csv").read_text().splitlines()
    assert lines == [
        "smiles,score,step,status,message,qed,weight",
        "CCO,0.5,0,ok,,0.4,46.0",
        "CCN,,0,failed,no,,",
        "c1ccccc1,0.9,1,ok,,0.8,",
        "CCC,0.0,1,ok,,0.1,",
    ]
    gallery = read_json(run.folder / "report" / "molecules.gallery.json")
    assert [item["name"] for item in gallery["items"]] == ["c1ccccc1", "CCO"]  # no molecule with score 0
    assert all("<svg" in item["svg"] for item in gallery["items"])
    curve = read_json(run.folder / "report" / "yield.curves.json")
    assert curve["series"] == {"molecules with a score of 0.5 or more": [[0, 4], [0, 2]]}
    for name in ("figure.png", "molecules.png"):
        assert (run.folder / name).stat().st_size > 3000
    assert run.lines == []


def test_a_run_with_routes_draws_them(run):
    pytest.importorskip("syntheseus")
    route = {"smiles": "CCO", "reaction": "reduction", "reactants": [{"smiles": "CC=O"}]}
    write_lines(run.folder / "samples.jsonl", [SAMPLES[0] | {"details": {"synthesis": route}}, *SAMPLES[1:]])
    report_run(run, calls=4, failures=1, reason="budget")
    assert (run.folder / "routes.png").stat().st_size > 3000


def test_the_scores_over_the_calls_are_those_of_each_stage_in_turn():
    """A molecule of two stages is two calls; one that failed first has one, at its place."""
    rows = [{**row, "stage": stage} for stage in (1, 2) for row in SAMPLES]
    rows.append({**SAMPLES[1], "stage": 2, "score": 0.7, "status": "ok"})
    scores = scores_by_call(rows)
    assert scores == pytest.approx([0.5, math.nan, 0.9, 0.0, 0.5, 0.7, 0.9, 0.0], nan_ok=True)
    assert len(scores_by_call(SAMPLES)) == 4  # control: without stages


def test_a_run_without_a_scored_molecule(run, capsys):
    write_lines(run.folder / "samples.jsonl", SAMPLES[1:2])
    report_run(run, calls=1, failures=1, reason="steps")
    assert (run.summary["best"], run.summary["good"], run.summary["0.5/circles"]) == ([], 0, None)
    assert not (run.folder / "molecules.png").exists()
    assert run.lines == ["no molecule has a score: the oracle failed for all of the 1 that it was asked about"]
    printed = capsys.readouterr().out
    assert "failed: no" in printed  # the reason
    assert "Best molecules" not in printed
    write_lines(run.folder / "samples.jsonl", [])
    report_run(run, calls=0, failures=0, reason="steps")
    assert run.lines[-1].startswith("no string that was sampled in 20 steps is a molecule")
    assert capsys.readouterr().out == ""  # no empty table


def test_the_reasons_of_failures_are_counted():
    def failed(message, status="failed"):
        return {"smiles": "C", "score": None, "status": status, "message": message}

    rows = [failed(f"docking: no conformer after {n} tries") for n in range(5)] + [failed("no answer", "timed_out")]
    rows += [{"smiles": "N", "score": 0.0, "status": "invalid", "message": "300 heavy atoms"}]  # it has a score
    assert failure_reasons(rows) == {"failed: docking: no conformer after # tries": 5, "timed_out: no answer": 1}
    many = failure_reasons([*rows, *(failed(chr(97 + n)) for n in range(20))])
    assert len(many) == 9
    assert sum(many.values()) == 26
    assert failure_reasons([{"score": None, "status": "failed"}]) == {"failed: no message": 1}  # of an older version


def test_a_molecule_that_failed_first_keeps_its_place():
    rows = [
        {"smiles": "CCN", "score": None, "status": "failed"},
        {"smiles": "CCO", "score": 0.5, "status": "ok"},
        {"smiles": "CCN", "score": 0.7, "status": "ok"},
    ]
    assert [(row["smiles"], row["score"]) for row in distinct_molecules(rows)] == [("CCN", 0.7), ("CCO", 0.5)]


@pytest.mark.parametrize("every", [3, None])
def test_the_molecules_of_a_run_have_the_metrics_of_the_run(run, tmp_path, every):
    """Every third call failed. Without those rows, as in files of earlier versions, the oracle burden is too low."""
    rows = [
        {"step": n, "smiles": f"{'C' * (n % 20 + 1)}{'O' * (n // 20)}", "score": n / 400, "status": "ok"}
        for n in range(400)
    ]
    rows = [{**row, "values": {}, "details": {}} for row in rows]
    for row in rows[::every] if every else []:
        row |= {"score": None, "status": "failed", "message": "it, \n 'failed'"}
    write_lines(tmp_path / "samples.jsonl", rows)
    report_run(run, calls=400, failures=0, reason="budget")

    def evaluate(path):
        molecules = collect_molecules(*read_scored_file(path, "smiles", "score"))
        return run_metrics(molecules, [0.5])

    keys = ("0.5/yield", "0.5/OB1", "0.5/OB10", "0.5/OB100", "0.5/int_div1", "0.5/circles", "0.5/scaffolds", "calls")
    row = evaluate(tmp_path / "molecules.csv")
    assert {key: row[key] for key in keys} == {key: run.summary[key] for key in keys}
    assert row["unscored"] == (134 if every else 0)
    old = [f"{row['smiles']},{row['score']},{row['step']}" for row in rows if row["score"] is not None]
    (tmp_path / "old.csv").write_text("\n".join(["smiles,score,step", *old]))
    old_row = evaluate(tmp_path / "old.csv")
    assert old_row["0.5/yield"] == run.summary["0.5/yield"]
    assert (old_row["0.5/OB100"] < run.summary["0.5/OB100"]) == bool(every)  # control


def test_good_molecules_need_a_constant_threshold():
    rows = [{"score": score} for score in (0.5, 0.6, 0.7)]
    assert good_molecules(rows, SimpleNamespace(kind="constant", value=0.6)) == 2
    assert good_molecules(rows, SimpleNamespace(kind="quantile", value=0.6)) is None
    assert good_molecules(rows, SimpleNamespace(kind="constant", value=None)) is None


def test_the_tables(run):
    report_run(run, calls=1234, failures=0, reason="steps")
    assert cells(run_table([("a", run.summary), ("b", run.summary | {"good": None})])) == [
        {"run": name, "calls": "1,234", "good": good, "reward": "0.725", "valid": "1.000", "distinct": "0.500",
         "scaffolds": "0.250", "repeats": "0.000"}
        for name, good in (("a", "1"), ("b", "-"))
    ]  # fmt: skip
    (row,) = cells(screen_table([("a", run.summary)], [0.5]))
    assert (row["screen"], row["yield"], row["OB1"], row["OB100"]) == ("0.5", "2", "1", "not reached")
    assert [format_number(value) for value in (None, 1234, 0.5)] == ["-", "1,234", "0.500"]


def test_a_csv_of_no_molecules_has_its_header(tmp_path):
    write_molecules(tmp_path / "molecules.csv", [])
    assert (tmp_path / "molecules.csv").read_text().split() == ["smiles,score,step,status,message"]


def test_a_sweep_has_one_summary_per_run(tmp_path, run, capsys):
    report_run(run, calls=4, failures=1, reason="budget")
    folders = []
    for number in range(2):
        folder = tmp_path / "sweep" / str(number)
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(run.summary | {"calls": 7 + number}))
        write_lines(folder / "metrics.jsonl", metrics_rows(5))
        OmegaConf.save(CONFIG | {"screens": [0.5 + 0.1 * number]}, folder / "config.yaml")
        OmegaConf.save([f"seed={number}", "steps=5"], folder / "overrides.yaml")
        folders.append(folder)
    capsys.readouterr()
    report_sweep(folders, tmp_path / "sweep")
    summaries = read_json(tmp_path / "sweep" / "summaries.json")
    assert {name: row["calls"] for name, row in summaries.items()} == {"seed=0": 7, "seed=1": 8}
    assert (tmp_path / "sweep" / "figure.png").stat().st_size > 3000
    printed = capsys.readouterr().out
    assert "screen" not in printed  # their screens differ, so there is no common table
    OmegaConf.save(CONFIG, folders[1] / "config.yaml")
    report_sweep(folders, tmp_path / "sweep")
    assert "Molecules with a score at or above the screen" in capsys.readouterr().out  # control


def test_no_cell_of_the_molecules_is_a_formula(tmp_path):
    row = {
        "smiles": "=cmd|' /C calc'!A0",
        "score": -1.5,
        "step": 0,
        "status": "ok",
        "values": {"@a": -0.5, "b": 1e-7},
    }
    write_molecules(tmp_path / "molecules.csv", [row])
    lines = (tmp_path / "molecules.csv").read_text().splitlines()
    assert lines == ["smiles,score,step,status,message,'@a,b", "'=cmd|' /C calc'!A0,-1.5,0,ok,,-0.5,1e-07"]
