"""Processes of one core each that sample a part of a batch and compute its gradients.

Threads would be slower: the LSTM's loop issues tens of thousands of short operations a second, and the interpreter
lets one thread at a time do so. A worker is `python -m chem.parallel.sampler CHANNEL MEMORY`. It ends when the pipe
to it closes, also when the run was killed.
"""

import mmap
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

from chem.models.lstm_kernel import Trace, TracedRows, parameters
from chem.models.network import Network, Rollout, concat_rollouts, sample, token_logp
from chem.models.prior import make_network
from chem.models.recurrent import Recurrent
from chem.parallel.processes import ignore_stop_signals, start_module
from chem.parallel.threads import RowThreads
from conf.schema.chem import RecurrentConfig

SHARED_MEMORY = Path("/dev/shm")  # where there is none: a temporary file


class SamplerWorker(Protocol):
    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        """`chem.models.network.sample`, and the log-probabilities [N, T] of what was drawn."""

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        """The gradients of `chem.models.lstm_kernel.parameters`, given that of the log-probabilities.

        Args:
            gradient: [N, T or more]. Columns beyond T, of other workers' longer molecules, are ignored.
        """


class LocalWorker:
    """A share that is drawn in this process."""

    def __init__(self, network: Recurrent) -> None:
        self.network = network

    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        trace = Trace()
        rollout = sample(self.network, uniforms, trace)
        self.share = TracedRows(rollout.tokens, rollout.mask, trace)
        return rollout, self.share.logp()

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        return self.share.gradients(self.network.lstm, gradient[:, : self.share.mask.shape[1]])


class WorkerProcess:
    """A process of its own; the weights and their gradients are in memory that it shares with this one."""

    def __init__(self, network: Recurrent) -> None:
        self.network = network
        size = 2 * sum(p.nbytes for p in parameters(network.lstm))
        self.connection, theirs = Pipe()
        with tempfile.TemporaryFile(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None) as file:
            file.truncate(size)
            self.weights, self.found = views(network, mmap.mmap(file.fileno(), size))
            self.process = start_module("chem.parallel.sampler", (theirs.fileno(), file.fileno()))
        theirs.close()
        cells, (vocabulary, width) = network.cells, network.embedding.weight.shape
        config = RecurrentConfig(
            "lstm", layers=cells.num_layers, hidden=cells.hidden_size, embedding=width, dropout=0.0
        )
        self.connection.send((vocabulary, config, network.head.weight.dtype))

    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        torch._foreach_copy_(self.weights, parameters(self.network.lstm))
        tokens, mask, complete, logp = map(torch.from_numpy, self._ask("draw", uniforms.numpy()))
        return Rollout(tokens, mask, complete), logp

    def gradients(self, gradient: Tensor) -> list[Tensor]:
        self._ask("learn", gradient.numpy())
        return self.found

    def _ask(self, what: str, values: Any) -> Any:
        try:
            self.connection.send((what, values))
            return self.connection.recv()
        except (EOFError, OSError):
            status = self.process.wait()
            raise RuntimeError(f"a process that draws a share of the batch has ended, status {status}") from None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


def views(network: Recurrent, memory: mmap.mmap) -> tuple[list[Tensor], list[Tensor]]:
    """Room for the parameters and for their gradients in memory of that size."""
    like = parameters(network.lstm)
    flat = torch.frombuffer(memory, dtype=like[0].dtype)
    found = [part.view_as(p) for part, p in zip(flat.split([p.numel() for p in like] * 2), like * 2, strict=True)]
    return found[: len(like)], found[len(like) :]


class ParallelSampler:
    """Draws batches from a network and learns from them, rows shared among cores.

    Each share but the first has a process of its own where the network is an LSTM without dropout, which keeps what
    its backward pass needs. Other networks are read in threads, and read a second time what they drew.

    Args:
        network: as it then is in each call of `draw`.
        cores: as many threads as there are shares.
    """

    def __init__(self, network: Network, cores: RowThreads) -> None:
        self.network, self.cores, self.draws = network, cores, 0
        self.recurrent = network if isinstance(network, Recurrent) and network.traceable else None
        self.helpers = [WorkerProcess(self.recurrent) for _ in range(cores.count - 1)] if self.recurrent else []
        self.drawers: list[SamplerWorker] = [LocalWorker(self.recurrent), *self.helpers] if self.recurrent else []

    def __enter__(self) -> "ParallelSampler":
        return self

    def __exit__(self, *error: object) -> None:
        for helper in self.helpers:
            helper.close()

    def draw(self, uniforms: Tensor) -> tuple[Rollout, Tensor]:
        """As `chem.models.network.sample` does; and the tokens' log-probabilities [N, T], with gradient.

        The gradient is to be asked for before the next draw.

        Raises:
            RuntimeError: a helper has ended.
        """
        self.draws += 1
        parts = self.cores.share(uniforms)
        if self.recurrent is None:
            rollout = concat_rollouts(self.cores.map(lambda part: sample(self.network, part), parts))
            return rollout, token_logp(self.network, rollout.tokens, rollout.mask)
        drawn = self.cores.map(lambda drawer, part: drawer.draw(part), self.drawers, parts)
        rollout = concat_rollouts([one for one, _ in drawn])
        logp = torch.cat([functional.pad(one, (0, rollout.tokens.shape[1] - one.shape[1])) for _, one in drawn])
        return rollout, _WithGradient.apply(logp, self, *parameters(self.recurrent.lstm))


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logp: Tensor, shares: ParallelSampler, *weights: Tensor) -> Tensor:
        ctx.shares, ctx.draw = shares, shares.draws
        return logp

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        if ctx.draw != ctx.shares.draws:
            raise RuntimeError("the gradient of a draw must be asked for before the next draw")
        cores, drawers = ctx.shares.cores, ctx.shares.drawers
        parts = cores.map(lambda drawer, part: drawer.gradients(part), drawers, cores.share(gradient))
        return (None, None, *(sum(one[1:], one[0]) for one in zip(*parts, strict=True)))


def main() -> None:
    """A helper: draws and gradients in turn, until the pipe closes."""
    channel, file = int(sys.argv[1]), int(sys.argv[2])
    ignore_stop_signals()
    torch.set_num_threads(1)
    connection = Connection(channel)
    vocabulary, config, dtype = connection.recv()
    network = make_network(vocabulary, config).to(dtype)
    assert isinstance(network, Recurrent)
    weights, found = views(network, mmap.mmap(file, 0))
    for parameter, view in zip(parameters(network.lstm), weights, strict=True):
        parameter.data = view
    here = LocalWorker(network)
    with torch.no_grad(), suppress(EOFError, ConnectionError):
        while True:
            what, values = connection.recv()
            if what == "draw":
                rollout, logp = here.draw(torch.from_numpy(values))
                connection.send([t.numpy() for t in (*rollout, logp)])
            else:
                torch._foreach_copy_(found, here.gradients(torch.from_numpy(values)))
                connection.send(None)


if __name__ == "__main__":
    main()
