"""Damaged files: one place of one file of a run folder is changed, then a command reads the folder."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability.forked import import_modules, run_forked
from benchmarks.reliability.trials import (
    REFUSED,
    SAME,
    SMALL_RUNS,
    WRONG,
    Ended,
    Experiment,
    Trial,
    command,
    differences,
    file_hash,
    fingerprint,
    finish,
    metric_lines,
    recorded_state,
    start,
    undisturbed,
)
from launch.runs.checksums import newest_manifest

LIMIT_SECONDS = 120.0
RESUME, STATUS, COLLECT = "resume", "launch.status", "launch.collect"
COMMANDS = (RESUME, RESUME, STATUS, COLLECT)
SHARES = {"didactic": 8, "llm": 1, "chem": 1}  # of the trials, since runs of the last two take longer
STOPS = {"preempted": signal.SIGTERM, "killed": signal.SIGKILL}
STATES = ("finished", "failed", "running", "preempted", "dead")
MAX_TRIES = 10


@dataclass
class Source:
    """A run whose copies are damaged.

    Attributes:
        package: its package.
        run: its folder, in a folder of its own.
        expected: the fingerprint of the undisturbed run.
        shown: what launch.status and launch.collect show of it.
    """

    package: str
    run: Path
    expected: dict[str, str]
    shown: dict[str, str]


def run_damage(experiment: Experiment, count: int, shares: Mapping[str, int] = SHARES) -> int:
    """Run the trials. Returns the exit status.

    Args:
        experiment: where the trials go.
        count: number of trials.
        shares: packages and their shares of the trials.
    """
    for module in (*shares, STATUS, COLLECT):
        import_modules(module)
    sources = {package: make_sources(experiment.folder, package) for package in shares}

    def attempt(number: int, generator: random.Random) -> Trial:
        package = generator.choices(list(shares), list(shares.values()))[0]
        return damage_once(experiment.folder, number, generator, generator.choice(sources[package]))

    return experiment.run(count, attempt)


def make_sources(folder: Path, package: str) -> list[Source]:
    """A finished run of the package, one that a signal stopped and one that was killed."""
    whole, _ = undisturbed(folder, package)
    runs = [_copy(whole, folder / f"{package}_finished" / "run")]
    runs += [_interrupted(folder / f"{package}_{name}", package, whole, stop) for name, stop in STOPS.items()]
    expected = fingerprint(whole)
    sources = []
    for run in runs:
        place = run.with_name("shown")
        shown = {name: _show(name, _copy(run, place / "run"), place)[1] for name in (STATUS, COLLECT)}
        sources.append(Source(package, run, expected, shown))
    return sources


def damage_once(folder: Path, number: int, generator: random.Random, source: Source) -> Trial:
    """Damage one file of a copy of the run, and run one command on the copy."""
    place = folder / f"damage_{number}"
    run = _copy(source.run, place / "run")
    name = generator.choice(COMMANDS)
    path = generator.choice(sorted(path for path in run.rglob("*") if path.is_file() and path.stat().st_size))
    damage, at = _damage(path, generator)
    if name == RESUME:
        outcome, detail = _resume(source, run, place)
    else:
        outcome, detail = _compare_shown(source, name, run, place)
        if outcome == WRONG and path.name == "metrics.jsonl" and at >= _verified_length(source.run):
            outcome, detail = SAME, f"lines without a checksum: {detail}"
    if outcome != WRONG:
        shutil.rmtree(place)
    what = f"{source.run.parent.name}, {name}, {path.relative_to(run)}: {damage}"
    return Trial(number, outcome, what, detail)


def _resume(source: Source, run: Path, place: Path) -> tuple[str, str]:
    """Resume a damaged run. A finished one must be left as it is; another one must reach the undisturbed results."""
    before = _all_files(run)
    arguments = [*SMALL_RUNS[source.package], f"hydra.run.dir={run}"]
    ended = run_forked(source.package, arguments, place, LIMIT_SECONDS)
    fault = ended.fault(source.package)
    if fault or ended.status:
        return WRONG if fault else REFUSED, fault or ended.error.strip()
    if "already finished" in ended.output:
        changed = [name for name, content in _all_files(run).items() if before.get(name) != content]
        return (WRONG, f"a finished run was changed: {changed}") if changed else (SAME, "already finished")
    different = differences(run, source.expected)
    return (WRONG, f"other results: {', '.join(different)}") if different else (SAME, "")


def _compare_shown(source: Source, name: str, run: Path, place: Path) -> tuple[str, str]:
    """Run launch.status or launch.collect and compare what it shows with what it shows of the undamaged run."""
    ended, shown = _show(name, run, place)
    fault = ended.fault(name) if ended.error or ended.status not in (0, 1) else ""
    if fault or "Traceback" in ended.output:
        return WRONG, fault or "traceback"
    if shown == source.shown[name]:
        return SAME, ""
    if ended.status == 1 and (ended.error or _is_set_aside(ended.output if name == STATUS else shown, name)):
        return REFUSED, ended.error.strip() or ended.output.strip()[-300:]
    return WRONG, f"shows {shown[:400]!r} instead of {source.shown[name][:400]!r}"


def _verified_length(run: Path) -> int:
    """The bytes of metrics.jsonl whose checksum is recorded. The lines after a killed run's checkpoint have none."""
    if recorded_state(run) != "running":
        return (run / "metrics.jsonl").stat().st_size
    manifest = newest_manifest(run)
    return int(manifest["positions"]["metrics"]) if manifest else 0


