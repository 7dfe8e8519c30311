"""The ranks of a job. `python test_distributed.py` is what each of two ranks runs, once for all tests."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conf.schema.base import ConfigError
from launch.engines import distributed

ROOT = Path(__file__).parents[3]


def communicate():
    """What each function gives on this rank, for inputs that depend on the rank."""
    rank = distributed.init().rank
    distributed.barrier()
    rows = torch.full((rank + 1, 3 - rank), float(rank + 1), requires_grad=True)
    gathered = distributed.gather_rows(rows)
    flags = distributed.gather_rows(torch.tensor([[True, rank == 0]]))
    return {
        "broadcast": distributed.broadcast({"rank": rank, "text": "é" * (1 + rank)}),
        "objects": distributed.gather_objects(["x" * 100 * rank, rank]),
        "lists": distributed.gather_lists([str(rank)] * (rank + 1)),
        "rows": gathered.tolist(),
        "has_gradient": gathered.requires_grad,
        "flags": [str(flags.dtype), flags.tolist()],
        "shards": [list(distributed.shard_range(count)) for count in (0, 1, 5, 6)],
        "max": distributed.max_over_ranks([rank, 5 - rank, -rank]),
    }


@pytest.fixture(scope="module")
def two_ranks():
    """The results of two processes that are connected through gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared.pop("SUBMITIT_EXECUTOR", None)
    processes = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_every_rank_gets_rank_0s_value(two_ranks):
    assert [result["broadcast"] for result in two_ranks] == [{"rank": 0, "text": "é"}] * 2


def test_every_rank_gets_all_values_in_order(two_ranks):
    assert [result["objects"] for result in two_ranks] == [[["", 0], ["x" * 100, 1]]] * 2
    assert [result["lists"] for result in two_ranks] == [["0", "1", "1"]] * 2


def test_rows_are_padded_to_the_longest_and_have_no_gradient(two_ranks):
    rows = [[1.0, 1.0, 1.0], [2.0, 2.0, 0.0], [2.0, 2.0, 0.0]]
    assert [(result["rows"], result["has_gradient"]) for result in two_ranks] == [(rows, False)] * 2
    assert [result["flags"] for result in two_ranks] == [["torch.bool", [[True, True], [True, False]]]] * 2


def test_shards_are_consecutive_and_even(two_ranks):
    first, second = (result["shards"] for result in two_ranks)
    assert [a + b for a, b in zip(first, second, strict=True)] == [list(range(count)) for count in (0, 1, 5, 6)]
    assert [abs(len(a) - len(b)) for a, b in zip(first, second, strict=True)] == [0, 1, 1, 0]


def test_the_maximum_is_over_the_ranks(two_ranks):
    assert [result["max"] for result in two_ranks] == [[1, 5, 0]] * 2


def test_one_process_needs_no_connection(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SUBMITIT_EXECUTOR", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.init() == (0, 1, 0)
    assert not torch.distributed.is_initialized()
    rows = torch.ones(2, 3, requires_grad=True)
    assert torch.equal(distributed.gather_rows(rows), rows.detach())
    assert not distributed.gather_rows(rows).requires_grad
    assert distributed.broadcast(object) is object
    assert distributed.gather_objects(3) == [3]
    assert distributed.gather_lists((1, 2)) == [1, 2]
    assert distributed.shard_range(5) == range(5)
    assert distributed.max_over_ranks((2, 3)) == [2, 3]


def test_ranks_come_from_torchruns_variables(monkeypatch):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.current_ranks() == (0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(ConfigError, match="RANK: must be from 0 to WORLD_SIZE - 1, got 3 of 1"):
        distributed.current_ranks()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distributed.current_ranks() == (3, 4, 0)
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(ConfigError, match="LOCAL_RANK: must be a whole number"):
        distributed.current_ranks()


def test_ranks_come_from_submitit_first(monkeypatch):
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("RANK", "7")
    job = type("Job", (), {"global_rank": 2, "num_tasks": 4, "local_rank": 1})
    monkeypatch.setattr(submitit, "JobEnvironment", job)
    assert distributed.current_ranks() == (2, 4, 1)


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_several_ranks_need_an_address(monkeypatch, missing):
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with pytest.raises(ConfigError, match=rf"^{missing}: this environment variable must be set to connect 2 ranks"):
        distributed.init()


if __name__ == "__main__":
    print(json.dumps(communicate()))
    torch.distributed.barrier()  # a rank that ends early may abort the threads of the other
    torch.distributed.destroy_process_group()
