"""`launch.watch`: a table with sparklines, of runs that are written, have ended, or have not begun."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from conf.schema.base import ConfigError
from launch import watch
from launch.cluster.sweep import Sweep, SweepJob, SweepLock, write_sweep
from launch.runs import run_folder
from tests.commands import ROOT, run_module
from tests.next_lines import check_next

from .made_up import write_run


def lines(*values, key="loss"):
    return "".join(json.dumps({"step": step, key: value}) + "\n" for step, value in enumerate(values))


def table(capsys, *arguments):
    status = watch.main([*map(str, arguments), "--once"])
    return status, capsys.readouterr().out.splitlines()


def test_the_table_shows_state_step_time_left_and_sparklines(sweep, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out = table(capsys, sweep)
    assert status == 1  # a job is dead and another failed
    header = next(line for line in out if line.startswith("run "))
    assert header.split() == ["run", "state", "step", "left", "reward/raw", "loss"]
    rows = {line.split()[0]: line for line in out if re.match(r"\d ", line)}
    assert set(rows) == set("012345")
    assert re.search(
        r"0 transform=identity seed=0 +finished +4/4 +- +▁▃▆█ 3 +▁▃█ 0.3", rows["0"]
    )  # of loss, one is null
    assert re.search(r"4 transform=mara seed=1 +missing +0/\? +- +- +- *$", rows["4"])
    assert "experiment=one_two" not in "\n".join(out)  # all jobs share it
    assert "3 finished, 1 failed, 1 missing, 1 dead" in out
    assert any(line.startswith("job 2: ValueError: ") for line in out)
    check_next("\n".join(out), tmp_path, monkeypatch)


def test_the_metrics_can_be_chosen(sweep, capsys):
    _, out = table(capsys, sweep, "--metrics", "loss,nonsense")
    assert "reward/raw" not in "\n".join(out)
    assert [line.split()[-2:] for line in out if line.startswith("0 ")] == [["0.3", "-"]]


def test_a_single_run_is_one_row(sweep, capsys):
    status, out = table(capsys, sweep / "0")
    assert status == 0
    assert len([line for line in out if re.match(r"\d .*/", line)]) == 1


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider_than_the_terminal_and_states_stay_readable(sweep, capsys, monkeypatch, width):
    monkeypatch.setattr(watch.console, "_width", width)
    _, out = table(capsys, sweep)
    shown = [line for line in out if not line.startswith(("next: ", "picture: "))]
    assert max(map(len, shown)) <= width
    for state in ("finished", "failed", "missing", "dead"):
        assert any(state in line for line in shown)
    sparks = sum("▁" in line for line in shown)
    assert (sparks > 0) == (width >= 80)  # without room the metrics are left out, not cut


def test_a_sweep_whose_jobs_have_not_begun_is_shown_as_not_started(tmp_path, capsys):
    jobs = [SweepJob(number, [f"seed={number}"], str(number)) for number in range(2)]
    write_sweep(tmp_path, Sweep("llm", [], "basic", jobs))
    with SweepLock(tmp_path):  # the process that starts them
        status, out = table(capsys, tmp_path)
        assert (status, "2 not started" in out) == (0, True)
        assert not seen(tmp_path).ended()
    assert seen(tmp_path).ended()  # nobody will start them


def seen(folder, keys=()):
    found = watch.Watch(folder, keys)
    found.update()
    return found


def test_half_a_line_is_read_when_it_is_whole(tmp_path):
    write_run(tmp_path, {"seed": 0, "steps": 9}, "running")
    lock = run_folder.lock_folder(tmp_path)
    path = tmp_path / "metrics.jsonl"
    whole = lines(1.0, 2.0, 3.0)
    path.write_text(whole[:-5])
    found = seen(tmp_path)
    file = found._files[0]
    assert file.values["loss"] == [1.0, 2.0]
    assert found.jobs[0].steps == 2
    path.write_text(whole)
    found.update()
    assert file.values["loss"] == [1.0, 2.0, 3.0]
    assert not found.ended()
    path.write_text(lines(5.0))  # a run that resumes from a checkpoint is cut
    found.update()
    assert file.values["loss"] == [5.0]
    os.close(lock)


def test_only_new_lines_are_read(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(1.0, 2.0))
    file = watch.MetricFile(path)
    file.update()
    parsed = []

    def parse(line, place):
        parsed.append(line)
        return json.loads(line)

    monkeypatch.setattr(watch, "parse_line", parse)
    file.update()
    assert parsed == []
    with path.open("a") as stream:
        stream.write(json.dumps({"step": 2, "loss": None, "text": "x", "flag": True, "nan": float("nan")}) + "\n")
    file.update()
    assert len(parsed) == 1
    assert file.values == {"step": [0, 1, 2], "loss": [1.0, 2.0]}
    missing = watch.MetricFile(tmp_path / "none")
    missing.update()
    assert missing.values == {}


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(lines(1.0) + "nonsense\n")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2: not JSON"):
        watch.MetricFile(tmp_path / "metrics.jsonl").update()


def test_a_sparkline_shows_means_between_the_lowest_and_the_highest(monkeypatch):
    assert watch.sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert watch.sparkline([0, 0, 4, 4, 8, 8], 3) == "▁▅█"
    assert watch.sparkline([3.0, 3.0], 8) == "▁▁"
    monkeypatch.setattr(watch, "can_print", lambda text: False)
    assert watch.sparkline([0, 7], 2) == ".@"  # in a terminal without these characters


def test_numbers_and_keys_fit_their_column():
    assert [watch.short_number(x) for x in (0.0, 1.2345, -0.000033333, 123456.0)] == [
        "0",
        "1.23",
        "-3e-05",
        "1.2e+05",
    ]
    assert watch.folded("kl/reverse_nats", 13) == "kl/reverse_\nnats"
    assert watch.folded("a" * 15, 13) == "a" * 13 + "\naa"
    assert watch.folded("loss", 13) == "loss"


def test_with_little_height_the_running_jobs_are_shown(tmp_path):
    jobs = [SweepJob(number, [f"seed={number}"], str(number)) for number in range(9)]
    write_sweep(tmp_path, Sweep("llm", [], "basic", jobs))
    for number in range(9):
        write_run(tmp_path / str(number), {"seed": number, "steps": 3}, "running" if number == 7 else "finished")
    lock = run_folder.lock_folder(tmp_path / "7")
    with watch.console.capture() as captured:
        watch.console.print(seen(tmp_path).render(80, height=10))
    out = captured.get()
    assert len(out.splitlines()) <= 10
    assert "7 seed=7" in out
    assert "6 more jobs are not shown" in out
    assert "8 finished, 1 running" in out
    os.close(lock)


def test_what_cannot_be_watched_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"launch\.watch: .*not a sweep or a run"):
        watch.main([str(tmp_path)])
    with pytest.raises(SystemExit, match=r"--every: must be > 0, got -1"):
        watch.main([str(tmp_path), "--every", "-1"])


def test_it_is_typed_and_prints_once_into_a_pipe(sweep):
    done = run_module("launch.watch", sweep / "0", folder=sweep, status=0, COLUMNS=80)
    assert done.stderr == ""
    assert "finished" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: python -m launch.collect 0"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_follows_a_run_and_ends_with_a_signal_or_the_run(tmp_path, number, expected):
    write_run(tmp_path, {"seed": 0, "steps": 3}, "running")
    lock = run_folder.lock_folder(tmp_path)
    process, terminal = start(tmp_path)
    shown = read_until(terminal, "0/3")
    (tmp_path / "metrics.jsonl").write_text(lines(1.0, 2.0))
    shown += read_until(terminal, "2/3")
    process.send_signal(number)
    shown += read_until(terminal, None)
    assert process.wait(30) == expected
    assert "Traceback" not in shown
    assert ("interrupted" in shown) == (number == signal.SIGTERM)
    os.close(lock)
    process, terminal = start(tmp_path)  # now dead: the table is shown once
    shown = read_until(terminal, None)
    assert (process.wait(30), "dead" in shown, "next: python -m launch.resume" in shown) == (1, True, True)


def start(folder):
    """The command on a terminal of 80 columns."""
    terminal, child = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, "-m", "launch.watch", str(folder), "--every", "0.2"]
    process = subprocess.Popen(
        command,
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment,
        cwd=folder,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(child)
    return process, terminal


def read_until(terminal, text):
    """What a terminal shows until a text appears, or until the end."""
    shown, limit = "", time.monotonic() + 60
    while time.monotonic() < limit:
        try:
            added = os.read(terminal, 65536)
        except OSError:  # the process has ended
            added = b""
        if not added:
            os.close(terminal)
            break
        shown += added.decode("utf-8", "replace")
        if text is not None and text in shown:
            return shown
    assert text is None, shown
    return shown
