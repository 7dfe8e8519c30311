"""`python -m launch.diff A B`: show how two configurations differ, and how the results of their runs differ.

A and B are each a run folder, a sweep whose runs differ only in the seed, a resolved configuration (a .yaml file) or
a command line: PACKAGE:experiment=NAME, or 'PACKAGE:KEY=VALUE KEY=VALUE', with --config-dir and the like in front.

    python -m launch.diff llm:transform=identity 'llm:transform=mara objective.beta=.1'
    python -m launch.diff runs/llm/one_two/A runs/llm/one_two/B
    python -m launch.diff --overrides A B       the Hydra overrides that turn A into B, one per line

The overrides printed with --overrides, added to those of A, give exactly the configuration of B, and none of them can
be left out; both are checked. If A and the printed overrides set the same key, the printed value counts. A printed
~KEY cancels A's override of that key. The overrides of a .yaml file are those that make it from the defaults of its
package.
The exit status is 0 if the configurations are equal, 1 if they differ, and 2 after an error.
"""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.command_table import ArgumentParser
from launch.cli.compose import compose
from launch.cli.groups import groups, options
from launch.cli.overrides import quote
from launch.cli.recorded_command import flag_values, read_command, split_flags
from launch.runs.closing import command, show_next
from launch.runs.run_folder import flatten, read_yaml
from launch.runs.streams import run_command

ABSENT = object()  # stands for the value of a key that one side lacks
RECORDED = ("code", "versions", "hardware")  # the keys of run.json that are compared


@dataclass
class Side:
    """One side of a comparison. argument: the text that names it on the command line."""

    name: str
    package: str | None
    config: dict[str, Any]
    overrides: list[str] | None  # None if only the values are known
    flags: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    results: dict[str, tuple[float, float]] = field(default_factory=dict)  # mean and standard error by key
    argument: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.diff", __doc__)
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--overrides", action="store_true", help="print only the overrides that turn A into B")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    try:
        a, b = (replace(read_side(text), argument=text) for text in (args.a, args.b))
        if args.overrides:
            print("\n".join(overrides_between(a, b)))
        elif args.json:
            print(json.dumps(as_json(a, b), indent=2))
        else:
            print_difference(a, b)
            show_next(after_difference(a, b))
    except ConfigError as error:
        print(f"launch.diff: {error}", file=sys.stderr)
        return 2
    return int(bool(config_changes(a.config, b.config)))


def after_difference(a: Side, b: Side) -> list[str]:
    """The commands that can follow a comparison: what turns A into B, and the runs of both side by side."""
    commands = []
    if config_changes(a.config, b.config):
        commands.append(command("launch.diff", "--overrides", a.argument, b.argument))
    if a.record and b.record:
        folders = Path(a.argument), Path(b.argument)
        commands.append(command("launch.collect", *folders, "--out", folders[1] / "collected"))
    elif not commands and a.package is not None and a.overrides is not None:
        commands.append(command(a.package, *a.flags, *a.overrides))
    return commands


def read_side(text: str) -> Side:
    """Read an argument A or B.

    Raises:
        ConfigError: it is not a run, a sweep, a .yaml file or a command line, or cannot be read.
    """
    package, colon, rest = text.partition(":")
    if colon and package in COMMANDS:
        flags, overrides = split_flags(rest.split())
        return Side(text, package, dict(compose(package, overrides, flags)), overrides, flags)
    path = Path(text)
    if path.is_file():
        return Side(text, None, dict(read_yaml(path)), None)
    if path.is_dir():
        return read_runs_side(path)
    raise ConfigError(
        f"{text}: not a run folder, a .yaml file or PACKAGE:KEY=VALUE, where PACKAGE is one of {', '.join(COMMANDS)}"
    )


def read_runs_side(folder: Path) -> Side:
    """Read a folder with one run, or with runs that differ only in the seed.

    Raises:
        ConfigError: it holds no run with a configuration, or runs of several configurations.
    """
    from launch.analysis.table import distinct_runs, fold_seeds, read_runs, result_keys

    runs = [run for run in distinct_runs(read_runs(folder)) if run.config]
    rows = fold_seeds([run for run in runs if run.state == "finished"])
    if not runs or len(rows) > 1:
        raise ConfigError(
            f"{folder}: must hold one run, or runs that differ only in the seed, got {len(rows)} configurations"
        )
    first = runs[0]
    command = read_command(first.record)
    results = {key: rows[0].result(key) for key in result_keys(runs)} if rows else {}
    config = dict(read_yaml(first.folder / "config.yaml"))
    overrides, flags = list(command.overrides), list(command.flags)
    return Side(str(folder), first.package, config, overrides, flags, first.record, results)


