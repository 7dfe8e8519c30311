"""What packages put into `report`: merged over the seeds, folded, and never markup."""

import base64
import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch import collect
from launch.analysis.artifacts import Item, best_items, fold_curves, read_artifacts
from launch.cluster.sweep import Sweep, SweepJob, write_sweep

HOSTILE = "<script>alert(1)</script>\"'"


def made_up(folder, seed, method):
    """A run whose molecules are its seed's and one that all seeds share."""
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create({"seed": seed, "method": method})))
    record = {"state": "finished", "package": "chem", "command": ["python", "-m", "chem"], "traceback": None}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "metrics.jsonl").write_text("")
    best = {
        "0.8/yield": 100 * seed + 7 * (method == "mara") * (1 + seed**2),
        "0.8/OB1": 3,
        "0.8/OB10": None if seed else 40,
    }
    (folder / "summary.json").write_text(json.dumps(best))
    names = [(f"{method}{seed}", 0.9 + seed / 100), ("shared", 0.5), (HOSTILE, 0.1)]
    items = [{"name": n, "value": v, "caption": f"{v:.2f} {n}", "svg": f"<svg><!--{n}--></svg>"} for n, v in names]
    (folder / "report" / "x.gallery.json").write_text(json.dumps({"title": "Best things", "items": items}))
    calls = [0, 10, 20, 25 + seed]
    content = {"title": "Yield", "x": "calls", "series": {"good": [calls, [0, seed, 2 * seed, 50]]}}
    (folder / "report" / "x.curves.json").write_text(json.dumps(content))


@pytest.fixture
def sweep(tmp_path):
    jobs = []
    for number, (method, seed) in enumerate((method, seed) for method in ("plain", "mara") for seed in range(3)):
        made_up(tmp_path / str(number), seed, method)
        jobs.append(SweepJob(number, [f"method={method}", f"seed={seed}"], str(number)))
    write_sweep(tmp_path, Sweep("chem", ["python", "-m", "chem", "-m"], "basic", jobs))
    return tmp_path


def test_curves_are_means_where_all_seeds_have_a_point():
    x, mean, error = fold_curves([{0: 0, 10: 1, 25: 9}, {0: 0, 10: 4, 26: 9}])
    assert x == [0, 10]
    assert mean.tolist() == [0, 2.5]
    assert error == pytest.approx(np.array([0, 1.5 / 2**0.5]))
    assert fold_curves([{0: 1.0}])[2].tolist() == [0]


def test_the_best_of_equal_names_stays():
    items = [[Item("a", 1, "", ""), Item("b", 3, "", "")], [Item("a", 2, "", "")]]
    assert [(item.name, item.value) for item in best_items(items)] == [("b", 3), ("a", 2)]
    assert len(best_items([[Item(str(n), n, "", "") for n in range(99)]])) == 12


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"title": "x"}', '{"title": "x", "x": "x", "series": {"a": [[1], []]}}']
)
@pytest.mark.parametrize("name", ["x.gallery.json", "x.curves.json"])
def test_a_damaged_one_is_an_error_of_its_run(sweep, name, content, capsys):
    (sweep / "0" / "report" / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name}: must be a gallery or curves"):
        read_artifacts(sweep / "0" / "report")
    assert collect.main([str(sweep)]) == 1
    assert "damaged: " in capsys.readouterr().out
