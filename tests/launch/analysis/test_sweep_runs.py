"""The short names of a sweep's runs, and their summaries in one file."""

import json

import pytest

from conf.schema.base import ConfigError
from launch.analysis.palette import METHOD_COLOURS, method_colours
from launch.analysis.sweep_runs import fold_seeds, read_sweep_runs, run_method, run_names, write_summaries


def write(folder, number, overrides):
    run = folder / str(number)
    run.mkdir()
    (run / "overrides.yaml").write_text(json.dumps(overrides))
    (run / "summary.json").write_text(json.dumps({"correct": number}))
    (run / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n{"ste')
    return run


@pytest.fixture
def folders(tmp_path):
    common = ["experiment=x", "steps=3"]
    runs: list[list[str]] = [
        ["transform=mara", "objective.beta=.1"],
        ["transform=mara", "objective.beta=1"],
        ["transform=identity"],
        [],
    ]
    return [write(tmp_path, number, [*common, *run]) for number, run in enumerate(runs)]


def test_a_name_is_what_not_all_runs_share(folders):
    assert run_names(folders, ["transform"]) == ["mara, beta=.1", "mara, beta=1", "identity", "run 3"]
    assert run_names(folders, [])[0] == "transform=mara, beta=.1"
    assert run_names(folders, ["beta"])[1] == "transform=mara, 1"  # the last part of the key counts
    assert run_names(folders[:2], ["transform"]) == ["beta=.1", "beta=1"]
    assert run_names(folders[:1], []) == ["run 0"]


def test_the_runs_keep_their_order(folders, tmp_path):
    runs = read_sweep_runs(folders[::-1], ["transform"])
    assert [run.name for run in runs] == ["run 0", "identity", "mara, beta=1", "mara, beta=.1"]
    assert [run.summary["correct"] for run in runs] == [3, 2, 1, 0]
    assert runs[0].metrics == [{"step": 0}, {"step": 1}]  # a line that was cut off is left out
    write_summaries(tmp_path, runs)
    written = json.loads((tmp_path / "summaries.json").read_text())
    assert written == {run.name: run.summary for run in runs}


def test_a_run_without_a_summary_is_an_error(folders):
    (folders[2] / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"summary\.json: file not found"):
        read_sweep_runs(folders, [])


def test_seeds_are_folded_and_named_in_words(tmp_path):
    typed = [[f"transform={name}", f"seed={seed}"] for name in ("identity", "mara") for seed in (0, 1)]
    folders = [write(tmp_path, number, ["experiment=x", *overrides]) for number, overrides in enumerate(typed)]
    for folder, (transform, _) in zip(folders, typed, strict=True):
        (folder / "config.yaml").write_text(f"transform: {{name: {transform.partition('=')[2]}}}")
    rows = fold_seeds(read_sweep_runs(folders, []))
    assert [(row.label, row.values("correct"), row.values("none")) for row in rows] == [
        ("vanilla", [0, 1], []),
        ("MARA", [2, 3], []),
    ]
    assert [row.style.colour for row in rows] == [METHOD_COLOURS["vanilla_reverse"], METHOD_COLOURS["mara_reverse"]]
    single = fold_seeds(read_sweep_runs(folders[:2], []))
    assert [row.label for row in single] == ["all runs"]


def test_a_folder_without_a_configuration_has_no_method(tmp_path):
    assert run_method(tmp_path) == ""
    assert list(method_colours([""])) == [""]
