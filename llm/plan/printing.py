"""Prints the plan: whether the run fits, memory in each phase, tokens and steps."""

import math

from rich.text import Text

from conf.schema.llm import LlmConfig
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from llm.plan.estimate import Phase, PlanSettings, largest_pass, model_size
from llm.plan.settings import DeviceMemory, PlannedPrompts

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def print_verdict(phases: dict[str, Phase], process: int, memory: DeviceMemory) -> bool:
    """Print whether the run fits, by how much, and into which memory; return whether it does.

    process: bytes that a process uses besides the phases.
    """
    sums = {name: sum(phase.values()) + process for name, phase in phases.items()}
    largest = max(sums, key=lambda name: sums[name])
    spare = memory.bytes - sums[largest]
    margin = f"{format_size(abs(spare))} {'to spare' if spare >= 0 else 'too much'}"
    needed = f"{format_size(sums[largest])} of {format_size(memory.bytes)} ({memory.place})"
    verdict = "fits: yes" if spare >= 0 else "fits: no"
    console.print(f"{verdict}, {margin}: needs {needed}, in the phase {largest}", soft_wrap=True)
    return spare >= 0


def print_plan(settings: PlanSettings, phases: dict[str, Phase], process: int, memory: float) -> None:
    """Print a table of the phases.

    process: bytes that a process uses besides; memory: bytes available.
    """
    size = model_size(settings)
    device = "GPU" if settings.cuda else "CPU"
    title = f"Memory per rank ({settings.ranks} x {device}, {8 * settings.dtype_bytes} bit, {settings.engine})"
    table = FittedTable(title)
    for column in ("", *phases):
        table.add_column(column, "number" if column else "label")
    names = list(dict.fromkeys(name for phase in phases.values() for name in phase))
    for name in names:
        sizes = [phase.get(name, 0) for phase in phases.values()]
        if any(sizes):
            table.add_row(name, *(format_size(number) if number else "-" for number in sizes))
    table.add_row("process", *[format_size(process)] * len(phases))
    table.add_section()
    sums = [sum(phase.values()) + process for phase in phases.values()]
    table.add_row("sum", *(Text(format_size(total), "red" if total > memory else "green") for total in sums))
    console.print(table)
    trainable = "" if size.trainable == size.parameters else f", {size.trainable:,} of them trainable"
    console.print(f"{size.parameters:,} parameters{trainable}")


def format_size(size: float) -> str:
    """A number of bytes with three significant digits, in the largest unit of which there is at least one."""
    power = 0
    while power < len(UNITS) - 1 and size >= 999.5 * 1024**power:  # 1000 MiB would have four digits
        power += 1
    number = size / 1024**power
    digits = 0 if not power else max(2 - math.floor(math.log10(number)), 0)
    return f"{number:.{digits}f} {UNITS[power]}"


def print_work(config: LlmConfig, settings: PlanSettings, prompts: PlannedPrompts) -> None:
    """Print the tokens and passes of a step and of the run, if all completions have the maximal length."""
    sampled = settings.prompts * settings.group_size * settings.new_tokens
    prompt_tokens = settings.prompts * settings.prompt_tokens
    largest = largest_pass(settings).shape
    passes = math.ceil(settings.prompts_per_rank * settings.group_size / largest.rows)
    if prompts.assumed:
        console.print(
            f"prompts of up to {prompts.longest} tokens are assumed, since {prompts.assumed}; give prompt_tokens=N, "
            "or prompt_tokens=all to count them"
        )
    console.print(
        f"each step: up to {sampled:,} sampled tokens for {prompt_tokens:,} prompt tokens, "
        f"{counted(passes, 'pass', 'passes')} of up to "
        f"{largest.tokens:,} tokens"
    )
    run = f"the run: {config.steps:,} steps, up to {config.steps * sampled:,} sampled tokens"
    if prompts.number is not None:
        epochs = config.steps * settings.prompts / prompts.number
        run += f", {epochs:,.2f} epochs of {counted(prompts.number, 'prompt', 'prompts')}"
    console.print(run)


def counted(number: int, singular: str, plural: str) -> str:
    """A number with its noun."""
    return f"{number:,} {singular if number == 1 else plural}"
