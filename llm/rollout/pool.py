"""The servers of a run: jobs divided among them, repeated where a server fails, and the weights that they have."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, TypeVar

from llm.rollout.base import RolloutFailed
from llm.rollout.client import Client, Completion, Ends, Job, NoAnswer, ServerFault, ServerRefusal, WrongWeights
from llm.rollout.server import ServerProcess

MAX_JOB = 64  # completions in one request
REQUESTS = 64  # to a server at a time
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a request is repeated, doubled each time

Answer = TypeVar("Answer")


class Weights(NamedTuple):
    """What the servers sample with.

    version: names the weights; new after each update.
    folder: where they are.
    adapter: whether they are an adapter, which then has the version as its name.
    previous: the version before; None for the first.
    """

    version: str
    folder: str
    adapter: bool
    previous: str | None


class Servers:
    """One or several servers that sample for a run.

    Methods are safe to call from several threads.

    Args:
        addresses: running servers.
        processes: servers that the run has started, in place of addresses.
        timeout: seconds for an answer.
        start_seconds: seconds for the start of a process.
        retries: how often a request is repeated.
        warn: prints a warning.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        processes: Sequence[ServerProcess],
        *,
        timeout: float,
        start_seconds: float,
        retries: int,
        warn: Callable[[str], None],
    ) -> None:
        self._addresses = [address.rstrip("/") for address in addresses]
        self._processes = list(processes)
        self._timeout, self._start_seconds, self._retries, self._warn = timeout, start_seconds, retries, warn
        self._locks = [threading.Lock() for _ in range(len(self))]
        self._weights: Weights | None = None
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(max_workers=max(REQUESTS * len(self), 1), thread_name_prefix="rollout")

    def __len__(self) -> int:
        return len(self._processes or self._addresses)

    @property
    def addresses(self) -> list[str]:
        """The present addresses."""
        return [process.address for process in self._processes] or self._addresses

    def start(self) -> None:
        """Start the processes and wait until all servers answer.

        Raises:
            RolloutFailed: one does not.
        """
        for process in self._processes:
            process.start()
        for index, process in enumerate(self._processes):
            try:
                process.wait(self._start_seconds)
            except ServerFault as fault:
                raise RolloutFailed(f"rollout: the server {index} {fault}") from None

    def find(self, addresses: Sequence[str]) -> None:
        """Use servers that another rank has started, unless this rank has started some."""
        self._addresses = list(addresses)
        if not self._locks:
            self._locks = [threading.Lock() for _ in addresses]
            self._threads = ThreadPoolExecutor(max_workers=REQUESTS * len(addresses), thread_name_prefix="rollout")

    def close(self) -> None:
        """End the threads and the processes."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.stop()

    def load(self, weights: Weights) -> None:
        """Give all servers new weights. No job may be in progress.

        Raises:
            RolloutFailed: a server does not take them.
        """
        self._weights = weights
        self._all([partial(self._repeat, i, partial(give, weights=weights), False) for i in range(len(self))])

    def use(self, weights: Weights) -> None:
        """Name the weights that another rank has given the servers."""
        self._weights = weights

    def sample(self, groups: Sequence[tuple[list[int], int]], size: int, ends: Ends) -> list[Completion]:
        """Sample `size` completions for each (prompt, seed), in their order.

        Raises:
            RolloutFailed: a job failed on every attempt.
        """
        jobs = divide(groups, size, len(self))
        calls = [partial(self._repeat, k, partial(self._run, job=job, ends=ends)) for k, job in enumerate(jobs)]
        results = self._all(calls)
        return [completion for completions in results for completion in completions]

    def _run(self, client: Client, job: Job, ends: Ends) -> list[Completion]:
        weights = self._weights
        assert weights is not None, "weights must be loaded before completions are sampled"
        return client.generate(job, ends, weights.version, weights.version if weights.adapter else None)

    def _all(self, calls: Sequence[Callable[[], Answer]]) -> list[Answer]:
        """The results of calls that run beside each other. The first error is raised once all have ended."""
        futures = [self._threads.submit(call) for call in calls]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]

    def _repeat(self, index: int, call: Callable[[Client], Answer], other_servers: bool = True) -> Answer:
        """Call with a server's client, again after a fault: on the next server, or on the same once it has recovered.

        Raises:
            RolloutFailed: the call failed on every attempt, or is rejected.
        """
        pause = FIRST_PAUSE
        for attempt in range(self._retries + 1):
            server = (index + attempt * other_servers) % len(self)
            address = self.addresses[server]
            try:
                return call(Client(address, self._timeout))
            except ServerRefusal as refusal:
                raise RolloutFailed(f"rollout: the server {address} {refusal}") from None
            except ServerFault as fault:
                message = f"the server {address} {fault}"
                if attempt == self._retries or self._closed.is_set():
                    raise RolloutFailed(f"rollout: {message}; {self._advice(server)}") from None
                self._warn(f"{message}; the request is repeated")
                self._recover(server, address, fault)
                if not self._processes:
                    self._closed.wait(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("unreachable")

    def _recover(self, index: int, address: str, fault: ServerFault) -> None:
        """Start a process again that has ended or hangs, and give a server the weights that it lacks."""
        with self._locks[index]:
            if self._closed.is_set() or self.addresses[index] != address:
                return  # another thread has started it again
            process = self._processes[index] if self._processes else None
            wrong = isinstance(fault, WrongWeights)
            try:
                if process is not None and not wrong and not works(process, fault):
                    process.stop()
                    process.start()
                    process.wait(self._start_seconds)
                    wrong = True
                if wrong and self._weights is not None:
                    give(Client(self.addresses[index], self._timeout), self._weights)
            except (ServerFault, ServerRefusal) as failed:
                self._warn(f"the server {self.addresses[index]} {failed}")

    def _advice(self, index: int) -> str:
        log = f"its output is in {self._processes[index].log}; " if self._processes else "start it again and "
        return f"{log}run the same command to resume"


def works(process: ServerProcess, fault: ServerFault) -> bool:
    """Whether a server goes on after a fault: it runs, says that it is well, and has not been silent for too long."""
    return process.running and not isinstance(fault, NoAnswer) and Client(process.address, 5.0).healthy()


def give(client: Client, weights: Weights) -> None:
    """Load weights on a server, and drop the adapter that they replace. Loading the same ones twice does no harm."""
    if not weights.adapter:
        client.load_weights(weights.folder, weights.version)
        return
    client.unload_adapter(weights.version)
    client.load_adapter(weights.version, weights.folder)
    if weights.previous is not None:
        client.unload_adapter(weights.previous)


def divide(groups: Sequence[tuple[list[int], int]], size: int, servers: int) -> list[Job]:
    """Divide groups of `size` completions into jobs, so that all servers have about as many completions."""
    count = max(min(MAX_JOB, -(-len(groups) * size // servers)), 1)
    return [
        Job(prompt, min(count, size - first), seed + first)
        for prompt, seed in groups
        for first in range(0, size, count)
    ]
