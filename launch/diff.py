"""`python -m launch.diff A B`: how two configurations differ, and what came of it.

A and B are each a run folder, a sweep whose runs differ in their seed alone, a resolved configuration (a .yaml file)
or a command line: PACKAGE:experiment=NAME, or 'PACKAGE:KEY=VALUE KEY=VALUE'.

    python -m launch.diff llm:transform=identity 'llm:transform=mara objective.beta=.1'
    python -m launch.diff runs/llm/one_two/A runs/llm/one_two/B
    python -m launch.diff --overrides A B       the Hydra overrides that turn A into B, one a line

With --overrides, what is printed and A's own overrides (where both give a key, the printed one counts, and a printed
~KEY takes A's back) give exactly B's configuration, and without any one of them not; both are tried before printing.
A .yaml file's own overrides are those that make it from its package's defaults.
The exit status is 0 where the configurations are equal, 1 where they differ, 2 for an error.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from conf.schema.commands import COMMANDS
from launch.cli.compose import compose
from launch.cli.groups import groups, options
from launch.runs.run_folder import flatten, read_yaml

ABSENT = object()
RECORDED = ("code", "versions", "hardware")


@dataclass
class Side:
    """One of two things that are compared."""

    name: str
    package: str | None
    config: dict[str, Any]
    overrides: list[str] | None  # None: only the values are known
    flags: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    results: dict[str, tuple[float, float]] = field(default_factory=dict)  # value, standard error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.diff", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--overrides", action="store_true", help="only the overrides that turn A into B")
    parser.add_argument("--json", action="store_true", help="for machines")
    given = parser.parse_args(arguments)
    try:
        a, b = read_side(given.a), read_side(given.b)
        if given.overrides:
            print("\n".join(overrides_between(a, b)))
        elif given.json:
            print(json.dumps(as_json(a, b), indent=2))
        else:
            print_difference(a, b)
    except ConfigError as error:
        print(f"launch.diff: {error}", file=sys.stderr)
        return 2
    return int(bool(config_changes(a.config, b.config)))


def read_side(text: str) -> Side:
    """What A or B names.

    Raises:
        ConfigError: it names nothing that has a configuration.
    """
    package, colon, overrides = text.partition(":")
    if colon and package in COMMANDS:
        given = overrides.split()
        return Side(text, package, dict(compose(package, given)), given)
    path = Path(text)
    if path.is_file():
        return Side(text, None, dict(read_yaml(path)), None)
    if path.is_dir():
        return read_runs_side(path)
    raise ConfigError(
        f"{text}: must be a run folder, a .yaml file or PACKAGE:KEY=VALUE (PACKAGE one of {', '.join(COMMANDS)}), "
        "got none of them"
    )


def read_runs_side(folder: Path) -> Side:
    """A run, or runs that differ in their seed alone."""
    from launch.analysis.table import fold, read_runs, result_keys

    runs = [run for run in read_runs(folder) if run.config]
    rows = fold([run for run in runs if run.state == "finished"])
    if not runs or len(rows) > 1:
        raise ConfigError(
            f"{folder}: must be a run, or runs that differ in seed alone, got {len(rows)} configurations"
        )
    first = runs[0]
    command = [str(word) for word in first.record["command"][3:]]
    flags = command[: command.index("--config-dir") + 2] if "--config-dir" in command else []
    results = {key: rows[0].result(key) for key in result_keys(runs)} if rows else {}
    config = dict(read_yaml(first.folder / "config.yaml"))
    return Side(str(folder), first.package, config, command[len(flags) :], flags, first.record, results)


def config_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys that differ, with both values; ABSENT where a side lacks the key."""
    flat_a, flat_b = flatten(a), flatten(b)
    keys = sorted(flat_a.keys() | flat_b.keys())
    pairs = {key: (flat_a.get(key, ABSENT), flat_b.get(key, ABSENT)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not same(*pair)}


def same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def overrides_between(a: Side, b: Side) -> list[str]:
    """Hydra overrides that turn A into B, of which none can be left out.

    Raises:
        ConfigError: the two are of different packages, or no overrides do it.
    """
    package = a.package or b.package
    if package is None:
        raise ConfigError("A: must be a run or PACKAGE:KEY=VALUE where B is a file, got two files")
    if (b.package or package) != package:
        raise ConfigError(f"B: must be of A's package {package}, got {b.package}")
    base = a.overrides
    if base is None:
        base = minimal_overrides(package, a.flags, [], a.config, None)
    return minimal_overrides(package, a.flags or b.flags, base, b.config, b.overrides)


def minimal_overrides(
    package: str, flags: Sequence[str], base: Sequence[str], target: Mapping[str, Any], hint: Sequence[str] | None
) -> list[str]:
    """The shorter of what is found with the choices of options that `hint` makes, and without."""
    picked = [one for one in hint or () if options(package, key_of(one))]
    for few in ([], picked):  # the usual case, at once
        if len(few) <= 1 and reaches(package, flags, applied(base, few), target):
            return few
    tries = [attempt(package, flags, base, target, choice) for choice in ([picked, []] if picked else [[]])]
    found = [overrides for overrides in tries if overrides is not None]
    if found:
        return min(found, key=len)
    for name in options(package, "experiment"):  # A's own may set what the target's options do not have
        overrides = attempt(package, flags, base, target, [f"experiment={name}"])
        if overrides is not None:
            return overrides
    raise ConfigError(f"{package}: must be a configuration that overrides can reach, got one that none give")


def attempt(
    package: str, flags: Sequence[str], base: Sequence[str], target: Mapping[str, Any], choice: Sequence[str]
) -> list[str] | None:
    """`choice`, options of groups where the target's name says so, and values; then none that is not needed."""
    picks = list(choice)
    for group in groups(package):
        name = target.get(group, {}).get("name") if isinstance(target.get(group), Mapping) else None
        if name in options(package, group) and group not in map(key_of, picks):
            picks.append(f"{group}={name}")
    known = flatten(target)
    gone = [key_of(one) for one in base if not options(package, key_of(one)) and not has(known, key_of(one))]
    picks += [f"~{key}" for key in gone]
    try:
        start = compose(package, applied(base, picks), flags, checked=False)  # on the way: it need not be one to run
    except ConfigError:
        return None
    values = value_overrides(config_changes(start, target), {key_of(one) for one in applied(base, picks)})
    full = [*picks, *values]
    if not reaches(package, flags, applied(base, full), target):
        return None
    for one in list(full):
        rest = [other for other in full if other != one]
        if reaches(package, flags, applied(base, rest), target):
            full = rest
    return full


def has(flat: Mapping[str, Any], key: str) -> bool:
    return key in flat or any(other.startswith(f"{key}.") for other in flat)


def value_overrides(changes: Mapping[str, tuple[Any, Any]], given: set[str]) -> list[str]:
    """One override for each change; a mapping that is empty on one side is changed through its keys on the other."""
    found = []
    for key, (old, new) in changes.items():
        fills = old == {} and new is ABSENT  # its keys are added
        empties = new == {} and old is ABSENT and key not in given  # its keys are taken away
        parent_is_emptied = any(changes[k][1] == {} and k in given for k in changes if key.startswith(f"{k}."))
        if not (fills or empties or parent_is_emptied):
            found.append(f"{key}={{}}" if new == {} else override(key, old, new))
    return found


def reaches(package: str, flags: Sequence[str], overrides: Sequence[str], target: Mapping[str, Any]) -> bool:
    try:
        return not config_changes(compose(package, overrides, flags), target)
    except ConfigError:
        return False


def applied(base: Sequence[str], more: Sequence[str]) -> list[str]:
    """Overrides of two command lines as one: a key of both is the second's; its ~key takes the first's back."""
    keys, first = {key_of(one) for one in more}, {key_of(one) for one in base}
    taken_back = {one for one in more if one.startswith("~") and key_of(one) in first}
    return [*(one for one in base if key_of(one) not in keys), *(one for one in more if one not in taken_back)]


def key_of(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")


def override(key: str, old: Any, new: Any) -> str:
    if new is ABSENT:
        return f"~{key}"
    return f"{'+' if old is ABSENT else ''}{key}={hydra_value(new)}"


def hydra_value(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
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
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", text)
    escaped = re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped)
    return f"'{escaped}'"


def recorded_changes(a: Side, b: Side) -> dict[str, tuple[Any, Any]]:
    """Code, packages and hardware that differ between two runs."""
    known = [{key: side.record.get(key) for key in RECORDED} for side in (a, b)]
    return config_changes(*known) if a.record and b.record else {}


def as_json(a: Side, b: Side) -> dict[str, Any]:
    def shown(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        sides = ("a", "b")
        return {k: {s: v for s, v in zip(sides, pair, strict=True) if v is not ABSENT} for k, pair in changes.items()}

    results = {key: {"a": a.results.get(key), "b": b.results.get(key)} for key in {**a.results, **b.results}}
    return {
        "config": shown(config_changes(a.config, b.config)),
        "record": shown(recorded_changes(a, b)),
        "results": results,
    }


def print_difference(a: Side, b: Side) -> None:
    from launch.runs.console import console

    say = console.print
    say(f"A: {a.name}\nB: {b.name}", soft_wrap=True)
    changes = config_changes(a.config, b.config)
    say("\nThe configurations are equal." if not changes else "")
    group = None
    for key, pair in changes.items():
        if key.partition(".")[0] != group:
            group = key.partition(".")[0]
            say(group)
        say(f"  {change(key, *pair)}", soft_wrap=True)
    if a.record and b.record:
        found = recorded_changes(a, b)
        say("\nCode, packages and hardware are the same." if not found else "\ncode, packages, hardware")
        for key, pair in found.items():
            say(f"  {change(key, *pair)}", soft_wrap=True)
    if a.results and b.results:
        say("")
        say(result_table(a.results, b.results))


def change(key: str, old: Any, new: Any) -> str:
    if old is ABSENT:
        return f"+ {key}: {shown_value(new)}"
    if new is ABSENT:
        return f"- {key}: {shown_value(old)}"
    return f"  {key}: {shown_value(old)} -> {shown_value(new)}"


def shown_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def result_table(a: Mapping[str, tuple[float, float]], b: Mapping[str, tuple[float, float]]) -> Any:
    """Results side by side, with the difference and its standard error where both have one."""
    from rich.table import Table

    table = Table(title="results (± standard error where it is known)", title_justify="left")
    for column in ("result", "A", "B", "B - A"):
        table.add_column(column, justify="left" if column == "result" else "right")
    for key in [key for key in a if key in b]:
        (x, x_error), (y, y_error) = a[key], b[key]
        table.add_row(key, number(x, x_error), number(y, y_error), number(y - x, math.hypot(x_error, y_error)))
    return table


def number(value: float, error: float) -> str:
    return f"{value:.4g}" if math.isnan(error) else f"{value:.4g} ± {error:.2g}"


def read_overrides_file(path: Path) -> list[str]:
    """A file as --overrides prints it, or a YAML list."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip() and not line.startswith("#")]
    if all(line.startswith("- ") for line in lines):
        content = read_yaml(path)
        return [str(item) for item in content]
    return lines


if __name__ == "__main__":
    sys.exit(main())
