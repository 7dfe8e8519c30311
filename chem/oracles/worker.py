"""A process that scores molecules: `python -m chem.oracles.worker CHANNEL LIFELINE`.

It scores them one after the other, or, if a component has `score_batch`, all that it is sent at once.

The pool starts it as the leader of a session, so that everything a molecule starts can be ended with it. A small
child process, the guard, waits on the lifeline, a pipe whose other end only the pool holds. When the pool is gone,
even after kill -9, the guard ends the session and removes its temporary files.
"""

import logging
import os
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection

from chem.parallel.processes import ignore_stop_signals, kill_session


def start_guard(channel: int, lifeline: int) -> None:
    """Fork a child that ends the whole session when the lifeline breaks; return in the parent only."""
    if os.fork():
        os.close(lifeline)
        return
    os.close(channel)
    os.read(lifeline, 1)
    kill_session(os.getsid(0), spare=os.getpid())
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
    os._exit(0)


def main() -> None:
    """Create the oracle and score molecules until the pipe closes."""
    channel, lifeline = int(sys.argv[1]), int(sys.argv[2])
    ignore_stop_signals()
    start_guard(channel, lifeline)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # some libraries print
    connection = Connection(channel)
    config, path = connection.recv()
    sys.path[:] = path

    from rdkit import rdBase

    from chem.oracles.compose import Scorer, error_text
    from conf.schema.base import ConfigError

    try:
        scorer = Scorer(config)
        rdBase.DisableLog("rdApp.*")  # only now: a component's library may have configured logging
        logging.getLogger("rdkit").setLevel(logging.CRITICAL + 1)
        connection.send(("ready for batches" if scorer.batched else "ready", scorer.identity()))
    except ConfigError as error:
        connection.send(("refused", str(error)))
        return
    except Exception as error:
        connection.send(("refused", f"oracle: a worker cannot start: {error_text(error)}"))
        return
    while True:
        try:
            kind, tasks = connection.recv()
        except (EOFError, OSError):
            return
        if kind == "preflight":
            try:
                connection.send(("preflight", scorer.preflight()))
            except ConfigError as error:
                connection.send(("refused", str(error)))
            continue
        strings = [smiles for _, smiles in tasks]
        results = scorer.score_batch(strings) if scorer.batched else map(scorer, strings)
        for (number, _), result in zip(tasks, results, strict=True):
            connection.send(("result", number, result, time.monotonic()))


if __name__ == "__main__":
    main()
