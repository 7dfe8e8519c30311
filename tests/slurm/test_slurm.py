"""Sweeps on a real one-node SLURM: jobs that run, fail, are requeued or cancelled, and resume."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from launch.cluster.sweep import read_sweep
from launch.runs import run_folder
from launch.runs.run_folder import read_jsonl

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
SMALL = ["hydra.launcher.signal_delay_s=20", "hydra.launcher.timeout_min=5"]
BANDIT = ["experiment=bandit", "gradient=sampled", "steps=30", "log_every=1", "samples=16"]


def command(*arguments, cwd=ROOT, check=True, **environment):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def submit(cluster, sweep, package, *overrides, cwd=ROOT):
    command("-m", "launch.submit", package, *overrides, *SMALL, f"hydra.sweep.dir={sweep}", cwd=cwd)
    return [job.id for job in read_sweep(sweep).jobs]


def wait_for_end(cluster, ids):
    cluster.wait_until(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & {cluster.states().get(i) for i in ids})


def lines(folder):
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def same_results(a, b, names=("metrics.jsonl", "samples.jsonl", "summary.json")):
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


def test_a_sweep_over_direction_and_beta(cluster, tmp_path):
    """Two packages. The command waits, and ends with the same table and figure as without a cluster."""
    axes = ["objective.direction=reverse,forward", "objective.beta=.05,.1"]
    llm = ["steps=3", "group_size=8", "evaluation_completions=16"]
    didactic = command(
        "-m", "didactic", "-m", "hydra/launcher=slurm", *BANDIT, *axes, *SMALL, f"hydra.sweep.dir={tmp_path}/a"
    )
    assert "submitted 4 jobs to SLURM" in didactic.stdout
    assert "direction" in didactic.stdout
    done = command("-m", "llm", "-m", "hydra/launcher=slurm", *llm, *axes, *SMALL, f"hydra.sweep.dir={tmp_path}/b")
    assert (tmp_path / "b" / "figure.png").exists()
    assert "Shares of all completions" in done.stdout
    for sweep in (tmp_path / "a", tmp_path / "b"):
        jobs = read_sweep(sweep).jobs
        assert [run_folder.run_state(sweep / job.folder) for job in jobs] == ["finished"] * 4
        objectives = [run_folder.read_config(sweep / job.folder)["objective"] for job in jobs]
        settings = [(objective["direction"], objective["beta"]) for objective in objectives]
        assert settings == [(d, b) for d in ("reverse", "forward") for b in (0.05, 0.1)]
        assert run_folder.read_record(sweep / "0")["code"]["commit"] is not None  # of the snapshot
    here = command(
        "-m", "didactic", *BANDIT, "objective.direction=forward", "objective.beta=.1", f"hydra.run.dir={tmp_path}/c"
    )
    assert here.returncode == 0
    assert same_results(tmp_path / "a" / "3", tmp_path / "c")


def test_a_sweep_over_experiments_is_in_one_folder(cluster, tmp_path):
    """Its status, what is resumed and what is collected are all of its runs."""
    experiments = "experiment=figure5/reverse_0.01_mara_uniform,figure5/forward_0.01_mara_uniform"
    environment = {"cwd": tmp_path, "PYTHONPATH": str(ROOT)}
    command("-m", "didactic", "-m", "hydra/launcher=slurm", experiments, "seed=0,1", "steps=5", *SMALL, **environment)
    (record,) = tmp_path.rglob("sweep.json")
    sweep = record.parent
    assert sweep.parent == tmp_path / "runs" / "didactic" / "figure5"
    assert {path.parent.parent for path in tmp_path.rglob("run.json")} == {sweep}
    shutil.rmtree(sweep / "2")
    command("-m", "launch.resume", str(sweep), **environment)
    wait_for_end(cluster, [read_sweep(sweep).jobs[2].id])
    assert "4 finished" in command("-m", "launch.status", str(sweep), **environment).stdout.splitlines()
    assert "4 of 4 runs finished" in command("-m", "launch.collect", str(sweep), **environment).stdout


def test_a_working_folder_with_any_name(cluster, tmp_path):
    """Nothing in the name is executed, and a job that is resumed writes where the first one did."""
    cwd = tmp_path / "a b'c\"é$(touch x)`touch y`;touch z;&#!{}[]<>|*?~=:,@"
    cwd.mkdir()
    environment = {"cwd": cwd, "PYTHONPATH": str(ROOT)}
    common = ["hydra/launcher=slurm", *BANDIT, *SMALL, "hydra.sweep.dir=sweep", "hydra.launcher.comment='$(touch x)'"]
    command("-m", "didactic", "-m", "seed=0,1", *common, **environment)
    runs = [cwd / "sweep" / name for name in "01"]
    assert [run_folder.run_state(run) for run in runs] == ["finished"] * 2
    before = (runs[0] / "metrics.jsonl").read_bytes()
    shutil.rmtree(runs[0])
    command("-m", "launch.resume", "sweep", **environment)
    wait_for_end(cluster, [job.id for job in read_sweep(cwd / "sweep").jobs])
    assert (runs[0] / "metrics.jsonl").read_bytes() == before
    assert [path for path in tmp_path.rglob("*") if path.name in "xyz"] == []


def test_a_job_that_fails_hides_no_other(cluster, tmp_path):
    sweep = tmp_path / "sweep"
    cwd = made_up_tree(tmp_path, "if config.seed == 1: raise RuntimeError('made up')")
    done = command(
        "-m",
        "didactic",
        "-m",
        "hydra/launcher=slurm",
        *BANDIT,
        "seed=0,1,2",
        *SMALL,
        f"hydra.sweep.dir={sweep}",
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 1
    assert "job 1 (" in done.stderr
    assert "RuntimeError: made up" in done.stderr
    (line,) = done.stderr.splitlines()
    assert "Traceback" in Path(line.rpartition("; log: ")[2]).read_text()
    assert [run_folder.run_state(sweep / str(n)) for n in range(3)] == ["finished", "failed", "finished"]
    assert "sweep" in done.stdout  # the table of the others


def test_a_requeued_job_goes_on_and_ends_as_if_undisturbed(cluster, tmp_path):
    """After `scontrol requeue` (SIGTERM), and after the signal of a time limit (SIGUSR2), when it requeues itself."""
    cwd = made_up_tree(tmp_path, "import time; time.sleep(.1)")
    sweep = tmp_path / "sweep"
    (job,) = submit(cluster, sweep, "didactic", *BANDIT, cwd=cwd)
    run = sweep / "0"
    for stop in (["scontrol", "requeue", job], ["scancel", "--signal=USR2", job]):
        before = lines(run)
        cluster.wait_until(lambda before=before: lines(run) >= before + 4)
        subprocess.run(stop, check=True)
        cluster.wait_until(lambda: run_folder.read_record(run)["state"] == "preempted")
    wait_for_end(cluster, [job])
    assert run_folder.run_state(run) == "finished"
    assert [entry["state"] for entry in run_folder.read_record(run)["earlier"]] == ["preempted", "preempted"]
    command("-m", "didactic", *BANDIT, f"hydra.run.dir={tmp_path}/whole")
    assert same_results(run, tmp_path / "whole")


@pytest.mark.long
def test_molecules_whose_job_leaves_and_comes_back(cluster, tmp_path):
    """With the shipped prior, which is copied with the code, and with the oracle's worker processes."""
    chem = ["steps=20", "batch_size=4", "oracle.workers=1", "cache=null", "transform=mara", "threads=1"]
    sweep = tmp_path / "sweep"
    (job,) = submit(cluster, sweep, "chem", *chem, "experiment=qed")
    cluster.wait_until(lambda: lines(sweep / "0") >= 4)
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_for_end(cluster, [job])
    assert run_folder.run_state(sweep / "0") == "finished"
    assert [entry["state"] for entry in run_folder.read_record(sweep / "0")["earlier"]] == ["preempted"]
    command("-m", "chem", *chem, f"hydra.run.dir={tmp_path}/whole")
    names = ("metrics.jsonl", "samples.jsonl", "summary.json", "molecules.csv", "policy/model.safetensors")
    assert same_results(sweep / "0", tmp_path / "whole", names)


