"""The experiments that count what runs survive, with a few trials each."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reliability.configs import mangled
from benchmarks.reliability.trials import (
    REFUSED,
    SAME,
    WRONG,
    Ended,
    Experiment,
    Trial,
    differences,
    environment,
    fingerprint,
)

ROOT = Path(__file__).parents[2]


def reliability(*arguments):
    command = [sys.executable, "-m", "benchmarks.reliability", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=800)


@pytest.mark.parametrize(
    ("ended", "fault"),
    [
        (Ended(0, "run folder: a\n", ""), ""),
        (Ended(1, "", "llm: steps: must be >= 1, got 0\n"), ""),
        (Ended(1, "", ""), "no message"),
        (Ended(1, "", "llm: a\nllm: b\n"), "2 lines"),
        (Ended(1, "", "steps is wrong\n"), "1 lines"),
        (Ended(2, "", "llm: a\n"), "status 2"),
        (Ended(-11, "", ""), "ended by signal 11"),
        (Ended(1, "", "Traceback (most recent call last):\nllm: KeyError: 'a'\n"), "traceback: llm: KeyError: 'a'"),
        (Ended(0, "", "", timed_out=True), "did not end in time"),
    ],
)
def test_how_a_command_ended_is_judged(ended, fault):
    assert ended.fault("llm").startswith(fault)
    assert bool(ended.fault("llm")) == bool(fault)


def test_trials_are_resumed_and_counted(tmp_path, capsys):
    outcomes = [SAME, REFUSED, WRONG, SAME]
    draws = []

    def attempt(number, generator):
        draws.append((number, generator.random()))
        return Trial(number, outcomes[number], "made up", "detail é")

    assert Experiment("kills", tmp_path, 3).run(2, attempt) == 0
    assert "| kills | 2 | 1 | 1 | 0 |" in capsys.readouterr().out
    assert Experiment("kills", tmp_path, 3).run(4, attempt) == 1
    printed = capsys.readouterr().out
    assert "| kills | 4 | 2 | 1 | 1 |" in printed
    assert "[2] wrong: made up: detail é" in printed
    assert draws == [(number, random.Random(f"kills 3 {number}").random()) for number in range(4)]
    rows = [json.loads(line) for line in (tmp_path / "kills_3.jsonl").read_text("utf-8").splitlines()]
    assert [row["outcome"] for row in rows] == outcomes


def test_every_result_file_counts(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "step_00000002"
    checkpoint.mkdir(parents=True)
    (tmp_path / "policy").mkdir()
    names = ["metrics.jsonl", "summary.json", "molecules.csv", "policy/model.safetensors"]
    names += [f"checkpoints/step_00000002/{name}" for name in ("state.json", "tensors.safetensors")]
    for name in names:
        (tmp_path / name).write_text("a")
    expected = fingerprint(tmp_path)
    for name in ("timings.jsonl", "run.json"):  # control: these hold times
        (tmp_path / name).write_text("b")
    assert differences(tmp_path, expected) == []
    for name in names:
        (tmp_path / name).write_text("b")
        assert differences(tmp_path, expected) == [name]
        (tmp_path / name).unlink()
        assert differences(tmp_path, expected) == [name]
        (tmp_path / name).write_text("a")


def test_mangled_configurations_depend_on_the_seed_alone(tmp_path):
    keys = {"seed": 0, "steps": 5, "objective.beta": 0.1, "transform.name": "mara", "checkpoint.best": None}

    def arguments(seed):
        return [mangled("didactic", tmp_path, random.Random(f"{seed} {number}"), keys) for number in range(50)]

    assert arguments(1) == arguments(1)
    assert arguments(1) != arguments(2)
    assert len(set(map(tuple, arguments(1)))) > 40


def test_help_teaches():
    done = reliability("--help")
    assert done.returncode == 0
    words = ("kills", "configs", "bytes", "disk", "requeue", "--count", "--seed", "examples:", "wrong")
    assert [word for word in words if word not in done.stdout] == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("experiment", "count"),
    [("disk", 1), *((name, 3) for name in ("kills", "configs", "bytes", "requeue"))],
)
def test_a_few_trials(tmp_path, experiment, count):
    done = reliability(experiment, "--count", count, "--folder", tmp_path)
    if "skipped" in done.stdout:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"| {experiment} | {count} |" in done.stdout
    rows = (tmp_path / f"{experiment}_0" / f"{experiment}_0.jsonl").read_text("utf-8").splitlines()
    assert len(rows) == count
