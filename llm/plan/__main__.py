"""`python -m llm.plan OVERRIDES`: memory, tokens and steps of a run, before anything is loaded.

The overrides are those of `python -m llm`. Three keys are the plan's own:

    ranks=N           processes that share the run (default: what hydra/launcher says, else 1)
    memory=GIB        of each rank's device (default: this machine's)
    prompt_tokens=N   of the longest prompt, chat template included (default: counted with the model's tokenizer)

The exit status is 0 where the run fits, and 1 where it does not or cannot be planned.

From the model's configuration the model is made without memory (torch's meta device), so its parameters are exact.
Activations are not a formula with a fitted constant: the forward and backward pass that a step makes is run on that
device, where tensors have shapes and nothing else, and what is alive at each moment is added up.
"""

import sys
from collections.abc import Sequence

from conf.schema.base import ConfigError
from launch.cli.compose import compose_typed
from launch.cli.errors import one_line


def main(arguments: Sequence[str]) -> int:
    if {"--help", "-h"} & set(arguments):
        print(__doc__)
        return 0
    from llm.plan.advice import way_out  # these load torch and transformers
    from llm.plan.estimate import estimate
    from llm.plan.printing import print_plan, print_work
    from llm.plan.setting import GIB, device_memory, make_setting, process_memory, read_arguments

    try:
        given = read_arguments(arguments)
        config, launcher = compose_typed("llm", given.overrides)
        setting, prompts = make_setting(config, launcher, given)
        memory = given.memory * GIB if given.memory else device_memory(setting, launcher)
        process = process_memory(setting.cuda)
        phases = estimate(setting)
        print_plan(setting, phases, process, memory)
        print_work(config, setting, prompts)
        if max(sum(phase.values()) for phase in phases.values()) + process <= memory:
            return 0
        change = way_out(setting, memory - process)
    except ConfigError as error:
        print(f"llm.plan: {one_line(str(error))}", file=sys.stderr)
        return 1
    advice = f"use {change}" if change else "no change of engine, ranks or micro_batch is enough; use a smaller model"
    print(f"llm.plan: it does not fit: {advice}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
