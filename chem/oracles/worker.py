"""A process that scores molecules, one after the other: `python -m chem.oracles.worker CHANNEL LIFELINE`.

The pool starts it as the leader of a session of its own, so that what a molecule starts can be ended with it. A small
child waits on the lifeline, a pipe whose other end the pool alone holds: when the pool is gone, kill -9 included, it
ends the session and removes its temporary files.
"""

import logging
import os
import shutil
import sys
import tempfile
import time
from multiprocessing.connection import Connection

from chem.parallel.processes import ignore_stop_signals, kill_session


def guard(channel: int, lifeline: int) -> None:
    """Leave a child behind that ends the whole session when the lifeline breaks."""
    if os.fork():
        os.close(lifeline)
        return
    os.close(channel)
    os.read(lifeline, 1)
    kill_session(os.getsid(0), spare=os.getpid())
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
    os._exit(0)


def main() -> None:
    channel, lifeline = int(sys.argv[1]), int(sys.argv[2])
    ignore_stop_signals()
    guard(channel, lifeline)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries that print
    connection = Connection(channel)
    config, path = connection.recv()
    sys.path[:] = path

    from rdkit import rdBase

    from chem.oracles.compose import Scorer, describe
    from conf.schema.base import ConfigError

    try:
        scorer = Scorer(config)
        rdBase.DisableLog("rdApp.*")  # not before: a component's library may have set up its own
        logging.getLogger("rdkit").setLevel(logging.CRITICAL + 1)
        connection.send(("ready", scorer.identity()))
    except ConfigError as error:
        connection.send(("refused", str(error)))
        return
    except Exception as error:
        connection.send(("refused", f"oracle: cannot start: {describe(error)}"))
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
        for number, smiles in tasks:
            connection.send(("result", number, scorer(smiles), time.monotonic()))


if __name__ == "__main__":
    main()
