"""Turn a forked process into `python -m MODULE`. Standard library only, so that it imports nothing of a command."""

import atexit
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn


def become_command(words: Sequence[str], prepare: Callable[[], None]) -> NoReturn:
    """Run `python -m WORDS` in this process, and end it with the exit status that the command has.

    Args:
        words: the module and its arguments.
        prepare: called first, for example to change folder and redirect the output.
    """
    status = 1
    try:
        prepare()
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 0xFF)