@pytest.mark.long
def test_a_cancelled_sweep_is_resumed(cluster, tmp_path):
    cwd = made_up_tree(tmp_path, "import time; time.sleep(.1)")
    sweep = tmp_path / "sweep"
    ids = submit(cluster, sweep, "didactic", *BANDIT, "seed=0,1", "hydra.launcher.array_parallelism=1", cwd=cwd)
    cluster.wait_until(lambda: lines(sweep / "0") >= 4)
    subprocess.run(["scancel", ids[0].partition("_")[0]], check=True)
    wait_for_end(cluster, ids)
    assert run_folder.run_state(sweep / "0") == "preempted"
    assert not (sweep / "1" / "run.json").exists()
    with ThreadPoolExecutor() as pool:  # the second finds the lock, or the jobs in the queue
        both = list(
            pool.map(lambda _: command("-m", "launch.resume", str(sweep), cwd=cwd, check=False).stdout, range(2))
        )
    assert sorted(text.count("submitted 2 jobs") for text in both) == [0, 1], both
    again = [job.id for job in read_sweep(sweep).jobs]
    assert not set(again) & set(ids)
    wait_for_end(cluster, again)
    for seed in (0, 1):
        command("-m", "didactic", *BANDIT, f"seed={seed}", f"hydra.run.dir={tmp_path}/whole{seed}")
        assert same_results(sweep / str(seed), tmp_path / f"whole{seed}")


def test_jobs_run_the_code_as_it_was_at_submission(cluster, tmp_path):
    cwd = made_up_tree(tmp_path, "pass")
    subprocess.run(["scontrol", "update", "PartitionName=debug", "State=DOWN"], check=True)
    try:
        (job,) = submit(cluster, tmp_path / "sweep", "didactic", *BANDIT, cwd=cwd)
        (cwd / "didactic" / "train.py").write_text("raise RuntimeError('broken later')\n")
    finally:
        subprocess.run(["scontrol", "update", "PartitionName=debug", "State=UP"], check=True)
    wait_for_end(cluster, [job])
    assert run_folder.run_state(tmp_path / "sweep" / "0") == "finished"
    broken = command("-m", "didactic", *BANDIT, f"hydra.run.dir={tmp_path}/control", cwd=cwd, check=False)
    assert "broken later" in broken.stderr


