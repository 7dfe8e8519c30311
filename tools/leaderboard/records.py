"""Records of finished runs of methods on tasks whose coverage can be counted, one JSON line each."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from conf.schema.base import ConfigError
from launch.analysis.table import CollectedRun
from launch.cli.compose import compose
from launch.runs.atomic import make_folder
from launch.runs.run_folder import flatten, iterate_jsonl, write_text

RECORDS = Path("benchmarks/records/methods.jsonl")
TASKS = ("one_of_many", "spellings", "one_two", "one_two_real", "open_questions")  # experiments, in the page's order
RESULTS = ("correct", "coverage", "entropy_nats", "effective_answers")
PACKAGES = ("python", "torch", "transformers", "numpy")  # whose versions a record has
# Keys that have a field of their own in a record, or do not change results.
NOT_SETTINGS = ("seed", "objective.beta", "threads", "micro_batch", "model.device", "sample_every", "data.root")
FIELDS: dict[str, Any] = {"method": str, "task": str, "seed": int, "beta": int | float, "settings": dict}
FIELDS |= {"base": dict, "versions": dict, "commit": str, "modified": bool}


class Row(NamedTuple):
    """What has a row in the leaderboard. settings: as JSON, the same text for the same settings."""

    task: str
    method: str
    beta: float
    settings: str


class RunKey(NamedTuple):
    """A run of a row."""

    row: Row
    seed: int


Records = dict[RunKey, dict[str, Any]]


def key_of(record: Mapping[str, Any]) -> RunKey:
    """The run that a record is of."""
    settings = json.dumps(record["settings"], sort_keys=True)
    return RunKey(Row(record["task"], record["method"], float(record["beta"]), settings), record["seed"])


def read_records(path: Path) -> Records:
    """Read the file; empty if there is none.

    Raises:
        ConfigError: a line is damaged, or two lines are of the same run.
    """
    if not path.exists():
        return {}
    records: Records = {}
    for number, record in enumerate(iterate_jsonl(path), start=1):
        place = f"{path}, line {number}"
        check_record(record, place)
        if key_of(record) in records:
            raise ConfigError(f"{place}: is a second record of {describe(key_of(record))}; remove one of the two")
        records[key_of(record)] = record
    if not path.read_bytes().endswith(b"\n"):
        raise ConfigError(f"{path}: the last line is cut off; remove it, and add its run again")
    return records


def check_record(record: Mapping[str, Any], place: str) -> None:
    """Check the fields of a record.

    Raises:
        ConfigError: one is missing or has the wrong type; the message begins with `place`.
    """
    wrong = [name for name, kind in FIELDS.items() if not isinstance(record.get(name), kind)]
    for holder, prefix in ((record, ""), (record.get("base"), "base.")):
        if isinstance(holder, Mapping):
            wrong += [prefix + name for name in RESULTS if type(holder.get(name)) not in (int, float)]
    if wrong:
        raise ConfigError(f"{place}: not the record of a run: it has no valid {wrong[0]}")


def write_records(path: Path, records: Records) -> None:
    """Write all records, sorted by run, in place of the file."""
    make_folder(path.parent)
    lines = [json.dumps(records[key], sort_keys=True, allow_nan=False) + "\n" for key in sorted(records)]
    write_text(path, "".join(lines))


def describe(key: RunKey) -> str:
    """A run in words."""
    return f"{key.row.method} on {key.row.task}, beta {key.row.beta:g}, seed {key.seed}"


def record_of(run: CollectedRun) -> dict[str, Any]:
    """The record of a finished run.

    Raises:
        ConfigError: it is not a run of a `method=` on one of TASKS, or has no counted coverage.
    """
    typed = dict(text.lstrip("+").split("=", 1) for text in run.overrides if "=" in text)
    task, method = typed.get("experiment", "one_two"), typed.get("method")
    if run.package != "llm" or task not in TASKS:
        raise ConfigError(f"{run.folder}: must be a run of python -m llm with experiment={'|'.join(TASKS)}")
    if not method:
        raise ConfigError(f"{run.folder}: has no method=NAME among its overrides, so that its row has no name")
    missing = [name for name in RESULTS if name not in run.results or f"base.{name}" not in run.results]
    if missing:
        raise ConfigError(f"{run.folder}: its summary.json has no {missing[0]} of the policy and its base")
    return {
        "method": method,
        "task": task,
        "seed": run.config["seed"],
        "beta": run.config["objective.beta"],
        "settings": settings_of(run.config),
        **{name: run.results[name] for name in RESULTS},
        "base": {name: run.results[f"base.{name}"] for name in RESULTS},
        "versions": {name: run.record["versions"][name] for name in PACKAGES if name in run.record["versions"]},
        "commit": str(run.record["code"].get("commit")),
        "modified": bool(run.record["code"].get("dirty")),
    }


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a flat configuration changes of the defaults of `python -m llm`, whose later keys leave it as it is."""
    default = defaults()
    changed = {name: value for name, value in config.items() if value != default.get(name)}
    settings = {name: value for name, value in changed.items() if not name.startswith(NOT_SETTINGS)}
    model = settings.get("model.name_or_path")
    if isinstance(model, str) and Path(model).is_absolute():
        settings["model.name_or_path"] = Path(model).name  # a record holds no path of a machine
    return settings


@cache
def defaults() -> dict[str, Any]:
    """The flat configuration of `python -m llm` without an experiment and a method."""
    return flatten(compose("llm", ["~experiment"], checked=False))


@cache
def present_settings(task: str, method: str) -> dict[str, Any] | None:
    """The settings of a method on a task as its files are now; None if there is no such method any more."""
    try:
        return settings_of(flatten(compose("llm", [f"experiment={task}", f"method={method}"], checked=False)))
    except ConfigError:
        return None


def differences(row: Row) -> list[str]:
    """How the runs of a row differ from its method's files, as overrides; empty if beta is all that may."""
    present, recorded = present_settings(row.task, row.method), json.loads(row.settings)
    if present is None:
        return ["a method that is not shipped any more"]
    default = defaults()
    keys = [key for key in {**recorded, **present} if recorded.get(key) != present.get(key)]
    return [f"{key}={recorded.get(key, default.get(key))}" for key in sorted(keys)]


def add_runs(records: Records, runs: Iterable[CollectedRun]) -> tuple[Records, dict[str, int], list[str]]:
    """Add the finished runs of sweeps to records.

    Returns:
        The new records; how many runs were added, already known, replaced (with other results) and not finished; and
        a line for each run that failed, cannot be read or cannot have a record.
    """
    result, problems = dict(records), []
    counts = dict.fromkeys(("added", "known", "replaced", "not finished"), 0)
    for run in runs:
        if run.state in ("failed", "unreadable"):
            problems.append(f"{run.state}: {run.folder}{': ' if run.error else ''}{run.error}")
        elif run.state != "finished":
            counts["not finished"] += 1
        else:
            try:
                record = record_of(run)
            except ConfigError as error:
                problems.append(f"left out: {error}")
                continue
            known = result.get(key_of(record))
            counts["added" if known is None else "known" if known == record else "replaced"] += 1
            result[key_of(record)] = record
    return result, counts, problems
