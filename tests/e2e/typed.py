"""Run commands as a user types them."""

import os

from ..commands import ROOT, run_module


def llm(*arguments, folder=ROOT, status=0, module="llm"):
    """Run `python -m llm` or another module in a folder, and return its standard output and standard error."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = run_module(module, *arguments, folder=folder, status=status, PYTHONPATH=path)
    return done.stdout, done.stderr
