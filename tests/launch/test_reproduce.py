"""`launch.reproduce`: how it compares a run with its repetition. tests/e2e/test_reproduce.py repeats real runs."""

import json
from typing import Any

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch import reproduce
from launch.cli.compose import compose
from launch.cli.recorded_command import RecordedCommand

from .made_up import write_run

ROWS = [{"step": s, "loss": 1 / (s + 1), "text": "a", "values": [1, 2.0]} for s in range(4)]
MACHINE: dict[str, Any] = {"versions": {"torch": "2", "mara-workbench": "1"}, "hardware": {"cores": 2}}


def write(folder, rows=ROWS, summary=None, weights=b"weights", **record):
    """A run of llm that is complete enough to be repeated and compared."""
    config = dict(compose("llm", ["seed=1"]))
    command = ["python", "-m", "llm", "seed=1"]
    write_run(
        folder, config, rows=rows, summary=summary or {"correct": 0.5}, **{**MACHINE, "command": command, **record}
    )
    (folder / "policy").mkdir(exist_ok=True)
    (folder / "policy" / "model.safetensors").write_bytes(weights)
    return folder


def changed(step, **values):
    return [{**row, **(values if row["step"] == step else {})} for row in ROWS]


def test_an_equal_repetition_is_reproduced(tmp_path, capsys):
    old, new = write(tmp_path / "old"), write(tmp_path / "new", versions={"torch": "2", "mara-workbench": "2"})
    assert reproduce.print_comparison(old, new, 1e-4) == 0
    assert capsys.readouterr().out.splitlines() == [
        "versions: mara-workbench: 1 -> 2",  # our own version is shown, but is no other environment
        "same packages and hardware: compared bit for bit",
        "reproduced: 4 lines of metrics, 0 of samples",
    ]


@pytest.mark.parametrize(
    ("repetition", "difference"),
    [
        ({"rows": changed(2, loss=1 / 3 + 1e-12)}, "step 2, loss (metrics.jsonl line 3): 0.333"),
        (
            {"rows": changed(1, values=[1, 3.0])},
            "step 1, values (metrics.jsonl line 2): [1, 2.0] in the record, [1, 3.0]",
        ),
        ({"rows": changed(0, text="b")}, "step 0, text (metrics.jsonl line 1): a in the record, b now"),
        ({"rows": ROWS[:3]}, "step 3, metrics.jsonl line 4: only in the record"),
        ({"rows": [*ROWS, {"step": 4}]}, "step 4, metrics.jsonl line 5: only in the new run"),
        ({"summary": {"correct": 0.25}}, "summary.json, correct: 0.5 in the record, 0.25 now"),
        ({"weights": b"others"}, "policy/model.safetensors: sha256 "),
    ],
)
def test_the_first_difference_is_named(tmp_path, capsys, repetition, difference):
    old, new = write(tmp_path / "old"), write(tmp_path / "new", **repetition)
    assert reproduce.print_comparison(old, new, 1e-4) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"not reproduced; the first difference: {difference}")


def test_the_earliest_step_comes_first_whatever_its_file(tmp_path):
    old, new = write(tmp_path / "old"), write(tmp_path / "new", rows=changed(2, loss=7))
    (old / "samples.jsonl").write_text(json.dumps({"step": 1, "text": "a"}) + "\n")
    (new / "samples.jsonl").write_text(json.dumps({"step": 1, "text": "b"}) + "\n")
    differing = list(reproduce.differences(old, new, 0.0))
    assert [line.partition(" (")[0] for line in differing] == ["step 1, text", "step 2, loss"]


def test_other_packages_or_hardware_allow_a_tolerance(tmp_path, capsys):
    old = write(tmp_path / "old")
    near = {"rows": changed(2, loss=1 / 3 * (1 + 5e-5)), "weights": b"others"}
    new = write(tmp_path / "new", **near, hardware={"cores": 64})
    assert reproduce.print_comparison(old, new, 1e-4) == 0
    out = capsys.readouterr().out
    assert "hardware: cores: 2 -> 64" in out
    assert "compared within 0.0001" in out
    assert reproduce.print_comparison(old, new, 1e-5) == 1  # control