def made_up_tree(tmp_path, in_every_step):
    """A copy of the source in which didactic runs a line of code in every step."""
    home = tmp_path / "tree"
    for room in ("core", "conf", "launch", "didactic", "hydra_plugins"):
        shutil.copytree(ROOT / room, home / room, ignore=shutil.ignore_patterns("__pycache__"))
    source = (home / "didactic" / "train.py").read_text()
    marker = "        logp = policies()\n        if"
    assert source.count(marker) == 1
    (home / "didactic" / "train.py").write_text(source.replace(marker, f"        {in_every_step}\n{marker}"))
    return home


TASK = """
import time
from launch.engines import distributed
from llm.tasks.one_two import OneTwo

class Slow(OneTwo):
    def reward(self, prompt, completion):
        time.sleep(.05)
        return super().reward(prompt, completion)

class Fails(OneTwo):
    def prompts(self):
        if distributed.current_ranks().rank == 1:
            raise RuntimeError("rank 1 is made to fail")
        return super().prompts()
"""


@pytest.mark.long
def test_two_ranks_of_a_language_model_under_deepspeed(cluster, tmp_path):
    """Both ranks stop and resume after a requeue, rank 0 alone writes, and the metrics are those of one process.

    A job whose rank 1 fails has failed, with the traceback of that rank.
    """
    (tmp_path / "slurm_task.py").write_text(TASK)
    path = f"{ROOT}:{tmp_path}"
    options = ["steps=8", "prompts_per_step=2", "group_size=8", "evaluation_completions=16", "threads=1"]
    ranks = ["engine=zero2", "hydra.launcher.tasks_per_node=2", *SMALL, f"hydra.sweep.dir={tmp_path}/sweep"]
    tasks = "task.name=slurm_task:Slow,slurm_task:Fails"
    process = subprocess.Popen(
        [sys.executable, "-m", "llm", "-m", "hydra/launcher=slurm", *options, *ranks, tasks],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = tmp_path / "sweep" / "0"
    cluster.wait_until(lambda: lines(run) >= 2 or process.poll() is not None, 300)
    subprocess.run(["scancel", "--signal=USR2", str(read_sweep(tmp_path / "sweep").jobs[0].id)], check=True)
    out, error = process.communicate(timeout=400)
    assert process.returncode == 1, out + error
    assert "rank 1 of 2" in error
    assert "RuntimeError: rank 1 is made to fail" in error
    assert "TypeError" not in error
    assert run_folder.run_state(run) == "finished", out + error
    assert [entry["state"] for entry in run_folder.read_record(run)["earlier"]] == ["preempted"]
    assert run_folder.read_record(run)["ranks"] == 2
    alone = tmp_path / "alone"
    command("-m", "llm", *options, "task.name=slurm_task:Slow", f"hydra.run.dir={alone}", PYTHONPATH=path)
    ours, theirs = (read_jsonl(folder / "metrics.jsonl") for folder in (run, alone))
    assert [row["step"] for row in ours] == list(range(8))
    for row, other in zip(ours, theirs, strict=True):
        assert row == {key: pytest.approx(value, abs=1e-4, rel=1e-4) for key, value in other.items()}
    assert json.loads((run / "summary.json").read_text())["completions"] == 16
    assert (run / "policy" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("on_failure", "states"),
    [pytest.param("retry:2", ["finished"], marks=pytest.mark.long), ("stop", ["failed", "preempted"])],
)
def test_on_failure(cluster, tmp_path, on_failure, states):
    """With retry, a job that fails twice finishes the third time. With stop, a job that fails ends the other."""
    fails = f"""
        import os, time, pathlib; time.sleep(.1); tries = pathlib.Path({str(tmp_path / "tries")!r})
        if step == 4 and config.seed == 0 and (not tries.exists() or len(tries.read_text()) < 2):
            tries.open("a").write("x"); raise RuntimeError("made up")
    """
    cwd = made_up_tree(tmp_path, textwrap.dedent(fails).strip().replace("\n", "\n        "))
    sweep = tmp_path / "sweep"
    seeds = "seed=0" if on_failure.startswith("retry") else "seed=0,5"
    steps = "steps=30" if on_failure.startswith("retry") else "steps=300"
    ids = submit(
        cluster,
        sweep,
        "didactic",
        *BANDIT[:2],
        *BANDIT[3:],
        steps,
        seeds,
        f"hydra.launcher.on_failure={on_failure}",
        cwd=cwd,
    )
    time.sleep(2)
    wait_for_end(cluster, ids)
    assert [run_folder.run_state(sweep / str(number)) for number in range(len(ids))] == states
    if on_failure.startswith("retry"):
        assert [entry["state"] for entry in run_folder.read_record(sweep / "0")["earlier"]] == ["failed", "failed"]
