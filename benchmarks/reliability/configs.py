"""Mangled configurations: each one runs, or ends in one line and status 1."""

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from benchmarks.reliability.forked import import_modules, run_forked
from benchmarks.reliability.trials import PACKAGES, REFUSED, SAME, SMALL_RUNS, WRONG, Experiment, Trial
from launch.cli.compose import compose
from launch.cli.groups import CONF, groups, option_files, options
from launch.runs.run_folder import flatten

LIMIT_SECONDS = 45.0  # then a run that goes on is asked to stop, which counts as running
VALUES = (
    *("0", "-1", "1", "2", "3.5", "1e-300", "1e300", "1e39", "-1e39", "nan", "inf", "-inf", "1e999"),
    *("9" * 40, "0x10"),
    *("100000", "1000000000", "2147483648", "9223372036854775807", "-9223372036854775809", "1_000", "007", ".5"),
    *("", "''", "' '", "null", "true", "false", "yes", "off", "~", "???", "x", "None", "[]", "{}", "[null]", "[[]]"),
    *("[1,2]", "[a,b]", "{a:1}", "{name:mara}", "{kind:value}", "{}.", "1,2"),
    *("[", "]", "{", "}", "'", '"', "\\", "="),
    *("${seed}", "${steps}", "${nothing}", "${oc.env:NO_SUCH_VARIABLE}", "${", "$", "$(true)", "${now:%f}", "%", "#"),
    *("é", "日本", "a b", "a\tb", "a\nb", "[bold]x[/]", "[/]", "😀", "\x7f", "../..", "/dev/null", ".", "a" * 3000),
    *("choice(1,2)", "range(3)", "range(3,3)", "glob(*)", "sort(3,1)", "int(3)", "float(x)", "shuffle(a)", "tag(a)"),
    *("auto", "mara", "identity", "sequence", "token", "reverse", "forward", "cpu", "cuda", "float16", "shipped"),
)
NUMBERS = (
    *("0", "-1", "1", "2", "3", "5", "0.5", "0.999", "1.5", "1e-6", "1e-45", "1e3", "7", "64", "1025"),
    *("1e30", "3.4e38"),
    *("100000", "10000000", "1000000000", "2147483648", "9223372036854775807", "1e300", "nan", "inf", "-inf", "null"),
)
WORDS = ("x", "auto", "null", "a/b", "é", "[a]", "''", "builtins:print", "os:abort", "no.such:Name", "a" * 300)
PREFIXES = ("", "", "", "", "+", "++", "~")
FLAGS = (
    *("--cfg job", "--cfg x", "--resolve", "--config-name x", "--config-name ''", "--config-dir no_such", "--info"),
    *("--package seed", "-m", "--multirun", "--config-path x", "--no-such-flag", "--hydra-help", "--help", "-h"),
)
Keys = Mapping[str, Any]  # the values of a package's configuration by dotted key
HYDRA_KEYS = (
    *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name", "hydra.job.chdir", "hydra.verbose"),
    *("hydra.launcher.array_parallelism", "hydra.searchpath", "hydra.output_subdir", "hydra.mode"),
)


def run_configs(experiment: Experiment, count: int) -> int:
    """Run the trials; trial i mangles the configuration of package i % 3. Returns the exit status."""
    for package in PACKAGES:
        import_modules(package)
    keys = {package: flatten(compose(package, SMALL_RUNS[package])) for package in PACKAGES}
    GlobalHydra.instance().clear()
    return experiment.run(count, lambda number, generator: try_mangled(experiment.folder, number, generator, keys))


def try_mangled(folder: Path, number: int, generator: random.Random, keys: Mapping[str, Keys]) -> Trial:
    """Run one mangled configuration.

    Args:
        folder: holds a folder `config_NUMBER` for the trial, which is removed unless the outcome is WRONG.
        number: of the trial.
        generator: makes the choices.
        keys: the values of each package's configuration by dotted key.
    """
    package = PACKAGES[number % len(PACKAGES)]
    place = folder / f"config_{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    arguments = mangled(package, place, generator, keys[package])
    ended = run_forked(package, arguments, place, LIMIT_SECONDS)
    what = f"{package} {' '.join(arguments)}"[:1500]
    if ended.status == 128 + 15 and any(place.rglob("config.yaml")):  # asked to stop after the limit
        fault, outcome = "", SAME
    else:
        fault, outcome = ended.fault(package), REFUSED if ended.status else SAME
    if not fault:
        shutil.rmtree(place, ignore_errors=True)
    detail = fault or ended.error.strip()[:300]
    return Trial(number, WRONG if fault else outcome, what, detail)