def test_a_run_that_did_not_finish_is_compared_up_to_its_last_step(tmp_path, capsys):
    old, new = write(tmp_path / "old", rows=ROWS[:2], state="preempted"), write(tmp_path / "new")
    assert reproduce.print_comparison(old, new, 1e-4) == 0
    out = capsys.readouterr().out
    assert "the run is preempted: compared up to its last step" in out
    assert "reproduced: 2 lines of metrics" in out
    assert reproduce.print_comparison(new, old, 1e-4) == 1  # control: the record of a finished run is complete


def test_uncommitted_changes_are_compared(tmp_path, capsys):
    old, new = write(tmp_path / "old"), write(tmp_path / "new")
    (old / "code.patch").write_text("+ a line\n")
    assert reproduce.print_comparison(old, new, 1e-4) == 0
    assert "code: the uncommitted changes differ (code.patch)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("a", "b", "close"),
    [
        (1, 1.0, True),
        (1.0, 1.00009, True),
        (1.0, 1.0002, False),
        (0.0, 9e-7, True),  # a hundredth of the tolerance, absolute
        (0.0, 2e-6, False),
        ([1, [2.0]], [1.00001, [2.00001]], True),
        ([1, 2], [1], False),
        ("1", 1, False),
        (True, 1, False),
        (None, None, True),
    ],
)
def test_what_is_close(a, b, close):
    assert reproduce.is_close(a, b, 1e-4) == close


def test_the_hashes_are_of_the_policy_and_the_last_checkpoint(tmp_path):
    folder = write(tmp_path / "run")
    for step in (2, 10):
        (folder / "checkpoints" / f"step_{step:08}").mkdir(parents=True)
        (folder / "checkpoints" / f"step_{step:08}" / "tensors.safetensors").write_bytes(bytes(step))
    assert set(reproduce.weight_hashes(folder)) == {
        "policy/model.safetensors",
        "checkpoints/step_00000010/tensors.safetensors",
    }


def test_a_command_that_gives_another_configuration_now_runs_the_recorded_one(tmp_path, monkeypatch, capsys):
    folder = write(tmp_path / "run")
    config = {**compose("llm", ["seed=1"]), "steps": 7}  # as if the default had been 7 then
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    commands = []

    def run(command, folder, record, environment):
        commands.append((command.package, command.flags, command.overrides, folder))
        assert record == tmp_path / "run"
        assert environment["MARA_CLOCK"] == "2026-11-20T10:00:00+00:00"  # of the recorded run
        write(tmp_path / "out")
        return 0

    monkeypatch.setattr(RecordedCommand, "run", run)
    assert reproduce.main([str(folder), "--out", str(tmp_path / "out")]) == 0
    assert commands == [("llm", (), ("seed=1", "steps=7"), tmp_path / "out")]
    out = capsys.readouterr().out
    assert "the recorded command now gives another configuration; running the recorded one (now -> recorded):" in out
    assert "-> 7" in out


def test_a_new_run_that_fails_is_an_error(tmp_path, monkeypatch, capsys):
    folder = write(tmp_path / "run")
    monkeypatch.setattr(RecordedCommand, "run", lambda *_: 3)
    assert reproduce.main([str(folder), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"launch.reproduce: the new run in {tmp_path / 'out'} failed with exit status 3\n"
    )


def test_a_strangers_run_cannot_start_another_program(tmp_path, capsys):
    folder = write(tmp_path / "run", package="cProfile")
    assert reproduce.main([str(folder)]) == 2
    assert "package: must be one of didactic, " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_holds_a_run_is_not_written_to(tmp_path, capsys):
    old, new = write(tmp_path / "old"), write(tmp_path / "new")
    assert reproduce.main([str(old), "--out", str(new)]) == 2
    assert capsys.readouterr().err == (f"launch.reproduce: --out: {new} already holds a run; choose another folder\n")
    with pytest.raises(ConfigError, match=r"not a run folder, it has no run\.json"):
        reproduce.reproduce(tmp_path, None, [], 1e-4)
