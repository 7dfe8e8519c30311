"""The oracle as a run sees it: a batch of SMILES in, one result each, from processes that may crash or hang."""

import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from chem.oracles.base import Result, Status
from chem.parallel.processes import import_path, kill_session, start_module
from conf.schema.base import ConfigError, check_config
from conf.schema.oracle import OracleConfig

START_LIMIT_S = 600.0  # for a worker to import and prepare, and for the preflight
WINDOW = 200  # results over which the share of failures is taken
ENOUGH = 20  # results before it is
CHUNK = 64  # molecules sent to a worker at a time, at most


class OracleError(RuntimeError):
    """The oracle cannot go on: too many failures, or workers that do not start."""


@dataclass
class Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    lifeline: int
    folder: Path  # for temporary files
    tasks: deque[tuple[int, str]] = field(default_factory=deque)  # sent and not answered, in order
    since: float = 0.0  # when it began with the first of them

    def end(self) -> None:
        """End the process with all that it started, and remove its temporary files."""
        kill_session(self.process.pid)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.connection.close()
        os.close(self.lifeline)


class Oracle:
    """Scores molecules in worker processes.

    Use as a context manager, or call `close`. A worker that crashes or exceeds the time limit is ended together with
    every process it started; the molecule at fault is `failed` or `timed_out` and the others go to another worker.

    Attributes:
        identity: JSON of all that a score depends on: components, parameters, versions, hashes of files, seed.
        key: its hash, for a cache of results.
        counts: how often each status was met so far.
        notes: lines of the preflight, to be shown.

    Raises:
        ConfigError: a component cannot be made, or fails its preflight.
        OracleError: too many of the last results are failures; the message holds the first. It is then closed.
    """

    def __init__(self, config: OracleConfig) -> None:
        check_config(config, "oracle.")
        self.config = config
        self.size = config.workers or len(os.sched_getaffinity(0))
        self.counts: Counter[Status] = Counter()
        self._recent: deque[Result] = deque(maxlen=WINDOW)
        self._failures = 0  # among them
        self._workers: list[Worker] = []
        self._closed = False
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="oracle")
        try:
            first = self._start_worker()
            self.identity = self._await_ready(first)
            first.connection.send(("preflight", None))
            others = [self._start_worker() for _ in range(self.size - 1)]
            self.notes: list[str] = self._receive(first)
            for worker in others:
                self._await_ready(worker)
        except BaseException:
            self.close()
            raise
        self.key = hashlib.sha256(json.dumps(self.identity, sort_keys=True, default=str).encode()).hexdigest()

    def __enter__(self) -> "Oracle":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, smiles: Sequence[str]) -> list[Result]:
        """One result for each SMILES, in their order; canonical ones, since the score of a molecule should be one."""
        return self.submit(smiles).result()

    def submit(self, smiles: Sequence[str]) -> "Future[list[Result]]":
        """The same without waiting: workers go on while the caller does something else. Batches queue up."""
        return self._thread.submit(self._score, list(smiles))

    def close(self) -> None:
        """End all workers and what they started. A batch under way raises OracleError."""
        with self._lock:
            self._closed = True
            for worker in list(self._workers):
                kill_session(worker.process.pid)
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._end_workers()

    # --- workers

    def _start_worker(self) -> Worker:
        with self._lock:
            if self._closed:
                raise OracleError("oracle: closed")
            ours, theirs = Pipe()
            read, write = os.pipe()
            folder = Path(tempfile.mkdtemp(prefix="mara-oracle-"))
            descriptors = theirs.fileno(), read
            process = start_module("chem.oracles.worker", descriptors, session=True, TMPDIR=str(folder))
            theirs.close()
            os.close(read)
            worker = Worker(process, ours, write, folder)
            self._workers.append(worker)
        ours.send((self.config, import_path()))
        return worker

    def _await_ready(self, worker: Worker) -> dict[str, Any]:
        identity: dict[str, Any] = self._receive(worker)
        return identity

    def _receive(self, worker: Worker) -> Any:
        """What a worker says while it starts."""
        if not worker.connection.poll(START_LIMIT_S):
            raise OracleError(f"oracle: a worker did not start within {START_LIMIT_S:g} s")
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            code = worker.process.wait()
            raise OracleError(f"oracle: a worker ended while it started ({ending(code)})") from None
        if kind == "refused":
            raise ConfigError(content)
        return content

    def _replace(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.end()
        self._await_ready(self._start_worker())

    def _end_workers(self) -> None:
        while self._workers:
            self._workers.pop().end()

    # --- a batch

    def _score(self, smiles: list[str]) -> list[Result]:
        if not self._workers:
            raise OracleError("oracle: closed")
        try:
            return self._results(smiles)
        except BaseException:
            self._end_workers()  # they may hold molecules of this batch
            raise

    def _results(self, smiles: list[str]) -> list[Result]:
        results: list[Result | None] = [None] * len(smiles)
        todo = deque(enumerate(smiles))
        while todo or any(worker.tasks for worker in self._workers):
            for worker in self._workers:
                if todo and not worker.tasks:
                    self._send(worker, todo)
            for number, result in self._next_results(todo):
                results[number] = result
                self._record(result)
        return [result for result in results if result is not None]

    def _send(self, worker: Worker, todo: deque[tuple[int, str]]) -> None:
        """Half of an even share of what is left: few messages at first, and an even end."""
        count = min(max(len(todo) // (2 * self.size), 1), CHUNK)
        chunk = [todo.popleft() for _ in range(count)]
        worker.tasks.extend(chunk)
        worker.since = time.monotonic()
        with suppress(OSError):  # it has died: seen when we read from it
            worker.connection.send(("score", chunk))

    def _next_results(self, todo: deque[tuple[int, str]]) -> list[tuple[int, Result]]:
        """Wait until a worker answers, dies or is late."""
        busy = {worker.connection.fileno(): worker for worker in self._workers if worker.tasks}
        limit = self.config.time_limit_s
        deadline = min(worker.since for worker in busy.values()) + limit
        found = []
        for channel in readable(busy, deadline - time.monotonic()):
            worker = busy[channel]
            try:
                while worker.tasks and readable([channel], 0):
                    _, number, result, worker.since = worker.connection.recv()
                    worker.tasks.popleft()
                    found.append((number, result))
            except (EOFError, OSError):
                if self._closed:
                    raise OracleError("oracle: closed while it scored a batch") from None
                found.append(self._give_up(worker, todo, Status.failed))
        now = time.monotonic()
        for worker in busy.values():
            if worker.tasks and now - worker.since > limit and not readable([worker.connection.fileno()], 0):
                found.append(self._give_up(worker, todo, Status.timed_out))
        return found

    def _give_up(self, worker: Worker, todo: deque[tuple[int, str]], status: Status) -> tuple[int, Result]:
        """Blame the molecule that the worker was at; the rest goes back."""
        number, smiles = worker.tasks.popleft()
        todo.extendleft(reversed(worker.tasks))
        worker.tasks.clear()
        seconds = time.monotonic() - worker.since
        if status is Status.failed:
            message = f"the worker process ended ({ending(worker.process.wait())})"
        else:
            message = f"no answer within {self.config.time_limit_s:g} s"
        self._replace(worker)
        return number, Result(smiles, status, None, message=message, seconds=seconds)

    def _record(self, result: Result) -> None:
        self.counts[result.status] += 1
        if len(self._recent) == WINDOW:
            self._failures -= self._recent[0].failure
        self._recent.append(result)
        self._failures += result.failure
        if len(self._recent) >= ENOUGH and self._failures > self.config.max_failed_share * len(self._recent):
            first = next(one for one in self._recent if one.failure)
            raise OracleError(
                f"oracle: {self._failures} of the last {len(self._recent)} molecules failed, more than "
                f"oracle.max_failed_share={self.config.max_failed_share:g}; the first: {first.smiles[:200]} "
                f"{first.status.value}: {first.message}"
            )


def readable(channels: Iterable[int], seconds: float) -> list[int]:
    """File descriptors at which something is to be read, or whose other end is gone, waiting so long for the first.

    Where there is a message for each molecule, multiprocessing's own wait and poll are most of what it costs.
    """
    poller = select.poll()
    for channel in channels:
        poller.register(channel, select.POLLIN)
    return [channel for channel, _ in poller.poll(max(seconds, 0.0) * 1000)]


def ending(code: int) -> str:
    """How a process ended, in words."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
