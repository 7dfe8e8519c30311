"""The oracle as a run sees it: scores a batch of SMILES in worker processes, which may crash or hang."""

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

START_LIMIT_S = 600.0  # for a worker to import and create its components, and for the preflight
FAILURE_WINDOW = 200  # results over which the share of failures is taken
MIN_RESULTS = 20  # results needed before that share can stop a run
MAX_CHUNK = 64  # molecules sent to a worker at a time

Tasks = deque[tuple[int, str]]  # (index in the batch, SMILES)


class OracleError(RuntimeError):
    """The oracle cannot continue: too many failures, workers that do not start, or it is closed."""


@dataclass
class Worker:
    """A worker process with its pipes and its tasks.

    Attributes:
        process: leader of its session.
        connection: for tasks and results.
        lifeline: descriptor whose closing ends the session.
        folder: for temporary files.
        tasks: sent and not answered, in order.
        since: time at which it began with the first of them.
    """

    process: subprocess.Popen[bytes]
    connection: Connection
    lifeline: int
    folder: Path
    tasks: Tasks = field(default_factory=deque)
    since: float = 0.0

    def end(self) -> None:
        """End the process with everything it started, and remove its temporary files."""
        kill_session(self.process.pid)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.connection.close()
        os.close(self.lifeline)


