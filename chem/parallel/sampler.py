"""Processes of one core each that sample a part of a batch and compute its gradients.

Threads would be slower: the LSTM's loop issues tens of thousands of short operations a second, and Python's global
lock lets only one thread do so at a time. A worker is `python -m chem.parallel.sampler CHANNEL MEMORY`. It ends when
its pipe closes, also if the run was killed.
"""

import mmap
import os
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from chem.models.lstm_kernel import Trace, TracedRows, lstm_parameters
from chem.models.network import Network, Rollout, concat_rollouts, sample, token_logp
from chem.models.prior import make_network
from chem.models.recurrent import Recurrent
from chem.parallel.processes import ignore_stop_signals, start_module
from chem.parallel.threads import RowThreads
from conf.schema.chem import RecurrentConfig

SHARED_MEMORY = Path("/dev/shm")  # a temporary file is used where it does not exist


class SamplerWorker(Protocol):
    """Samples a part of a batch and computes the gradient of that part."""

    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        """`chem.models.network.sample`, and the log-probabilities [N, T] of the sampled tokens."""

    def gradients(self, logp_gradient: Tensor) -> list[Tensor]:
        """Gradients of `lstm_parameters` for the last draw.

        Args:
            logp_gradient: [N, T or more], gradient of the log-probabilities. Columns beyond T belong to longer
                molecules of other workers and are ignored.
        """


class LocalWorker:
    """Works in this process."""

    def __init__(self, network: Recurrent) -> None:
        self.network = network

    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        """See `SamplerWorker.draw`."""
        trace = Trace()
        rollout = sample(self.network, uniforms, trace)
        self.rows = TracedRows(rollout.tokens, rollout.mask, trace)
        return rollout, self.rows.logp()

    def gradients(self, logp_gradient: Tensor) -> list[Tensor]:
        """See `SamplerWorker.gradients`."""
        return self.rows.gradients(self.network.lstm, logp_gradient[:, : self.rows.mask.shape[1]])