def config_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys that differ, with both values, which are ABSENT for a side that lacks the key."""
    flat_a, flat_b = flatten(a), flatten(b)
    keys = sorted(flat_a.keys() | flat_b.keys())
    pairs = {key: (flat_a.get(key, ABSENT), flat_b.get(key, ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not same_value(*pair)}


def same_value(a: Any, b: Any) -> bool:
    """Whether two values are equal. Unlike in Python, true is not equal to 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def overrides_between(a: Side, b: Side) -> list[str]:
    """The Hydra overrides that turn A into B. None of them can be left out.

    Raises:
        ConfigError: A and B belong to different packages, or no overrides turn A into B.
    """
    package = a.package or b.package
    if package is None:
        raise ConfigError("A and B: both are .yaml files, so the package is unknown; use a run or PACKAGE:KEY=VALUE")
    if (b.package or package) != package:
        raise ConfigError(f"A and B: must belong to the same package, got {package} and {b.package}")
    base = a.overrides
    if base is None:
        base = minimal_overrides(package, a.flags, [], a.config, None)
    options_of_b = [word for pair in flag_values(b.flags).items() if pair[0] == "--config-dir" for word in pair]
    return minimal_overrides(package, a.flags or options_of_b, base, b.config, b.overrides)


def minimal_overrides(
    package: str, flags: Sequence[str], base: Sequence[str], target: Mapping[str, Any], hint: Sequence[str] | None
) -> list[str]:
    """The overrides that turn the configuration of `base` into `target`, as few as possible.

    Args:
        package: what follows `python -m`.
        flags: `--config-path`, `--config-name` and `--config-dir` with their values, if given.
        base: the overrides to start from.
        target: the resolved configuration to produce.
        hint: the overrides that made `target`, if known; the group options among them are tried.

    Raises:
        ConfigError: no overrides were found.
    """
    chosen = [override for override in hint or () if options(package, override_key(override))]
    for candidate in ([], chosen):  # the common cases, which need no search
        if len(candidate) <= 1 and produces(package, flags, merge_overrides(base, candidate), target):
            return candidate
    searches = [search(package, flags, base, target, picks) for picks in ([chosen, []] if chosen else [[]])]
    solutions = [overrides for overrides in searches if overrides is not None]
    if solutions:
        return min(solutions, key=len)
    for name in options(package, "experiment"):  # A's own experiment may set keys that the target's options lack
        overrides = search(package, flags, base, target, [f"experiment={name}"])
        if overrides is not None:
            return overrides
    raise ConfigError(f"{package}: no combination of overrides reproduces this configuration")


def search(
    package: str, flags: Sequence[str], base: Sequence[str], target: Mapping[str, Any], chosen: Sequence[str]
) -> list[str] | None:
    """Search for overrides that turn the configuration of `base` into `target`. None if they are not found.

    Starts from the group options in `chosen` and those that the target names, adds an override for each value that
    still differs, then removes the overrides that are not needed.
    """
    picks = list(chosen)
    for group in groups(package):
        name = target.get(group, {}).get("name") if isinstance(target.get(group), Mapping) else None
        if name in options(package, group) and group not in map(override_key, picks):
            picks.append(f"{group}={name}")
    flat_target = flatten(target)
    value_keys = [key for key in map(override_key, base) if not options(package, key)]
    picks += [f"~{key}" for key in value_keys if not has_key(flat_target, key)]
    merged = merge_overrides(base, picks)
    try:
        start = compose(package, merged, flags, checked=False)  # an intermediate configuration need not be valid
    except ConfigError:
        return None
    overrides = [*picks, *value_overrides(config_changes(start, target), set(map(override_key, merged)))]
    if not produces(package, flags, merge_overrides(base, overrides), target):
        return None
    for override in list(overrides):
        others = [other for other in overrides if other != override]
        if produces(package, flags, merge_overrides(base, others), target):
            overrides = others
    return overrides


def has_key(flat: Mapping[str, Any], key: str) -> bool:
    """Whether a flat mapping has a dotted key, or keys below it."""
    return key in flat or any(other.startswith(f"{key}.") for other in flat)


def value_overrides(changes: Mapping[str, tuple[Any, Any]], overridden: set[str]) -> list[str]:
    """One override for each change. A mapping that is empty on one side is changed through its keys on the other.

    Args:
        changes: the result of `config_changes`.
        overridden: the keys that are overridden already.
    """
    overrides = []
    for key, (old, new) in changes.items():
        fills = old == {} and new is ABSENT  # the mapping's keys are added by their own overrides
        empties = new == {} and old is ABSENT and key not in overridden  # the mapping's keys are removed likewise
        parent_is_emptied = any(changes[k][1] == {} and k in overridden for k in changes if key.startswith(f"{k}."))
        if not (fills or empties or parent_is_emptied):
            overrides.append(f"{key}={{}}" if new == {} else format_override(key, old, new))
    return overrides


