"""The ranks of a job and the communication between them. A single process is rank 0 of 1."""

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from conf.schema.base import ConfigError

DEFAULTS = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}  # the environment variables that torchrun sets


class Ranks(NamedTuple):
    """This process's rank, the number of ranks, and its rank among the processes on this machine."""

    rank: int
    world: int
    local_rank: int


def current_ranks() -> Ranks:
    """The rank of this process, from submitit if it started the process, otherwise from torchrun's variables.

    Raises:
        ConfigError: a variable is not a whole number, or RANK is not below WORLD_SIZE.
    """
    if "SUBMITIT_EXECUTOR" in os.environ:
        from submitit import JobEnvironment

        job = JobEnvironment()
        ranks = Ranks(job.global_rank, job.num_tasks, job.local_rank)
    else:
        ranks = Ranks(*(_variable(name, default) for name, default in DEFAULTS.items()))
    if not 0 <= ranks.rank < ranks.world:
        raise ConfigError(f"RANK: must be from 0 to WORLD_SIZE - 1, got {ranks.rank} of {ranks.world}")
    return ranks


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{name}: must be a whole number, got {text!r}")
    return int(text)


def init() -> Ranks:
    """Connect the ranks through MASTER_ADDR and MASTER_PORT, unless there is one rank or they are connected already.

    Raises:
        ConfigError: there are several ranks, and one of these variables is not set.
    """
    ranks = current_ranks()
    if ranks.world > 1 and not dist.is_initialized():
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            if name not in os.environ:
                raise ConfigError(f"{name}: this environment variable must be set to connect {ranks.world} ranks")
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(ranks.local_rank % torch.cuda.device_count())
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world)
    return ranks


def barrier() -> None:
    """Wait for all ranks."""
    max_over_ranks([0])


def broadcast(value: Any) -> Any:
    """Return rank 0's value on every rank. JSON must be able to represent it."""
    if not dist.is_initialized():
        return value
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(text)])
    dist.broadcast(length, src=0)
    if dist.get_rank() != 0:
        text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, src=0)
    return json.loads(bytes(text.tolist()))


def gather_objects(value: Any) -> list[Any]:
    """Return the values of all ranks, in the order of ranks, on every rank. JSON must be able to represent them."""
    if not dist.is_initialized():
        return [value]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.empty(1, dtype=torch.long) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor([len(text)]))
    padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
    padded[: len(text)] = text
    texts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(texts, padded)
    return [json.loads(bytes(buffer[: int(n)].tolist())) for buffer, n in zip(texts, lengths, strict=True)]


def gather_lists(items: Sequence[Any]) -> list[Any]:
    """Return the items of all ranks as one list, in the order of ranks, on every rank. As `gather_objects`."""
    return [item for of_rank in gather_objects(list(items)) for item in of_rank]


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, in the order of ranks, on every rank.

    Args:
        rows: [N, ...], where N and the other sizes may differ from rank to rank.

    Returns:
        [sum of N, ...] without gradient; the other axes are padded with 0 to the largest size.
    """
    if not dist.is_initialized():
        return rows.detach()
    sizes = gather_objects(list(rows.shape))
    padded = torch.zeros([max(axis) for axis in zip(*sizes, strict=True)], dtype=rows.dtype, device=rows.device)
    padded[tuple(slice(n) for n in rows.shape)] = rows.detach()
    sent = padded.byte() if rows.dtype == torch.bool else padded
    parts = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(parts, sent)
    return torch.cat([part[: size[0]] for part, size in zip(parts, sizes, strict=True)]).to(rows.dtype)


def shard_range(count: int) -> range:
    """The range of `count` items that belongs to this rank. The ranges are consecutive and as even as possible."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    return range(rank * count // world, (rank + 1) * count // world)


def max_over_ranks(values: Sequence[int]) -> list[int]:
    """The maximum over the ranks of each value."""
    if not dist.is_initialized():
        return list(values)
    tensor = torch.tensor(values)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [int(value) for value in tensor]
