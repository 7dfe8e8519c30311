from itertools import product

import pytest

from launch.cluster.sweep import Sweep, SweepJob, write_sweep

from .made_up import HOSTILE, write_chem_run, write_llm_run


@pytest.fixture
def sweep(tmp_path):
    """2 transforms x 3 seeds; one run failed, one never started, one was killed."""
    folder, jobs = tmp_path / "sweep", []
    for number, (transform, seed) in enumerate(product(("identity", "mara"), range(3))):
        jobs.append(SweepJob(number, ["experiment=one_two", f"transform={transform}", f"seed={seed}"], str(number)))
        run = folder / str(number)
        if (transform, seed) == ("identity", 2):
            write_llm_run(run, seed, 0.1, transform, "failed", f"ValueError: {HOSTILE}")
        elif (transform, seed) == ("mara", 2):
            write_llm_run(run, seed, 0.1, transform, "running")
        elif (transform, seed) != ("mara", 1):
            results = {"correct": 0.9 + seed / 100, "entropy_nats": seed * (transform == "mara")}
            others = {"entropy_nats/se": 0.5, "base": {"correct": 0.5}, "note": "text", "none": None}
            write_llm_run(run, seed, 0.1, transform, **results, **others)
    write_sweep(folder, Sweep("llm", ["python", "-m", "llm", "-m"], "basic", jobs))
    return folder


@pytest.fixture
def chem_sweep(tmp_path):
    """2 methods x 3 seeds with galleries and curves, all finished."""
    folder, jobs = tmp_path / "chem_sweep", []
    for number, (method, seed) in enumerate(product(("plain", "mara"), range(3))):
        write_chem_run(folder / str(number), seed, method)
        jobs.append(SweepJob(number, [f"method={method}", f"seed={seed}"], str(number)))
    write_sweep(folder, Sweep("chem", ["python", "-m", "chem", "-m"], "basic", jobs))
    return folder
