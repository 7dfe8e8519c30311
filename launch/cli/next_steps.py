"""The commands that can follow a run, a sweep, or one that was interrupted. A run's own files say what it holds."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.cli.overrides import quote
from launch.cli.recorded_command import read_command
from launch.cluster.sweep import ACTIVE, RESUMABLE
from launch.runs.closing import command, is_managed, next_line, shown_path
from launch.runs.run_folder import read_config, read_record, user_path

OFFLINE = ("equivalence=exact", "embedder=null")  # of llm.evaluate: what needs no further model
PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")  # text that Hydra's grammar reads as itself without quotes


def path_override(key: str, path: Path | str) -> str:
    """The override that sets a key to a path, relative to the working folder, quoted only if it must be."""
    text = shown_path(path)
    return f"{key}={text if PLAIN.fullmatch(text) else quote(text)}"


def after_run(folder: Path) -> list[str]:
    """The commands that can follow a finished run, in the order in which most people need them."""
    record, config = read_record(folder), read_config(folder)
    steps = STEPS.get(record["package"], lambda folder, config: [])
    return steps(folder, config) or [command("launch.reproduce", folder)]


def after_sweep(folder: Path, finished: int, failures: int) -> list[str]:
    """The commands that can follow a sweep. Failed jobs can run again, and finished ones can be compared."""
    resume, collect = command("launch.resume", folder), command("launch.collect", folder)
    return [*([resume] if failures else []), *([collect] if finished else [])]


def after_submission(folder: Path) -> list[str]:
    """The commands that can follow the start of jobs that are not waited for."""
    return [command("launch.watch", folder), command("launch.status", folder)]


def after_status(folder: Path, states: Sequence[str]) -> list[str]:
    """The commands that can follow a look at the states of a sweep's jobs, at most two."""
    active = any(state in ACTIVE for state in states)
    commands = {
        command("launch.watch", folder): active,
        command("launch.resume", folder): any(state in RESUMABLE for state in states) and not active,
        command("launch.collect", folder): "finished" in states,
    }
    return [text for text, applies in commands.items() if applies][:2]


def how_to_continue(run: Path, sweep: Path | None) -> list[str]:
    """Lines about how an interrupted run, or the sweep that it belongs to, goes on.

    Empty if it has no record yet, or if another command, which started it, says so.
    """
    if is_managed() or not (run / "run.json").exists():
        return []
    if sweep is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return [f"to go on, start the same command again with {path_override('hydra.run.dir', run)}"]
    return [next_line(command("launch.resume", sweep or run))]


Steps = Callable[[Path, Mapping[str, Any]], list[str]]


def _llm(folder: Path, config: Mapping[str, Any]) -> list[str]:
    return [
        command("llm.evaluate", path_override("run", folder), *OFFLINE),
        command("launch.collect", folder),
    ]


def _llm_ensemble(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The evaluation of the average, if it is known on which task the policy was trained; or training it further."""
    policy = folder / "policy"
    run = user_path(str(config["policy"]))
    try:
        overrides = read_command(read_record(run)).overrides
        trained = read_config(run)
    except ConfigError:  # the policy is a model of its own
        overrides, trained = (), {}
    experiment = next((word for word in overrides if word.startswith("experiment=")), None)
    if experiment is None:
        return [command("llm", path_override("model.name_or_path", policy))]
    tokens = f"max_new_tokens={trained['max_new_tokens']}"
    return [command("llm.evaluate", path_override("model", policy), experiment, tokens, *OFFLINE)]


def _llm_evaluate(folder: Path, config: Mapping[str, Any]) -> list[str]:
    if config["run"] is not None:
        return [command("launch.collect", user_path(config["run"]))]
    if config["model"] is not None:
        return [command("llm.evaluate", path_override("generations", folder / "generations.jsonl"), *OFFLINE)]
    return []


def _chem(folder: Path, config: Mapping[str, Any]) -> list[str]:
    return [
        command("chem.sample", path_override("prior", folder / "policy"), "count=1000"),
        command("launch.collect", folder),
    ]


def _chem_pretrain(folder: Path, config: Mapping[str, Any]) -> list[str]:
    prior = path_override("prior", folder / "prior")
    return [command("chem", prior), command("chem.sample", prior, "count=1000")]


def _chem_sample(folder: Path, config: Mapping[str, Any]) -> list[str]:
    return [command("chem.score", path_override("file", folder / f"molecules.{config['format']}"), "oracle=qed")]


def _chem_score(folder: Path, config: Mapping[str, Any]) -> list[str]:
    scores = folder / "scores.csv"
    return [command("chem.evaluate", path_override("file", scores)), command("chem.space", scores)]


def _chem_evaluate(folder: Path, config: Mapping[str, Any]) -> list[str]:
    if config["smiles_column"] is not None or config["score_column"] != "score":
        return []  # chem.space reads the columns smiles and score
    return [command("chem.space", user_path(config["file"]), "--out", folder / "space")]


def _chem_stock(folder: Path, config: Mapping[str, Any]) -> list[str]:
    if config["inventory"] != "make":
        return []
    stock = path_override("inventory", folder / "stock.smi.gz")
    return [command("chem.stock", stock, f"count={config['count']}", f"seed={config['seed'] + 1}")]


def _chem_benchmark(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """The same benchmark with twice the seeds: the runs that have a record are not repeated."""
    recorded = read_command(read_record(folder))
    others = [word for word in recorded.overrides if not word.startswith("seeds=")]
    return [command("chem.benchmark", *recorded.flags, *others, f"seeds={2 * config['seeds']}")]


def _didactic(folder: Path, config: Mapping[str, Any]) -> list[str]:
    return [command("launch.collect", folder), command("launch.reproduce", folder)]


STEPS: dict[str, Steps] = {
    "didactic": _didactic,
    "llm": _llm,
    "llm.ensemble": _llm_ensemble,
    "llm.evaluate": _llm_evaluate,
    "chem": _chem,
    "chem.pretrain": _chem_pretrain,
    "chem.sample": _chem_sample,
    "chem.score": _chem_score,
    "chem.evaluate": _chem_evaluate,
    "chem.stock": _chem_stock,
    "chem.benchmark": _chem_benchmark,
}
