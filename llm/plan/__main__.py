"""`python -m llm.plan OVERRIDES`: estimate the memory, tokens and steps of a run before starting it.

    python -m llm.plan model.name_or_path=Qwen/Qwen2.5-3B experiment=creative           on this machine
    python -m llm.plan experiment=creative engine=zero2 ranks=8 memory=80               on eight GPUs of 80 GiB

OVERRIDES are those of `python -m llm`. The plan has three keys of its own:

    ranks=N           number of processes of the run (default: from hydra/launcher, else 1)
    memory=GIB        memory of each rank's device in GiB (default: that of this machine)
    prompt_tokens=N   tokens of the longest prompt, including the chat template (default: counted with the tokenizer)

The exit status is 0 if the run fits, and 1 if it does not fit or cannot be planned.

The model is created from its configuration without memory (on torch's meta device), so that its parameter count is
exact. The memory of activations is measured, not fitted: the forward and backward pass of a training step is executed
on the meta device, where tensors have shapes but no data, and the bytes of all living tensors are summed.
"""

import sys
from collections.abc import Sequence

from conf.schema.base import ConfigError
from launch.cli.command_table import as_typed
from launch.cli.compose import compose_typed
from launch.cli.errors import one_line
from launch.runs.streams import run_command


def main(arguments: Sequence[str]) -> int:
    """Print the plan of a run, and a suggestion if it does not fit; returns the exit status."""
    if {"--help", "-h"} & set(arguments):
        print(as_typed(f"usage: python -m llm.plan [GROUP=OPTION ...] [KEY=VALUE ...]\n\n{__doc__}"))
        return 0
    import llm.train  # noqa: F401  # the imports of a run are part of its memory
    from llm.plan.advice import suggest_change  # imported here: these load torch and transformers
    from llm.plan.estimate import estimate
    from llm.plan.printing import print_plan, print_work
    from llm.plan.settings import GIB, device_memory, make_settings, parse_arguments, process_memory

    try:
        plan_arguments = parse_arguments(arguments)
        config, launcher = compose_typed("llm", plan_arguments.overrides)
        settings, prompts = make_settings(config, launcher, plan_arguments)
        memory = plan_arguments.memory * GIB if plan_arguments.memory else device_memory(settings, launcher)
        process = process_memory(settings.cuda)
        phases = estimate(settings)
        print_plan(settings, phases, process, memory)
        print_work(config, settings, prompts)
        if max(sum(phase.values()) for phase in phases.values()) + process <= memory:
            return 0
        change = suggest_change(settings, memory - process)
    except ConfigError as error:
        print(f"llm.plan: {one_line(str(error))}", file=sys.stderr)
        return 1
    advice = f"use {change}" if change else "no change of engine, ranks or micro_batch is enough; use a smaller model"
    print(f"llm.plan: the run does not fit: {advice}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run_command("llm.plan", lambda: main(sys.argv[1:]))