def _is_set_aside(output: str, name: str) -> bool:
    """Whether a command with status 1 and no message shows that the run cannot be read.

    Args:
        output: that of the command; of launch.collect with paths that begin with `/run`.
        name: the command.
    """
    if name == STATUS:
        return all(job["state"] not in STATES for jobs in json.loads(output).values() for job in jobs)
    marked = [line for line in output.splitlines() if line.partition(": ")[2].startswith("/run")]
    return bool(marked) and all(line.partition(": ")[0] not in STATES for line in marked)


def _show(name: str, run: Path, place: Path) -> tuple[Ended, str]:
    """What a command shows of a run, without times and paths."""
    arguments = [str(run), "--json"] if name == STATUS else [str(run), "--out", str(place / "collected")]
    ended = run_forked(name, arguments, place, LIMIT_SECONDS)
    if name == STATUS:
        try:
            jobs = [job for jobs in json.loads(ended.output).values() for job in jobs]
        except ValueError:
            return ended, ended.output
        return ended, json.dumps([{key: job[key] for key in job if key != "seconds_left"} for job in jobs])
    table = place / "collected" / "table.csv"
    text = table.read_text("utf-8") if table.exists() else ""
    return ended, text + ended.output.replace(str(place), "")


def _interrupted(place: Path, package: str, whole: Path, stop: signal.Signals) -> Path:
    """A run that a signal has ended in the middle."""
    run = place / "run"
    for _ in range(MAX_TRIES):
        if 0 < metric_lines(run) < metric_lines(whole) and recorded_state(run) in ("preempted", "running"):
            return run
        shutil.rmtree(run, ignore_errors=True)
        process = start(command(package, run))
        while process.poll() is None and metric_lines(run) < metric_lines(whole) // 2:
            time.sleep(0.002)
        process.send_signal(stop)
        finish(process)
    raise SystemExit(f"{package}: the run ended each time before {stop.name} stopped it")


def _copy(source: Path, target: Path) -> Path:
    """Copy a run folder. Weights in checkpoints become links, since nothing writes to them in place."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=_link_weights)
    return target


def _link_weights(source: str, target: str) -> None:
    if Path(source).parts[-3] == "checkpoints" and source.endswith(".safetensors"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _damage(path: Path, generator: random.Random) -> tuple[str, int]:
    """Change a bit or a byte, cut the file off, or overwrite a part with zeros. Returns what was done, and where."""
    content = bytearray(path.read_bytes())
    at = generator.randrange(len(content))
    kind = generator.choices(("bit", "byte", "cut", "zeros"), (50, 30, 10, 10))[0]
    if kind == "bit":
        content[at] ^= 1 << generator.randrange(8)
    elif kind == "byte":
        content[at] = (content[at] + generator.randrange(1, 256)) % 256
    elif kind == "cut":
        del content[at:]
    else:
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    path.unlink()  # it may be a link
    path.write_bytes(content)
    return f"{kind} at {at}", at


def _all_files(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): file_hash(path) for path in files}
