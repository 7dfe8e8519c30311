"""`python -m llm.plan OVERRIDES`: estimate the memory, tokens and steps of a run before starting it.

    python -m llm.plan model.name_or_path=Qwen/Qwen2.5-3B experiment=creative           on this machine
    python -m llm.plan experiment=creative engine=zero2 ranks=8 memory=80               on eight GPUs of 80 GiB

OVERRIDES are those of `python -m llm`. The plan has three keys of its own:

    ranks=N           number of processes of the run (default: from hydra/launcher, else 1)
    memory=GIB        memory of each rank's device in GiB (default: that of this machine)
    prompt_tokens=N   tokens of the longest prompt, including the chat template. Prompts that are part of the task are
                      counted. A data set is not read: its prompts are taken to have 512 tokens, unless
                      prompt_tokens=all asks to read it and count them

The exit status is 0 if the run fits, and 1 if it does not fit or cannot be planned.

The first line says whether the run fits. Nothing is loaded or trained: the model is created from its configuration
without memory (on torch's meta device), so that its parameter count is exact. The memory of activations is measured,
not fitted: the forward and backward pass of a training step is executed on the meta device, where tensors have shapes
but no data, and the bytes of all living tensors are summed.
"""

import shlex
import sys
from collections.abc import Sequence

from conf.schema.base import ConfigError
from launch.cli.command_table import as_typed
from launch.cli.compose import compose_typed
from launch.cli.errors import one_line
from launch.runs.closing import command, show_next
from launch.runs.noise import silence_libraries
from launch.runs.progress import working
from launch.runs.streams import run_command


def main(arguments: Sequence[str]) -> int:
    """Print the plan of a run, and a suggestion if it does not fit; returns the exit status."""
    if {"--help", "-h"} & set(arguments):
        print(as_typed(f"usage: python -m llm.plan [GROUP=OPTION ...] [KEY=VALUE ...]\n\n{__doc__}"))
        return 0
    with working("loading the libraries"):
        import llm.train  # noqa: F401  # the imports of a run are part of its memory
        from llm.plan.advice import change_overrides, describe_change, suggest_change
        from llm.plan.estimate import estimate
        from llm.plan.printing import print_plan, print_verdict, print_work
        from llm.plan.settings import device_memory, make_settings, parse_arguments, process_memory

    silence_libraries()
    try:
        plan_arguments = parse_arguments(arguments)
        config, launcher = compose_typed("llm", plan_arguments.overrides)
        with working("reading the model's configuration and the prompts"):
            settings, prompts = make_settings(config, launcher, plan_arguments)
        memory = device_memory(settings, launcher, plan_arguments.memory)
        process = process_memory(settings.cuda)
        with working("executing the passes without data"):
            phases = estimate(settings)
        fits = print_verdict(phases, process, memory)
        print_plan(settings, phases, process, memory.bytes)
        print_work(config, settings, prompts)
        if fits:
            show_next([run_command_line(settings.ranks, plan_arguments.overrides)])
            return 0
        with working("searching a change that fits"):
            change = suggest_change(settings, memory.bytes - process)
    except ConfigError as error:
        print(f"llm.plan: {one_line(str(error))}", file=sys.stderr)
        return 1
    if change is None:
        advice = "no change of engine, ranks or micro_batch is enough; use a smaller model"
    else:
        advice = f"use {describe_change(settings, change)}"
        show_next([command("llm.plan", *arguments, *change_overrides(change))])
    print(f"llm.plan: the run does not fit: {advice}", file=sys.stderr)
    return 1


def run_command_line(ranks: int, overrides: Sequence[str]) -> str:
    """The command that starts the run that was planned."""
    if ranks == 1 or any(word.startswith("hydra/launcher=") for word in overrides):
        return command("llm", *(["-m"] if ranks > 1 else []), *overrides)
    return shlex.join(["torchrun", f"--nproc-per-node={ranks}", "-m", "llm", *overrides])


if __name__ == "__main__":
    run_command("llm.plan", lambda: main(sys.argv[1:]))
