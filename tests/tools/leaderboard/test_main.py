"""The command as it is typed: records of sweeps, the page, and one line for what is wrong."""

import json
import re

import pytest

from tools.leaderboard.__main__ import main
from tools.leaderboard.page import BEGIN, END

from ...commands import run_module
from .made_up import results, write_sweep_of


@pytest.fixture
def page(tmp_path):
    (tmp_path / "images").mkdir()
    path = tmp_path / "page.md"
    path.write_text(f"Before.\n\n{BEGIN}{END}\n", "utf-8")
    return path


def test_records_then_a_page_then_nothing_new(tmp_path, page, capsys):
    runs = [(["experiment=spellings", "method=rloo", f"seed={seed}"], results(0.9, 0.5, 0.4)) for seed in (0, 1)]
    sweep = write_sweep_of(tmp_path / "sweep", runs)
    records = tmp_path / "methods.jsonl"
    assert main([str(sweep), "--records", str(records)]) == 0
    said = capsys.readouterr().out
    assert "methods.jsonl: 2 added, 0 known, 0 replaced, 0 not finished" in said
    assert re.search(r"^next: python -m tools\.leaderboard --page docs/leaderboard\.md --records \S+$", said, re.M)
    once = records.read_bytes()
    assert main([str(sweep), "--records", str(records), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    assert "0 added, 2 known" in said
    assert re.search(r"^picture: \S*leaderboard_spellings\.png$", said, re.M)
    assert records.read_bytes() == once
    assert "| `rloo` | 0.1 | 0, 1 | 0.900 ± 0.000 |" in page.read_text("utf-8")


def test_one_line_and_a_status_where_something_is_wrong(tmp_path, page, capsys):
    records = tmp_path / "methods.jsonl"
    runs = [
        (["experiment=spellings", f"seed={seed}", *more], results(1, 1, 1))
        for seed, more in ((0, ()), (1, ("method=rloo",)))
    ]
    assert main([str(write_sweep_of(tmp_path / "s", runs)), "--records", str(records)]) == 1
    assert "has no method=NAME" in capsys.readouterr().err
    assert [json.loads(line)["seed"] for line in records.read_text().splitlines()] == [1]  # the other one is kept
    records.write_text("{}\n")
    with pytest.raises(SystemExit, match=r"^tools\.leaderboard: .*methods\.jsonl, line 1: .* has no valid method$"):
        main(["--page", str(page), "--records", str(records)])
    with pytest.raises(SystemExit, match=r"^tools\.leaderboard: .*absent"):
        main([str(tmp_path / "absent"), "--records", str(tmp_path / "new.jsonl")])
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "give the folders of sweeps" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--help"])
    assert "python -m llm -m experiment=one_of_many" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.long
def test_a_sweep_that_was_trained_is_recorded_and_shown(tmp_path, page):
    """Two methods with two seeds, one step each, on the tiny model."""
    options = ("experiment=one_two", "steps=1", "group_size=8", "checkpoint.keep=0")
    chosen = ("method=rloo,mara_reverse", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    run_module("llm", "-m", *options, *chosen, status=0)
    records = tmp_path / "methods.jsonl"
    done = run_module("tools.leaderboard", tmp_path / "sweep", "--records", records, "--page", page, status=0)
    assert "4 added" in done.stdout
    rows = [json.loads(line) for line in records.read_text("utf-8").splitlines()]
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("mara_reverse", 0),
        ("mara_reverse", 1),
        ("rloo", 0),
        ("rloo", 1),
    ]
    for number, row in enumerate(sorted(rows, key=lambda row: (row["method"] != "rloo", row["seed"]))):
        summary = json.loads((tmp_path / "sweep" / str(number) / "summary.json").read_text())
        for key in results(0, 0, 0):
            assert (row[key], row["base"][key]) == (summary[key], summary["base"][key])
    written = page.read_text("utf-8")
    assert re.search(r"\| `rloo`, `group_size=8`, `steps=1` \| 0\.03 \| 0, 1 \| ", written)
    assert re.search(r"\| base \|  \| 0, 1 \| ", written)
