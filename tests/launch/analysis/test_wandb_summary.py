"""The summary of a sweep in Weights & Biases, offline."""

import sys

import pytest

from launch import collect
from launch.analysis.table import distinct_runs, fold_seeds, read_runs
from launch.analysis.wandb_summary import table_cells

from ..wandb_files import history


def test_the_table_has_what_varies_and_each_result_with_its_error(chem_sweep):
    rows = fold_seeds(distinct_runs(read_runs(chem_sweep)))
    columns, data = table_cells(rows, ["0.8/yield", "0.8/OB10"])
    assert columns == ["method", "n", "0.8/yield", "0.8/yield/se", "0.8/OB10", "0.8/OB10/se"]
    for cells, row in zip(data, rows, strict=True):
        assert cells[:2] == [row.varying["method"], 3]
        assert cells[2:4] == list(row.result("0.8/yield"))
        assert cells[4] == 40
    assert table_cells([], ["x"]) == (["n", "x", "x/se"], [])


def test_the_table_and_the_pictures_become_one_run(chem_sweep, tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = tmp_path / "out"
    assert collect.main([str(chem_sweep), "--out", str(out), "--wandb", "mine"]) == 0
    shown = capsys.readouterr().out
    assert f"Weights & Biases: {out / 'wandb'}" in shown
    (row,) = history(out / "wandb")
    pictures = {path.stem for path in out.glob("*.png")}
    kinds = {key.partition("/")[0] for key in row}
    assert kinds == {"results", "pictures"}
    assert {key.split("/")[1] for key in row if key.startswith("pictures/")} == pictures


def test_nothing_is_logged_unless_it_is_asked_for(chem_sweep, tmp_path):
    assert collect.main([str(chem_sweep), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "wandb").exists()


def test_a_missing_package_is_one_line(chem_sweep, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        SystemExit, match=r"^launch\.collect: wandb is not installed \(extra tracking\): pip install .*tracking"
    ):
        collect.main([str(chem_sweep), "--out", str(tmp_path / "out"), "--wandb", "mine"])
