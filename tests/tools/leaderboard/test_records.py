"""Records of a sweep's runs: what they hold, and what is refused."""

import json

import pytest

from conf.schema.base import ConfigError
from launch.analysis.table import read_runs
from tools.leaderboard.records import add_runs, differences, key_of, read_records, write_records

from .made_up import record, results, write_sweep_of

MANY = ["experiment=one_of_many", "objective.beta=0.1"]


@pytest.fixture
def sweep(tmp_path):
    """rloo with two seeds, mara_reverse with one and another group size, and dapo, which has no KL term."""
    runs = [
        ([*MANY, "method=rloo", "seed=0"], results(0.9, 0.5, 0.4)),
        ([*MANY, "method=rloo", "seed=1"], results(0.8, 0.7, 0.6)),
        ([*MANY, "method=mara_reverse", "seed=0", "group_size=16"], results(0.85, 0.8, 0.9)),
        (["experiment=one_of_many", "method=dapo", "seed=0"], results(0.95, 0.3, 0.1)),
    ]
    return write_sweep_of(tmp_path / "sweep", runs)


def test_records_hold_what_the_runs_wrote_and_nothing_of_the_machine(sweep, tmp_path):
    records, counts, problems = add_runs({}, read_runs(sweep))
    assert (counts["added"], problems) == (4, [])
    by_method = {(key.row.method, key.seed): value for key, value in records.items()}
    assert set(by_method) == {("rloo", 0), ("rloo", 1), ("mara_reverse", 0), ("dapo", 0)}
    rloo, dapo = by_method["rloo", 1], by_method["dapo", 0]
    assert {name: rloo[name] for name in results(0, 0, 0)} == results(0.8, 0.7, 0.6)
    assert rloo["base"] == results(0.7, 0.9, 1.2)
    assert (rloo["task"], rloo["seed"], rloo["beta"], dapo["beta"]) == ("one_of_many", 1, 0.1, 0)
    assert (rloo["commit"], rloo["modified"]) == ("0123456789", True)
    assert "rich" not in rloo["versions"]
    path = tmp_path / "new" / "methods.jsonl"
    write_records(path, records)
    assert read_records(path) == records
    assert str(tmp_path) not in path.read_text("utf-8")
    assert "2026" not in path.read_text("utf-8")  # no clock


def test_settings_that_changed_make_another_row_and_beta_is_no_change(sweep):
    records, *_ = add_runs({}, read_runs(sweep))
    notes = {key.row.method: differences(key.row) for key in records}
    assert notes == {"rloo": [], "mara_reverse": ["group_size=16"], "dapo": []}
    assert len({key.row for key in records if key.row.method == "rloo"}) == 1
    assert key_of(record("rloo", 0, 1, 1)).row in {key.row for key in records}
    assert key_of(record("rloo", 0, 1, 1, beta=0.2)).row not in {key.row for key in records}  # control
    changed = key_of(record("rloo", 0, 1, 1, settings={"steps": 7, "objective.gamma": 0.5})).row
    assert differences(changed) == ["objective.gamma=0.5", "steps=7"]
    gone = key_of({**record("rloo", 0, 1, 1), "method": "gone"}).row
    assert differences(gone) == ["a method that is not shipped any more"]
    without = key_of({**record("rloo", 0, 1, 1), "settings": {}}).row
    assert "steps=120" in differences(without)  # the default, where the experiment's files have another value


def test_adding_again_changes_nothing_and_other_results_replace(sweep):
    first, *_ = add_runs({}, read_runs(sweep))
    again, counts, _ = add_runs(first, read_runs(sweep))
    assert (again, counts["known"], counts["added"]) == (first, 4, 0)
    summary = sweep / "0" / "summary.json"
    summary.write_text(summary.read_text().replace("0.5", "0.25"))
    other, counts, _ = add_runs(first, read_runs(sweep))
    assert (counts["known"], counts["replaced"], len(other)) == (3, 1, 4)
    assert other != first


@pytest.mark.parametrize(
    ("overrides", "summary", "message"),
    [
        (
            ["experiment=creative_tiny", "method=rloo"],
            {},
            r"must be a run of python -m llm with experiment=one_of_many",
        ),
        ([*MANY], results(1, 1, 1), "has no method=NAME among its overrides"),
        ([*MANY, "method=rloo"], {"correct": 0.0, "coverage": 0.0}, "its summary.json has no entropy_nats"),
    ],
)
def test_a_run_that_can_have_no_record_is_named_and_the_others_are_kept(tmp_path, overrides, summary, message):
    sweep = write_sweep_of(tmp_path / "s", [(overrides, summary), ([*MANY, "method=rloo"], results(1, 1, 1))])
    records, counts, (problem,) = add_runs({}, read_runs(sweep))
    assert len(records) == counts["added"] == 1
    assert problem.startswith(f"left out: {sweep / '0'}: ")
    assert message in problem


def test_what_did_not_finish_is_counted_and_what_cannot_be_read_is_named(sweep):
    (sweep / "1" / "summary.json").write_text("[")
    state = sweep / "3" / "run.json"
    state.write_text(state.read_text().replace('"finished"', '"preempted"'))
    _, counts, problems = add_runs({}, read_runs(sweep))
    assert (counts["added"], counts["not finished"]) == (2, 1)
    assert len(problems) == 1
    assert problems[0].startswith(f"unreadable: {sweep / '1'}")


DAMAGES = {
    "not JSON": (lambda line: line[:50] + "\n", "line 2: not JSON"),
    "a list": (lambda line: "[1]\n", "line 2: must be a JSON object"),
    "no results": (lambda line: line.replace('"coverage"', '"cover"', 1), "line 2: .* has no valid base.coverage"),
    "text for a number": (lambda line: line.replace('"correct": 0.6', '"correct": "0.6"'), r"has no valid correct"),
    "no seed": (lambda line: line.replace('"seed"', '"sead"'), "line 2: .* has no valid seed"),
    "twice": (
        lambda line: line.replace('"seed": 1', '"seed": 0'),
        "line 2: is a second record of rloo on one_of_many",
    ),
    "cut off": (lambda line: line.rstrip("\n"), "the last line is cut off"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_one_clear_line(tmp_path, damage):
    path = tmp_path / "methods.jsonl"
    rows = [record("rloo", 0, 0.5, 0.5), record("rloo", 1, 0.6, 0.6)]
    write_records(path, {key_of(row): row for row in rows})
    assert len(read_records(path)) == 2  # control: it is whole
    first, second = path.read_text("utf-8").splitlines(keepends=True)
    change, message = DAMAGES[damage]
    assert change(second) != second
    path.write_text(first + change(second), "utf-8")
    with pytest.raises(ConfigError, match=message) as raised:
        read_records(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_empty_and_the_order_of_runs_is_fixed(tmp_path):
    assert read_records(tmp_path / "absent.jsonl") == {}
    rows = [record("rloo", 1, 0.5, 0.5), record("grpo", 0, 0.5, 0.5), record("rloo", 0, 0.5, 0.5)]
    for number, order in enumerate((rows, rows[::-1])):
        write_records(tmp_path / f"{number}.jsonl", {key_of(row): row for row in order})
    text = (tmp_path / "0.jsonl").read_text("utf-8")
    assert text == (tmp_path / "1.jsonl").read_text("utf-8")
    named = [(row["method"], row["seed"]) for row in map(json.loads, text.splitlines())]
    assert named == [("grpo", 0), ("rloo", 0), ("rloo", 1)]
