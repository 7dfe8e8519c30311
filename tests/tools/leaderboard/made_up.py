"""Runs and records of the leaderboard that no training made."""

from omegaconf import OmegaConf

from launch.cli.compose import compose
from launch.cluster.sweep import Sweep, SweepJob, write_sweep

from ...launch.made_up import write_run

VERSIONS = {"python": "3.11", "torch": "2.13", "transformers": "5", "numpy": "2", "rich": "13"}


def results(correct, coverage, entropy):
    return {"correct": correct, "coverage": coverage, "entropy_nats": entropy, "effective_answers": 1 + entropy}


def record(method, seed, correct, coverage, entropy=0.5, *, task="one_of_many", beta=0.1, settings=None):
    """The record of a run with the settings of its method's files, or with others."""
    from tools.leaderboard.records import present_settings

    return {
        "method": method,
        "task": task,
        "seed": seed,
        "beta": beta,
        "settings": {**(present_settings(task, method) or {}), **(settings or {})},
        **results(correct, coverage, entropy),
        "base": results(0.7 + seed / 100, 0.9, 1.2),
        "versions": {"torch": "2.13"},
        "commit": "0123456789abcdef",
        "modified": False,
    }


def write_sweep_of(folder, runs):
    """A sweep of finished runs, each given as (overrides, results of the policy)."""
    jobs = []
    for number, (overrides, summary) in enumerate(runs):
        config = compose("llm", overrides, checked=False)
        run = folder / str(number)
        of_all = {**summary, "base": results(0.7, 0.9, 1.2)}
        recorded = {"command": ["python", "-m", "llm", *overrides], "versions": VERSIONS}
        write_run(run, config, summary=of_all, code={"commit": "0123456789", "dirty": True}, **recorded)
        (run / "overrides.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(list(overrides))))
        jobs.append(SweepJob(number, list(overrides), str(number)))
    write_sweep(folder, Sweep("llm", ["python", "-m", "llm", "-m"], "basic", jobs))
    return folder
