"""What is made larger, in which sizes, and how a size is measured."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.fixed_lengths import SMALL, FixedSteps, build
from benchmarks.scaling.meter import Cost, measure

BASE = {"P": 2, "G": 8, "prompt": 32, "least": 32, "most": 32}


class Axis(NamedTuple):
    """Something of which a size can be chosen.

    picture: of docs/images/scaling_PICTURE.png, which may show several axes. label: of the size. work: what is timed.
    cost: measures a size.
    """

    picture: str
    label: str
    work: str
    sizes: tuple[int, ...]
    cost: Callable[[int], Cost]


def language_step(size: int, setting: dict[str, Any], vary: str) -> Cost:
    """A step of `llm` with one number of the setting, or the width of the model, set to `size`."""
    shape = SMALL
    if vary == "width":
        heads = max(size // SMALL["head_dim"], 2)
        shape = SMALL | {"hidden_size": size, "intermediate_size": 3 * size}
        shape |= {"num_attention_heads": heads, "num_key_value_heads": heads // 2}
    elif vary == "completion":
        setting = setting | {"least": size, "most": size}
    else:
        setting = setting | {vary: size}
    with tempfile.TemporaryDirectory() as folder:
        build(folder, shape, context=4096)
        rows = setting["P"] * setting["G"]
        overrides = ["model.device=cpu", "model.dtype=float32", f"micro_batch={rows}"]
        steps = FixedSteps(setting, folder, 10, overrides)
        return measure(steps.step)


def molecule_step(size: int) -> Cost:
    """A step of `chem` with the shipped prior and a batch of `size` molecules, scored by QED."""
    from benchmarks.chem_step import fast_step
    from chem.models.prior import SHIPPED, load_prior

    with fast_step(load_prior(SHIPPED), size, 1) as (step, _):
        return measure(step)


def command_on_sweep(size: int, command: str, lines: int = 30) -> Cost:
    """A command on a sweep of `size` jobs, each with `lines` logged steps."""
    from benchmarks.scaling.made_sweeps import COMMANDS, make_sweep

    state = "preempted" if command == "resume" else "finished"
    with tempfile.TemporaryDirectory() as folder:
        sweep = make_sweep(Path(folder) / "sweep", size, lines, state)
        return measure(partial(COMMANDS[command], sweep))


def command_on_run(size: int, command: str) -> Cost:
    """A command on a sweep of one run with `size` logged steps."""
    return command_on_sweep(1, command, size)


def logged_steps(size: int) -> Cost:
    """Logging `size` steps with ten metrics each, checkpoints excluded."""
    from benchmarks.scaling.made_sweeps import log_steps

    return measure(partial(log_steps, size), repeats=1)


def powers(first: int, last: int, factor: int = 2) -> tuple[int, ...]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(sizes[-1] * factor)
    return tuple(sizes)


JOBS, LINES = powers(1, 256), powers(100, 10**6, 10)
TEMPLATE_TOKENS = 24  # the chat template alone takes 19 tokens

AXES = {
    "completions": Axis(
        "completions",
        "completions per prompt",
        "a step of llm: 2 prompts of 32 tokens, completions of 32",
        powers(4, 256),
        partial(language_step, setting=BASE, vary="G"),
    ),
    "prompt": Axis(
        "prompt",
        "tokens of a prompt",
        "a step of llm: 2 prompts, 4 completions each of 16 tokens",
        (TEMPLATE_TOKENS, *powers(32, 2048)),
        partial(language_step, setting=BASE | {"G": 4, "least": 16, "most": 16}, vary="prompt"),
    ),
    "completion": Axis(
        "completion",
        "tokens of a completion",
        "a step of llm: 1 prompt of 32 tokens, 4 completions",
        powers(16, 2048),
        partial(language_step, setting=BASE | {"P": 1, "G": 4}, vary="completion"),
    ),
    "width": Axis(
        "width",
        "width of the model",
        "a step of llm: 2 prompts of 32 tokens, 8 completions each of 32; 4 layers",
        powers(64, 1024),
        partial(language_step, setting=BASE, vary="width"),
    ),
    "batch": Axis(
        "batch", "molecules in a batch", "a step of chem: shipped prior, QED", powers(32, 2048), molecule_step
    ),
    **{
        f"jobs/{command}": Axis(
            "jobs", "jobs of a sweep", f"launch.{command}", JOBS, partial(command_on_sweep, command=command)
        )
        for command in ("status", "collect", "resume")
    },
    "steps/log": Axis("steps", "logged steps", "Run.log", LINES, logged_steps),
    **{
        f"steps/{command}": Axis(
            "steps", "logged steps", f"launch.{command}", LINES, partial(command_on_run, command=command)
        )
        for command in ("status", "collect", "resume")
    },
}
