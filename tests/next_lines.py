"""Check the lines `next: COMMAND` that commands print, without running the commands."""

import argparse
import contextlib
import importlib
import os
import shlex

from conf.schema.commands import COMMANDS

from .commands import run_module


class Parsed(Exception):
    """The arguments of a command can be parsed."""


def next_commands(output):
    """The commands in the output of a command, in their order."""
    return [line.removeprefix("next: ") for line in output.splitlines() if line.startswith("next: ")]


def check_next(output, folder, monkeypatch):
    """Check that an output ends with one or two commands that can be typed in a folder; return them."""
    commands = next_commands(output)
    assert 1 <= len(commands) <= 2, output
    assert output.splitlines()[-len(commands) :] == [f"next: {command}" for command in commands]
    for command in commands:
        check_command(command, folder, monkeypatch)
    return commands


def check_command(command, folder, monkeypatch):
    """Check that a command line exists: its configuration composes, or its arguments can be parsed."""
    python, flag, module, *arguments = shlex.split(command)  # as a shell reads it
    assert (python, flag) == ("python", "-m"), command
    if module in COMMANDS:
        sweep = [word for word in arguments if word == "-m"]
        rest = [word for word in arguments if word != "-m"]
        if sweep:
            rest = [word if "[" in word else word.partition(",")[0] for word in rest]
        done = run_module(module, *rest, "--cfg", "job", folder=folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, words=None, namespace=None):
        parse(self, words, namespace)
        raise Parsed

    with monkeypatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        try:
            importlib.import_module(module).main(arguments)
        except Parsed:
            return
        except SystemExit as error:
            raise AssertionError(f"{command}: exit status {error.code}, in {os.getcwd()}") from None
    raise AssertionError(f"{command}: {module} parses no arguments")