def mangled(package: str, place: Path, generator: random.Random, keys: Keys) -> list[str]:
    """The arguments of a small run with one to three mutations, of which most have one."""
    arguments = [*SMALL_RUNS[package], "hydra.run.dir=run"]
    for _ in range(generator.choice((1, 1, 1, 1, 2, 3))):
        mutate = generator.choices(MUTATIONS, WEIGHTS)[0]
        mutate(package, place, generator, keys, arguments)
    return arguments


def _value(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Give a key another value; a key that is given already is replaced."""
    key = generator.choice((*keys, *keys, *keys, *HYDRA_KEYS))
    value = keys.get(key)
    if isinstance(value, bool):
        values: Sequence[str] = ("true", "false")
    elif isinstance(value, int | float):
        changed = (value + 1, value * 2, value * 10, -(-value // 2), value * 1000000, -value)
        values = (*map(str, changed), *map(str, changed), *NUMBERS)
    else:
        values = WORDS if isinstance(value, str) else NUMBERS + WORDS
    if generator.random() < 0.2:
        values = VALUES  # of any type
    _replace(arguments, key, f"{key}={generator.choice(values)}")


def _plausible(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Give a key a value that may well run: near the present one, or at the end of a range."""
    key = generator.choice([key for key, value in keys.items() if isinstance(value, int | float)])
    value = keys[key]
    if isinstance(value, bool):
        new = str(not value).lower()
    else:
        near: list[object] = [value + 1, value * 2, value * 3, (value + 1) // 2, value * 0.9, value / 3, 0, 1]
        new = str(generator.choice([*near, *near, 1e-30, 1e-12, 1e6, 1e12, 3e38]))
    _replace(arguments, key, f"{key}={new}")


def _prefixed(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Add, force or remove a key or a section."""
    key = generator.choice(list(keys))
    key = generator.choice((key, key.partition(".")[0], f"{key}.x"))
    _replace(arguments, key, f"{generator.choice(PREFIXES)}{key}{generator.choice(('', '=', '=1', '=null', '=x'))}")


def _misspelt(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Change one character of a key, or of an argument that the small run has."""
    text = generator.choice((f"{generator.choice(list(keys))}=1", generator.choice(arguments)))
    at = generator.randrange(len(text))
    character = generator.choice(("", "x", ".", "=", "/", "@", ":", " ", "é", "[", text[at] * 2))
    arguments.append(text[:at] + character + text[at + 1 :])


def _group(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Choose another option of a group, also one of another package or a made-up one."""
    group = generator.choice(groups(package))
    foreign = [path.stem for other in PACKAGES for path in option_files(other, group)]
    option = generator.choice((*options(package, group), *options(package, group), *foreign, "no_such", "", "null"))
    _replace(arguments, group, f"{generator.choice(('', '', '', '+', '~'))}{group}={option}")


def _file(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Add an experiment file of one's own, made from one of the package by changing bytes or lines."""
    source = generator.choice(sorted((CONF / package / "experiment").glob("*.yaml")))
    content = bytearray(source.read_bytes())
    for _ in range(generator.choice((1, 1, 2, 5))):
        at = generator.randrange(len(content))
        kind = generator.randrange(4)
        if kind == 0:
            content[at] = generator.randrange(256)
        elif kind == 1:
            content[at:at] = generator.choice((b"\t", b"\n", b": ", b"- ", b"[", b"{", b"'", b"&a ", b"*a ", b"!!x "))
        elif kind == 2:
            del content[at : at + generator.randrange(1, 20)]
        else:
            content += f"\n{generator.choice(list(keys)).partition('.')[0]}: {generator.choice(VALUES)}\n".encode()
    path = place / "conf" / "experiment" / "mangled.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    arguments[:] = [argument for argument in arguments if not argument.startswith("experiment=")]
    arguments += ["experiment=mangled"]
    if "--config-dir" not in arguments:
        arguments[:0] = ["--config-dir", "conf"]


def _flag(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Add a flag."""
    arguments += generator.choice(FLAGS).split()


def _damage(package: str, place: Path, generator: random.Random, keys: Keys, arguments: list[str]) -> None:
    """Repeat, empty or split an argument, or add one that is none."""
    argument = generator.choice(arguments)
    key = argument.partition("=")[0]
    arguments.append(
        generator.choice((argument, f"{key}=", key, f"{argument},{argument}", f"={argument}", "", "=", "a"))
    )


def _replace(arguments: list[str], key: str, argument: str) -> None:
    """Add an argument instead of those of the same key."""
    arguments[:] = [other for other in arguments if other.partition("=")[0].lstrip("+~") != key] + [argument]


Mutation = Callable[[str, Path, random.Random, Keys, list[str]], None]
MUTATIONS: tuple[Mutation, ...] = (_plausible, _value, _prefixed, _misspelt, _group, _file, _flag, _damage)
WEIGHTS = (40, 25, 6, 5, 10, 9, 2, 3)