class WorkerProcess:
    """Works in a process of its own, which shares weights and gradients with this one in memory."""

    def __init__(self, network: Recurrent) -> None:
        self.network = network
        size = 2 * sum(p.nbytes for p in lstm_parameters(network.lstm))
        self.connection, worker_end = Pipe()
        with tempfile.TemporaryFile(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # raises if the memory is full; writing would kill us
            self.weights, self.weight_gradients = shared_views(network, mmap.mmap(file.fileno(), size))
            self.process = start_module("chem.parallel.sampler", (worker_end.fileno(), file.fileno()))
        worker_end.close()
        cells, (vocabulary, width) = network.cells, network.embedding.weight.shape
        config = RecurrentConfig(
            "lstm", layers=cells.num_layers, hidden=cells.hidden_size, embedding=width, dropout=0.0
        )
        self.connection.send((vocabulary, config, network.head.weight.dtype))

    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        """See `SamplerWorker.draw`."""
        torch._foreach_copy_(self.weights, lstm_parameters(self.network.lstm))
        tokens, mask, complete, logp = map(torch.from_numpy, self._request("draw", uniforms.numpy()))
        return Rollout(tokens, mask, complete), logp

    def gradients(self, logp_gradient: Tensor) -> list[Tensor]:
        """See `SamplerWorker.gradients`; the result is overwritten by the next call."""
        self._request("gradients", logp_gradient.numpy())
        return self.weight_gradients

    def _request(self, task: str, values: Any) -> Any:
        try:
            self.connection.send((task, values))
            return self.connection.recv()
        except (EOFError, OSError):
            status = self.process.wait()
            raise RuntimeError(f"a process that samples molecules ended unexpectedly, exit status {status}") from None

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.connection.close()


def shared_views(network: Recurrent, memory: mmap.mmap) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors shaped like the network's parameters, and as many for their gradients, in shared memory."""
    like = lstm_parameters(network.lstm)
    flat = torch.frombuffer(memory, dtype=like[0].dtype)
    sizes = [parameter.numel() for parameter in like * 2]
    views = [part.view_as(parameter) for part, parameter in zip(flat.split(sizes), like * 2, strict=True)]
    return views[: len(like)], views[len(like) :]


class ParallelSampler:
    """Samples batches from a network and computes their gradients, with the rows split among cores.

    An LSTM without dropout has one worker per part, in processes except for the first; each keeps what its backward
    pass needs. Other networks sample in threads and read the sampled tokens a second time.

    Args:
        network: sampled as it is at the time of each `draw`.
        row_threads: its number of threads is the number of parts.
    """

    def __init__(self, network: Network, row_threads: RowThreads) -> None:
        self.network, self.row_threads, self.draws = network, row_threads, 0
        self.recurrent = network if isinstance(network, Recurrent) and network.traceable else None
        self.processes = (
            [WorkerProcess(self.recurrent) for _ in range(row_threads.count - 1)] if self.recurrent else []
        )
        self.workers: list[SamplerWorker] = [LocalWorker(self.recurrent), *self.processes] if self.recurrent else []

    def __enter__(self) -> "ParallelSampler":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.close()

    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        """`chem.models.network.sample`, and the log-probabilities [N, T] of the sampled tokens, with gradient.

        Call backward() before the next draw.

        Raises:
            RuntimeError: a worker process has ended.
        """
        self.draws += 1
        parts = self.row_threads.split(uniforms)
        if self.recurrent is None:
            rollout = concat_rollouts(self.row_threads.map(lambda part: sample(self.network, part), parts))
            return rollout, token_logp(self.network, rollout.tokens, rollout.mask)
        drawn = self.row_threads.map(lambda worker, part: worker.draw(part), self.workers, parts)
        rollout = concat_rollouts([rollout for rollout, _ in drawn])
        width = rollout.tokens.shape[1]
        logp = torch.cat([functional.pad(part, (0, width - part.shape[1])) for _, part in drawn])
        return rollout, _WithGradient.apply(logp, self, *lstm_parameters(self.recurrent.lstm))


class _WithGradient(torch.autograd.Function):
    """Attaches the workers' gradients to log-probabilities that they computed."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, sampler: ParallelSampler, *weights: Tensor) -> Tensor:
        ctx.sampler, ctx.draw = sampler, sampler.draws
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        if ctx.draw != ctx.sampler.draws:
            raise RuntimeError("call backward() before the next draw: the workers no longer have this one")
        row_threads, workers = ctx.sampler.row_threads, ctx.sampler.workers
        parts = row_threads.map(lambda worker, part: worker.gradients(part), workers, row_threads.split(gradient))
        return (None, None, *(sum(same[1:], same[0]) for same in zip(*parts, strict=True)))


def main() -> None:
    """A worker process: answers requests until its pipe closes."""
    channel, file = int(sys.argv[1]), int(sys.argv[2])
    ignore_stop_signals()
    torch.set_num_threads(1)
    connection = Connection(channel)
    vocabulary, config, dtype = connection.recv()
    network = make_network(vocabulary, config).to(dtype)
    assert isinstance(network, Recurrent)
    weights, weight_gradients = shared_views(network, mmap.mmap(file, 0))
    for parameter, view in zip(lstm_parameters(network.lstm), weights, strict=True):
        parameter.data = view
    worker = LocalWorker(network)
    with torch.no_grad(), suppress(EOFError, ConnectionError):
        while True:
            task, values = connection.recv()
            if task == "draw":
                rollout, logp = worker.draw(torch.from_numpy(values))
                connection.send([t.numpy() for t in (*rollout, logp)])
            else:
                torch._foreach_copy_(weight_gradients, worker.gradients(torch.from_numpy(values)))
                connection.send(None)


if __name__ == "__main__":
    main()
