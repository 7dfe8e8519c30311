"""The ranks of a job: who this process is, and how ranks agree. One process alone is rank 0 of 1."""

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import distributed as dist

from conf.schema import ConfigError

DEFAULTS = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}  # torchrun's variables


class Ranks(NamedTuple):
    rank: int
    world: int
    local_rank: int


def current() -> Ranks:
    """From submitit's environment where it started this process, else from torchrun's variables.

    Raises:
        ConfigError: variables that do not fit together.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        from submitit import JobEnvironment

        job = JobEnvironment()
        ranks = Ranks(job.global_rank, job.num_tasks, job.local_rank)
    else:
        ranks = Ranks(*(_variable(name, default) for name, default in DEFAULTS.items()))
    if not 0 <= ranks.rank < ranks.world:
        raise ConfigError(f"RANK: must be from 0 to WORLD_SIZE - 1, found {ranks.rank} of {ranks.world}")
    return ranks


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name}: must be a whole number, found {text!r}")
    return int(text)


def join() -> Ranks:
    """Connect the ranks (MASTER_ADDR and MASTER_PORT say where); does nothing for one process, or a second time."""
    ranks = current()
    if ranks.world > 1 and not dist.is_initialized():
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                raise ConfigError(f"{name}: must be set for {ranks.world} ranks, found nothing")
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world)
    return ranks


def barrier() -> None:
    """Wait for all ranks."""
    highest([0])


def share(value: Any) -> Any:
    """Rank 0's value, which JSON must be able to hold, on every rank."""
    if not dist.is_initialized():
        return value
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(text)])
    dist.broadcast(length, src=0)
    if dist.get_rank() != 0:
        text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, src=0)
    return json.loads(bytes(text.tolist()))


def highest(values: Sequence[int]) -> list[int]:
    """Each value's maximum over the ranks."""
    if not dist.is_initialized():
        return list(values)
    tensor = torch.tensor(values)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [int(value) for value in tensor]