class Oracle:
    """Scores molecules in worker processes.

    Use it as a context manager, or call `close`. A worker that crashes or exceeds the time limit is ended together
    with every process it started; the molecule at fault is `failed` or `timed_out`, and the others go to another
    worker.

    Attributes:
        identity: JSON of everything that a score depends on: components, parameters, versions, file hashes, seed.
        key: hash of the identity, for a cache of results.
        counts: number of results with each status so far.
        notes: lines that the preflight returned.

    Raises:
        ConfigError: a component cannot be created, or its preflight fails.
        OracleError: too many of the last results are failures; the message has the first one. The oracle is then
            closed.
    """

    def __init__(self, config: OracleConfig) -> None:
        check_config(config, "oracle.")
        self.config = config
        self.size = config.workers or len(os.sched_getaffinity(0))
        self.counts: Counter[Status] = Counter()
        self._recent: deque[Result] = deque(maxlen=FAILURE_WINDOW)
        self._failures = 0  # among the recent results
        self._workers: list[Worker] = []
        self._closed = False
        self._batched = False  # whether a worker scores all that it is sent at once
        self._alone: set[str] = set()  # molecules that are sent one at a time, since their batch ended a worker
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
        """Score molecules and wait for the results, which are in the same order.

        Pass canonical SMILES, so that a molecule has one score.
        """
        return self.submit(smiles).result()

    def submit(self, smiles: Sequence[str]) -> "Future[list[Result]]":
        """Score molecules without waiting. Several batches are scored one after the other."""
        return self._thread.submit(self._score, list(smiles))

    def close(self) -> None:
        """End all workers and everything they started. A batch in progress raises OracleError."""
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
                raise OracleError("oracle: it is closed")
            connection, worker_end = Pipe()
            read_end, lifeline = os.pipe()
            folder = Path(tempfile.mkdtemp(prefix="mara-oracle-"))
            descriptors = worker_end.fileno(), read_end
            process = start_module("chem.oracles.worker", descriptors, session=True, TMPDIR=str(folder))
            worker_end.close()
            os.close(read_end)
            worker = Worker(process, connection, lifeline, folder)
            self._workers.append(worker)
        connection.send((self.config, import_path()))
        return worker

    def _await_ready(self, worker: Worker) -> dict[str, Any]:
        identity: dict[str, Any] = self._receive(worker)
        return identity

    def _receive(self, worker: Worker) -> Any:
        """Wait for a message of a worker that is starting."""
        if not worker.connection.poll(START_LIMIT_S):
            raise OracleError(f"oracle: a worker did not start within {START_LIMIT_S:g} s")
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            code = worker.process.wait()
            raise OracleError(f"oracle: a worker process ended while it started ({exit_text(code)})") from None
        if kind == "refused":
            raise ConfigError(content)
        self._batched = self._batched or kind == "ready for batches"
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
            raise OracleError("oracle: it is closed")
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

    def _send(self, worker: Worker, todo: Tasks) -> None:
        """Send half of a worker's even share of the rest: few messages at first, and all workers end together.

        A worker that scores them at once gets its whole share, since a batch costs little more than a molecule.
        """
        share = -(-len(todo) // self.size) if self._batched else len(todo) // (2 * self.size)
        count = min(max(share, 1), MAX_CHUNK)
        if self._alone:
            count = next((i for i, (_, smiles) in enumerate(todo) if i >= count or smiles in self._alone), count) or 1
        chunk = [todo.popleft() for _ in range(count)]
        worker.tasks.extend(chunk)
        worker.since = time.monotonic()
        with suppress(OSError):  # the worker has died: noticed when we read from it
            worker.connection.send(("score", chunk))

    def _next_results(self, todo: Tasks) -> list[tuple[int, Result]]:
        """Wait until a worker answers, dies or exceeds the time limit."""
        busy = {worker.connection.fileno(): worker for worker in self._workers if worker.tasks}
        deadline = min(worker.since + self._limit(worker) for worker in busy.values())
        results = []
        for channel in wait_readable(busy, deadline - time.monotonic()):
            worker = busy[channel]
            try:
                while worker.tasks and wait_readable([channel], 0):
                    _, number, result, worker.since = worker.connection.recv()
                    worker.tasks.popleft()
                    results.append((number, result))
            except (EOFError, OSError):
                if self._closed:
                    raise OracleError("oracle: it was closed while it scored a batch") from None
                results += self._fail_current(worker, todo, Status.failed)
        now = time.monotonic()
        for worker in busy.values():
            late = worker.tasks and now - worker.since > self._limit(worker)
            if late and not wait_readable([worker.connection.fileno()], 0):
                results += self._fail_current(worker, todo, Status.timed_out)
        return results

    def _limit(self, worker: Worker) -> float:
        """Time that a worker has for its next answer, seconds."""
        return self.config.time_limit_s * (len(worker.tasks) if self._batched else 1)

    def _fail_current(self, worker: Worker, todo: Tasks, status: Status) -> list[tuple[int, Result]]:
        """Replace a worker, fail the molecule that it was scoring and return its other tasks to `todo`.

        If it was scoring several at once, none fails: they are sent again one at a time, to find the one at fault.
        """
        if self._batched and len(worker.tasks) > 1:
            self._alone |= {smiles for _, smiles in worker.tasks}
            todo.extendleft(reversed(worker.tasks))
            worker.tasks.clear()
            self._replace(worker)
            return []
        number, smiles = worker.tasks.popleft()
        todo.extendleft(reversed(worker.tasks))
        worker.tasks.clear()
        seconds = time.monotonic() - worker.since
        if status is Status.failed:
            message = f"the worker process ended ({exit_text(worker.process.wait())})"
        else:
            message = f"no answer within {self.config.time_limit_s:g} s"
        self._replace(worker)
        return [(number, Result(smiles, status, None, message=message, seconds=seconds))]

    def _record(self, result: Result) -> None:
        """Count a result, and raise OracleError if too many of the recent ones are failures."""
        self.counts[result.status] += 1
        if len(self._recent) == FAILURE_WINDOW:
            self._failures -= self._recent[0].failure
        self._recent.append(result)
        self._failures += result.failure
        if len(self._recent) >= MIN_RESULTS and self._failures > self.config.max_failed_share * len(self._recent):
            first = next(recent for recent in self._recent if recent.failure)
            raise OracleError(
                f"oracle: {self._failures} of the last {len(self._recent)} molecules failed, more than "
                f"oracle.max_failed_share={self.config.max_failed_share:g} allows; the first failure: "
                f"{first.smiles[:200]} {first.status.value}: {first.message}"
            )


def wait_readable(channels: Iterable[int], seconds: float) -> list[int]:
    """Wait until a file descriptor can be read from or its other end is closed; return all that are ready.

    multiprocessing's own wait and poll take most of the time when each molecule has its own message.
    """
    poller = select.poll()
    for channel in channels:
        poller.register(channel, select.POLLIN)
    return [channel for channel, _ in poller.poll(max(seconds, 0.0) * 1000)]


def exit_text(code: int) -> str:
    """Exit status of a process in words: a signal or a number."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