def produces(package: str, flags: Sequence[str], overrides: Sequence[str], target: Mapping[str, Any]) -> bool:
    """Whether overrides give the configuration `target`."""
    try:
        return not config_changes(compose(package, overrides, flags), target)
    except ConfigError:
        return False


def merge_overrides(base: Sequence[str], more: Sequence[str]) -> list[str]:
    """Combine the overrides of two command lines. For a key in both, `more` counts, and its ~KEY cancels both."""
    base_keys, more_keys = set(map(override_key, base)), set(map(override_key, more))
    cancelled = {override for override in more if override.startswith("~") and override_key(override) in base_keys}
    remaining = [override for override in base if override_key(override) not in more_keys]
    return [*remaining, *(override for override in more if override not in cancelled)]


def override_key(override: str) -> str:
    """The dotted key of an override."""
    return override.partition("=")[0].lstrip("+~")


def format_override(key: str, old: Any, new: Any) -> str:
    """The override that changes a key's value; either value may be ABSENT."""
    if new is ABSENT:
        return f"~{key}"
    return f"{'+' if old is ABSENT else ''}{key}={hydra_value(new)}"


def hydra_value(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{hydra_value(name)}:{hydra_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(hydra_value(item) for item in value) + "]"
    if isinstance(value, float):
        return "nan" if math.isnan(value) else repr(value)
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) and text.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    ):
        return text
    return quote(text)


def recorded_changes(a: Side, b: Side) -> dict[str, tuple[Any, Any]]:
    """The differences in code, packages and hardware between two runs."""
    records = [{key: side.record.get(key) for key in RECORDED} for side in (a, b)]
    return config_changes(*records) if a.record and b.record else {}


def as_json(a: Side, b: Side) -> dict[str, Any]:
    """The differences between two sides, for `--json`."""

    def by_side(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        sides = ("a", "b")
        return {k: {s: v for s, v in zip(sides, pair, strict=True) if v is not ABSENT} for k, pair in changes.items()}

    results = {key: {"a": a.results.get(key), "b": b.results.get(key)} for key in {**a.results, **b.results}}
    return {
        "config": by_side(config_changes(a.config, b.config)),
        "record": by_side(recorded_changes(a, b)),
        "results": results,
    }


def print_difference(a: Side, b: Side) -> None:
    """Print the differences in configuration, record and results."""
    from launch.runs.console import console

    console.print(f"A: {a.name}\nB: {b.name}", soft_wrap=True)
    changes = config_changes(a.config, b.config)
    console.print("\nThe configurations are equal." if not changes else "")
    group = None
    for key, pair in changes.items():
        if key.partition(".")[0] != group:
            group = key.partition(".")[0]
            console.print(group)
        console.print(f"  {format_change(key, *pair)}", soft_wrap=True)
    if a.record and b.record:
        changes = recorded_changes(a, b)
        console.print("\nCode, packages and hardware are the same." if not changes else "\ncode, packages, hardware")
        for key, pair in changes.items():
            console.print(f"  {format_change(key, *pair)}", soft_wrap=True)
    if a.results and b.results:
        console.print("")
        console.print(result_table(a.results, b.results))


def format_change(key: str, old: Any, new: Any) -> str:
    """One line for a key's change; either value may be ABSENT."""
    if old is ABSENT:
        return f"+ {key}: {format_value(new)}"
    if new is ABSENT:
        return f"- {key}: {format_value(old)}"
    return f"  {key}: {format_value(old)} -> {format_value(new)}"


def format_value(value: Any) -> str:
    """A value as JSON, text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def result_table(a: Mapping[str, tuple[float, float]], b: Mapping[str, tuple[float, float]]) -> Any:
    """A table of the results of both sides, with the difference and its standard error if both have one."""
    from launch.analysis.uncertainty import format_mean
    from launch.runs.fitted_table import FittedTable

    table = FittedTable("results", "±: the standard error over seeds, or over the prompts of a single run")
    for column in ("result", "A", "B", "B - A"):
        table.add_column(column, "label" if column == "result" else "number")
    for key in [key for key in a if key in b]:
        (x, x_error), (y, y_error) = a[key], b[key]
        difference = format_mean(y - x, math.hypot(x_error, y_error))
        table.add_row(key, format_mean(x, x_error), format_mean(y, y_error), difference)
    return table


def read_overrides_file(path: Path) -> list[str]:
    """Read overrides from a file, either the output of --overrides or a YAML list."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    if all(line.startswith("- ") for line in lines):
        content = read_yaml(path)
        return [str(item) for item in content]
    return lines


if __name__ == "__main__":
    run_command("launch.diff", main)
