"""The commands, and how a user types each: `mara llm.plan` and `python -m llm.plan` are the same command.

Texts of this project write a command as `python -m MODULE`. `as_typed` turns it into what the user would type, where
a text is shown. Standard library only, so that `mara --help` appears at once.
"""

import argparse
import os
import re
from dataclasses import dataclass

STARTED_AS = "MARA_STARTED_AS"  # set to `mara` by that command, for itself and the processes it starts


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        words: what follows `mara`.
        module: what follows `python -m`.
        text: what it does, for `mara --help`.
    """

    words: str
    module: str
    text: str


TABLE: dict[str, tuple[Command, ...]] = {
    "Train, on a laptop or a cluster": (
        Command("llm", "llm", "post-train a language model on a task, or on your own rewards"),
        Command("chem", "chem", "post-train a model of molecules on an oracle"),
        Command("didactic", "didactic", "the paper's figures: small policies and exact optima, seconds"),
    ),
    "Language models": (
        Command("llm plan", "llm.plan", "whether a run fits into memory, before anything is loaded"),
        Command("llm evaluate", "llm.evaluate", "rewards, distinct answers, utility, pass@k of a run or model"),
        Command("llm diagnose", "llm.diagnose", "why a run of TRL, verl, OpenRLHF or this project collapsed"),
        Command("llm ensemble", "llm.ensemble", "average the weights of a policy with those of its reference"),
    ),
    "Molecules": (
        Command("chem pretrain", "chem.pretrain", "train a prior on a file of SMILES"),
        Command("chem sample", "chem.sample", "draw molecules from a prior or a trained policy"),
        Command("chem score", "chem.score", "the score of each molecule of a file, with its components"),
        Command("chem evaluate", "chem.evaluate", "yield, diversity and sample efficiency of scored molecules"),
        Command("chem diagnose", "chem.diagnose", "why a run of REINVENT 4, Saturn or this project collapsed"),
        Command("chem space", "chem.space", "a map of the good molecules of several runs, side by side"),
        Command("chem benchmark", "chem.benchmark", "methods on the tasks of PMO or MolExp, as one table"),
        Command("chem stock", "chem.stock", "building blocks for oracles that plan a synthesis"),
        Command("chem convert", "chem.convert", "priors and configurations of REINVENT, those of Saturn"),
    ),
    "Sweeps and finished runs": (
        Command("submit", "launch.submit", "a sweep on SLURM, or in the background on this machine"),
        Command("status", "launch.status", "state, step, time left and newest metrics of a sweep's jobs"),
        Command("watch", "launch.watch", "a live table of runs with the course of their metrics"),
        Command("resume", "launch.resume", "run what is missing or failed of a sweep, or was stopped"),
        Command("collect", "launch.collect", "one table, pictures and a report.html of the runs of sweeps"),
        Command("publish", "launch.publish", "the model card of a policy, and its upload to the Hub"),
        Command("diff", "launch.diff", "how two runs or configurations differ"),
        Command("reproduce", "launch.reproduce", "run a recorded run again and compare it step by step"),
    ),
    "Understand": (
        Command("diagnose", "launch.diagnose", "what is wrong with a run that some trainer has made"),
        Command("explain", "core.explain", "the optimum of your own small problem, without MARA and with"),
    ),
}
BY_MODULE = {command.module: command for group in TABLE.values() for command in group}
BY_WORDS = {command.words: command for command in BY_MODULE.values()}


def typed(module: str) -> str:
    """What a user types for a module, or for a placeholder such as PACKAGE, in the way this process was started."""
    words = BY_MODULE[module].words if module in BY_MODULE else module if module.isupper() else None
    return f"mara {words}" if words and os.environ.get(STARTED_AS) else f"python -m {module}"


def as_typed(text: str) -> str:
    """A text with every `python -m MODULE` as the user types it."""
    return re.sub(r"python -m (\w+(?:\.\w+)*)", lambda match: typed(match[1]), text)


class ArgumentParser(argparse.ArgumentParser):
    """A parser for the command line of a module. The lines of its description and epilog are shown as they are."""

    def __init__(self, module: str, description: str | None, epilog: str | None = None) -> None:
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(typed(module), description=description, epilog=epilog, formatter_class=raw)

    def format_help(self) -> str:
        """The text of --help, with commands as the user types them."""
        return as_typed(super().format_help())
