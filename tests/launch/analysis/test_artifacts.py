"""Galleries and curves of packages: reading them, averaging over seeds, and files that are not valid."""

import numpy as np
import pytest

from conf.schema.base import ConfigError
from launch import collect
from launch.analysis.artifacts import Artifacts, Curves, Item, best_items, curve_panels, fold_curves, read_artifacts


def test_curves_are_means_where_all_seeds_have_a_point():
    x, mean, error = fold_curves([{0: 0, 10: 1, 25: 9}, {0: 0, 10: 4, 26: 9}])
    assert x == [0, 10]
    assert mean.tolist() == [0, 2.5]
    assert error == pytest.approx(np.array([0, 1.5]))
    assert fold_curves([{0: 1.0, 1: 2.0}])[2].tolist() == [0, 0]


def test_the_best_of_equal_names_stays():
    items = [[Item("a", 1, "", ""), Item("b", 3, "", "")], [Item("a", 2, "", "")]]
    assert [(item.name, item.value) for item in best_items(items)] == [("b", 3), ("a", 2)]
    assert len(best_items([[Item(str(n), n, "", "") for n in range(99)]])) == 12


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"title": "x"}', '{"title": "x", "x": "x", "series": {"a": [[1], []]}}']
)
@pytest.mark.parametrize("name", ["x.gallery.json", "x.curves.json"])
def test_a_damaged_file_is_an_error_of_its_run(chem_sweep, name, content, capsys):
    (chem_sweep / "0" / "report" / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name}: not a gallery or curves file"):
        read_artifacts(chem_sweep / "0" / "report")
    assert collect.main([str(chem_sweep)]) == 1
    assert "unreadable: " in capsys.readouterr().out


def test_galleries_and_curves_are_read_by_title(chem_sweep, tmp_path):
    artifacts = read_artifacts(chem_sweep / "4" / "report")
    assert list(artifacts.galleries) == ["Best things"]
    first = artifacts.galleries["Best things"][0]
    assert (first.name, first.value, first.svg) == ("mara1", 0.91, "<svg><!--mara1--></svg>")
    assert artifacts.curves["Yield"] == Curves("calls", {"good": {0: 0, 10: 1, 20: 2, 26: 50}})
    (chem_sweep / "4" / "report" / "other.json").write_text("not read")
    assert read_artifacts(tmp_path / "nowhere") == Artifacts()


def test_a_panel_has_a_line_for_each_configuration_that_has_the_series():
    a0, a1, b = (Curves("calls", series) for series in ({"x": {0: 1}, "y": {0: 5}}, {"x": {0: 3}}, {"y": {0: 7}}))
    rows = [("a", [Artifacts(curves={"T": a0}), Artifacts(curves={"T": a1})]), ("b", [Artifacts(curves={"T": b})])]
    rows.append(("c", [Artifacts()]))
    panels = curve_panels(rows)
    summary = {name: [(label, mean.tolist()) for label, (_, mean, _) in lines] for name, _, lines in panels.pop("T")}
    assert panels == {}
    assert summary == {"x": [("a", [2])], "y": [("a", [5]), ("b", [7])]}
