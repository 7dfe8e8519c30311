"""Runs that are killed, stopped by a signal, or find their folder damaged, and the runs that resume them."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch.runs import checkpoint, run_folder
from launch.runs.atomic import PARTIAL
from launch.runs.checkpoint import LoopState
from launch.runs.run import Run
from launch.runs.run_folder import read_jsonl

ROOT = Path(__file__).parents[3]
SAVING = {"every_seconds": 1e9, "every_steps": 2, "keep": 2, "best": None, "best_mode": "max"}
CONFIG = {"seed": 3, "resume": "auto", "checkpoint": SAVING, "loggers": [], "steps": 9, "lr": 0.1}


class Stop(Exception):
    """Stands for anything that ends a process."""


def job(folder, *, until=None, identity="a", **changes):
    """Train a small model with random inputs; raise Stop in the middle of step `until`."""
    config = OmegaConf.create({**CONFIG, **changes})
    model = torch.nn.Linear(3, 1)
    torch.nn.init.constant_(model.weight, 0.5)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
    values = LoopState(beta=1.0, seen=[])
    with Run(folder, "llm", config, []) as run:
        run.register_state({"reference": identity}, model=model, optimizer=optimizer, values=values)
        for step in run.steps(config.steps):
            loss = (model(torch.randn(4, 3)) ** 2).mean() + random.random() * model.bias.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.beta *= 1.0 + float(loss.detach()) / 7
            values.seen.append(step)
            run.log({"loss": loss, "beta": values.beta, "seen": len(values.seen)})
            if step == until:
                raise Stop
            run.log_samples([{"text": f"{step} é", "loss": loss}])
        run.finish({"beta": values.beta})
    return model.state_dict()


def result_files(folder):
    names = ("metrics.jsonl", "samples.jsonl", "summary.json", "config.yaml")
    return {name: (folder / name).read_bytes() for name in names}


def steps_saved(folder):
    return checkpoint.checkpoint_steps(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return job(folder), result_files(folder)


@pytest.mark.parametrize("until", range(9))
def test_a_run_that_ended_in_any_step_goes_on_as_if_it_had_not(tmp_path, undisturbed, until):
    weights, files = undisturbed
    with pytest.raises(Stop):
        job(tmp_path, until=until)
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == until + 1
    assert steps_saved(tmp_path) == [done for done in (8, 6, 4, 2) if done <= until][:2]
    resumed = job(tmp_path)
    assert result_files(tmp_path) == files
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)
    earlier = run_folder.read_record(tmp_path)["earlier"]
    assert [entry["state"] for entry in earlier] == ["failed"]


def test_control_what_is_not_kept_is_lost(tmp_path, undisturbed):
    with pytest.raises(Stop):
        job(tmp_path, until=6)
    for step in steps_saved(tmp_path):  # as if the values had been forgotten
        path = tmp_path / "checkpoints" / f"step_{step:08}"
        tree = json.loads((path / "state.json").read_text())
        tree["mapping"] = [
            [k, v if k != "values" else {"mapping": [["beta", 1.0], ["seen", []]]}] for k, v in tree["mapping"]
        ]
        (path / "state.json").write_text(json.dumps(tree))
        forge(path)
    job(tmp_path)
    assert result_files(tmp_path)["metrics.jsonl"] != undisturbed[1]["metrics.jsonl"]


def forge(path):
    """Give a checkpoint the checksums of its present files."""
    content = json.loads((path / "manifest.json").read_text())
    del content["checksum"]
    for name in content["checksums"]:
        content["checksums"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    text = json.dumps(content, sort_keys=True)
    content["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["state.json", "tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["a bit", "cut", "gone"])
def test_a_damaged_checkpoint_is_left_out_for_the_one_before(tmp_path, undisturbed, capsys, name, damage):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    assert steps_saved(tmp_path) == [4, 2]
    path = tmp_path / "checkpoints" / "step_00000004" / name
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        place = content.index(b'"step": 4') + 8 if name == "manifest.json" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    job(tmp_path)
    printed = capsys.readouterr().out
    assert "step_00000004 is damaged and is not used" in printed
    assert "resuming from step 2" in printed
    assert result_files(tmp_path) == undisturbed[1]


def test_without_a_good_checkpoint_a_run_begins_anew(tmp_path, undisturbed, capsys):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    for path in (tmp_path / "checkpoints").glob("*/state.json"):
        path.write_text("{}")
    job(tmp_path)
    assert capsys.readouterr().out.count("is damaged and is not used") == 2
    assert result_files(tmp_path) == undisturbed[1]


def test_lines_that_were_lost_send_a_run_further_back(tmp_path, undisturbed, capsys):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    whole = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text("".join(whole[:3]))
    job(tmp_path)
    assert "metrics.jsonl is shorter" in capsys.readouterr().out
    assert result_files(tmp_path) == undisturbed[1]


def test_lost_timings_do_not_matter(tmp_path, undisturbed, capsys):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    (tmp_path / "timings.jsonl").write_text("")
    job(tmp_path)
    printed = capsys.readouterr().out
    assert "resuming from step 4" in printed
    assert "damaged" not in printed
    assert result_files(tmp_path) == undisturbed[1]
    assert [row["step"] for row in read_jsonl(tmp_path / "timings.jsonl")] == [4, 5, 6, 7, 8]


def test_a_changed_byte_in_the_lines_never_gives_another_result(tmp_path, undisturbed):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    content = bytearray((tmp_path / "metrics.jsonl").read_bytes())
    content[content.index(b"\n") + 20] ^= 1  # of step 1
    (tmp_path / "metrics.jsonl").write_bytes(content)
    job(tmp_path)
    assert result_files(tmp_path) == undisturbed[1]


def test_a_run_that_must_resume_does_not_start_again(tmp_path):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    for path in (tmp_path / "checkpoints").glob("*/state.json"):
        path.write_text("")
    lines = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"^resume=must: .*step_00000004 is damaged"):
        job(tmp_path, resume="must")
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ConfigError, match=r"^resume=must: .*holds no checkpoint"):
        job(tmp_path, resume="must")


def test_half_a_checkpoint_is_cleared_away(tmp_path, undisturbed):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    source = tmp_path / "checkpoints" / "step_00000004"
    shutil.copytree(source, tmp_path / "checkpoints" / f"{PARTIAL}00000006")
    job(tmp_path)
    assert result_files(tmp_path) == undisturbed[1]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000008", "step_00000009"]


def test_another_configuration_or_model_is_refused_and_nothing_is_changed(tmp_path):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"config\.yaml: .*: lr is 0\.1 there and 0\.2 here; use a new folder"):
        job(tmp_path, lr=0.2)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(ConfigError, match=r"step_00000004: .*: reference is a there and b here; .*another model"):
        job(tmp_path, identity="b")
    for name in ("metrics.jsonl", "samples.jsonl", "config.yaml"):
        assert (tmp_path / name).read_bytes() == before[tmp_path / name]
    assert steps_saved(tmp_path) == [4, 2]
    job(tmp_path, checkpoint={**SAVING, "every_steps": 3})  # changes no result


def test_resume_can_be_forbidden_and_demanded(tmp_path):
    with pytest.raises(ConfigError, match=r"^resume=must: .* holds no run to resume; use auto or never"):
        job(tmp_path / "new", resume="must")
    with pytest.raises(Stop):
        job(tmp_path / "run", until=3)
    with pytest.raises(ConfigError, match=r"^resume=never: .* already holds a run; use auto or must"):
        job(tmp_path / "run", resume="never")
    job(tmp_path / "run", resume="must")


def test_the_last_and_the_best_are_kept(tmp_path):
    losses = {}
    saving = {**SAVING, "every_steps": 1, "keep": 2, "best": "seen"}
    for mode, best in (("max", 9), ("min", 1)):  # it only grows
        folder = tmp_path / mode
        job(folder, checkpoint={**saving, "best_mode": mode})
        assert steps_saved(folder) == sorted({9, 8, best}, reverse=True)
        losses[mode] = (folder / "metrics.jsonl").read_bytes()
    assert losses["max"] == losses["min"]
    job(tmp_path / "none", checkpoint={**SAVING, "keep": 0})
    assert not (tmp_path / "none" / "checkpoints").exists()


@pytest.mark.parametrize("stream", ["metrics", "samples", "timings"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path, undisturbed, stream):
    """Every write to /dev/full fails with ENOSPC."""
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    good = (tmp_path / f"{stream}.jsonl").read_bytes()
    (tmp_path / f"{stream}.jsonl").unlink()
    (tmp_path / f"{stream}.jsonl").symlink_to("/dev/full")
    for folder in (tmp_path / "checkpoints").iterdir():  # whose lines /dev/full does not have
        shutil.move(folder, tmp_path / folder.name)
    with pytest.raises(ConfigError, match=rf"{stream}\.jsonl: cannot be written: No space left"):
        job(tmp_path)
    (tmp_path / f"{stream}.jsonl").unlink()
    (tmp_path / f"{stream}.jsonl").write_bytes(good)
    job(tmp_path)
    assert result_files(tmp_path) == undisturbed[1]


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(tmp_path, undisturbed, monkeypatch):
    with pytest.raises(Stop):
        job(tmp_path, until=5)
    real, left = os.fsync, iter(range(5))

    def fsync(descriptor):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ConfigError, match=r"cannot be written: No space left on device"):
        job(tmp_path)
    monkeypatch.undo()
    assert steps_saved(tmp_path) == [4, 2]
    assert run_folder.run_state(tmp_path) in ("failed", "dead")
    job(tmp_path)
    assert result_files(tmp_path) == undisturbed[1]


@pytest.mark.parametrize("moment", range(0, 49, 6))
def test_a_full_disk_at_any_moment_leaves_a_run_that_goes_on(tmp_path, undisturbed, monkeypatch, moment):
    """Every flush to the disk after some number of them fails with ENOSPC."""
    real, count = os.fsync, iter(range(moment))

    def fsync(descriptor):
        if next(count, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ConfigError, match=r"cannot be written: No space left on device"):
        job(tmp_path, checkpoint={**SAVING, "keep": 1})
    monkeypatch.undo()
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))
    job(tmp_path)
    assert result_files(tmp_path) == undisturbed[1]


# --- processes -----------------------------------------------------------------------------------------------

COMMANDS = {
    "didactic": [
        *("experiment=bandit", "gradient=sampled", "steps=600", "log_every=5", "samples=64"),
        *("beta_schedule=adaptive", "beta_schedule.kl_target=.2", "checkpoint.every_steps=70"),
    ],
    "llm": [
        *("steps=10", "group_size=8", "sample_every=1", "evaluation_completions=16", "checkpoint.every_steps=2"),
        *("transform=mara", "beta_schedule=adaptive", "beta_schedule.kl_target=.2", "optimizer.decay=cosine"),
    ],
}


def command(package, folder):
    return [sys.executable, "-m", package, *COMMANDS[package], f"hydra.run.dir={folder}"]


def hashes(folder):
    weights = sorted(folder.glob("policy/*.safetensors"))
    if not weights:  # the last checkpoint has them
        weights = sorted(folder.glob("checkpoints/*/tensors.safetensors"))[-1:]
    files = [folder / name for name in ("metrics.jsonl", "samples.jsonl", "summary.json", "config.yaml")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files + weights}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "most"),
    [("didactic", 2), *(pytest.param(package, 100, marks=pytest.mark.long) for package in COMMANDS)],
)
def test_kill_minus_9_at_random_moments(tmp_path, package, most):
    whole = tmp_path / "whole"
    began = time.monotonic()
    subprocess.run(command(package, whole), cwd=ROOT, check=True, capture_output=True, timeout=300)
    lasted = time.monotonic() - began
    generator = random.Random(package)
    folder, kills, later = tmp_path / "killed", 0, 0
    while True:
        process = subprocess.Popen(
            command(package, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # Half of the kills come at any moment from the start on, the others once this process has a line more.
        if later == most:
            process.wait(300)
        elif generator.random() < 0.5 and kills < 6:
            wait_for(process, generator.uniform(0.2, 1.2) * lasted)
        else:
            before = lines(folder)
            while process.poll() is None and lines(folder) <= before:
                time.sleep(0.005)
            wait_for(process, generator.uniform(0, 0.4))
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            break
        process.kill()
        process.wait()
        kills += 1
        later += lines(folder) > 0
    assert run_folder.run_state(folder) == "finished"
    assert kills >= min(most, 3)
    assert later >= 2
    assert hashes(folder) == hashes(whole)


ANSWERS = ["experiment=spellings", "steps=7", "group_size=8", "evaluation_completions=6", "checkpoint.every_steps=1"]
MASSES = ["transform=mara", "transform.level=answer", "objective.direction=forward"]


@pytest.mark.long
@pytest.mark.parametrize(("part", "options"), [("classes", MASSES), ("counts", ["method=obe_historical"])])
def test_what_is_remembered_of_answers_survives_kill_minus_9(tmp_path, part, options):
    """Killed in a random step and resumed, with the memory of the checkpoint and, as a control, without it."""
    whole, killed, forgotten = tmp_path / "whole", tmp_path / "killed", tmp_path / "forgotten"
    run = [sys.executable, "-m", "llm", *ANSWERS, *options]
    subprocess.run([*run, f"hydra.run.dir={whole}"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    process = subprocess.Popen([*run, f"hydra.run.dir={killed}"], cwd=ROOT, stdout=subprocess.DEVNULL)
    last = random.Random(str(tmp_path)).randint(2, 5)
    while process.poll() is None and lines(killed) < last:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert 2 <= lines(killed) < 7
    shutil.copytree(killed, forgotten)
    for step in steps_saved(forgotten):
        path = forgotten / "checkpoints" / f"step_{step:08}"
        tree = json.loads((path / "state.json").read_text())
        parts = dict(tree["mapping"])
        assert len(parts[part]["mapping"]) == 3  # prompts
        parts[part]["mapping"] = []
        tree["mapping"] = list(parts.items())
        (path / "state.json").write_text(json.dumps(tree))
        forge(path)
    for folder in (killed, forgotten):
        subprocess.run([*run, f"hydra.run.dir={folder}"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert hashes(killed) == hashes(whole)
    assert lines(forgotten) == lines(whole) == 7
    assert (forgotten / "metrics.jsonl").read_bytes() != (whole / "metrics.jsonl").read_bytes()


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process, seconds):
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.long)])
def test_a_signal_saves_and_leaves_in_order(tmp_path, number):
    whole, folder = tmp_path / "whole", tmp_path / "left"
    arguments = ["experiment=bandit", "gradient=sampled", "steps=200", "log_every=1", "checkpoint.every_seconds=1e9"]
    run = [sys.executable, "-m", "didactic", *arguments]
    process = subprocess.Popen([*run, f"hydra.run.dir={folder}"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while lines(folder) < 20 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    done = lines(folder)
    ending = f"saved: the checkpoint after step {done}, in {folder}\nnext: python -m launch.resume {folder}\n"
    assert (process.returncode, error) == (128 + number, f"didactic: interrupted by {number.name}\n{ending}")
    assert run_folder.run_state(folder) == "preempted"
    assert 20 <= done < 200
    assert steps_saved(folder) == [done]
    for place in (whole, folder):
        subprocess.run([*run, f"hydra.run.dir={place}"], cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert hashes(folder) == hashes(whole)
