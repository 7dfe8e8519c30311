"""What to change where a run does not fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from llm.plan.estimate import STAGES, Setting, estimate


def needed(setting: Setting) -> int:
    """Bytes of the worst phase."""
    return max(sum(phase.values()) for phase in estimate(setting).values())


def way_out(setting: Setting, room: float) -> str | None:
    """The first of the possible changes, the one that costs least first, under which the run needs at most `room`."""
    for change in changes(setting):
        changed = replace(setting, **change)
        if needed(replace(changed, micro_batch=1)) > room:
            continue
        for size in halves(setting.micro_batch):
            if needed(replace(changed, micro_batch=size)) <= room:
                return in_words(setting, {**change, **({} if size == setting.micro_batch else {"micro_batch": size})})
    return None


def changes(setting: Setting) -> Iterator[dict[str, Any]]:
    """What may be changed beside the micro-batch, cheapest first: by itself, then with what came before."""
    yield {}
    kept: dict[str, Any] = {"evaluated": min(setting.evaluated, setting.group)}
    yield dict(kept)
    if setting.cuda and not setting.lora:
        kept["reference_on_cpu"] = True
        yield dict(kept)
    kept["checkpointing"] = True
    yield dict(kept)
    engines = list(STAGES)
    for ranks in (setting.ranks, *(n for n in (2, 4, 8, 16, 32, 64) if n > setting.ranks)):
        for engine in engines[engines.index(setting.engine) + (ranks == setting.ranks) :]:
            if ranks <= setting.prompts and (ranks > 1 or engine == "zero3_offload"):
                yield {"engine": engine, "ranks": ranks}
                yield {**kept, "engine": engine, "ranks": ranks}


def halves(number: int) -> Iterator[int]:
    while number >= 1:
        yield number
        number //= 2


def in_words(setting: Setting, change: dict[str, Any]) -> str:
    """The keys to change and to what, as the command line takes them."""
    keys = {
        "evaluated": "evaluation_completions",
        "reference_on_cpu": "model.reference_on_cpu",
        "checkpointing": "model.gradient_checkpointing",
    }
    changed = {name: value for name, value in change.items() if value != getattr(setting, name)}
    words = (f"{keys.get(k, k)}={v} (now {getattr(setting, k)})" for k, v in changed.items())
    return " and ".join(words).replace("=True (now False)", "=true (now false)")
