"""`python -m launch.reproduce RUN`: run again from the record into a new folder, and compare.

First it says which code, packages and hardware are others than the record's. Then it runs the recorded configuration,
and compares metrics.jsonl and samples.jsonl line by line, summary.json, and the weights: where packages and hardware
are the record's, bit for bit; elsewhere each number within --tolerance (relative, with a hundredth of it absolute;
text must be equal, and weights are not compared). Sampled rollouts part for good where a probability differs in its
last bit, so elsewhere a long run cannot be expected to pass: the first step that differs is what to look at.

    python -m launch.reproduce runs/llm/one_two/2026-11-21_10-00-00
    python -m launch.reproduce RUN --with objective.beta=.01        the same run under a config diff
    python -m launch.reproduce RUN --with diff.txt                  ... as launch.diff --overrides printed it

--with takes overrides, or a file of them; then nothing is expected to be equal, and the two are shown side by side.
The exit status is 0 where the run was reproduced, 1 where it was not, 2 for an error.
"""

import argparse
import hashlib
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.cli.compose import compose
from launch.diff import (
    applied,
    change,
    config_changes,
    minimal_overrides,
    print_difference,
    read_overrides_file,
    read_side,
)
from launch.runs.run_folder import read_config, read_json, read_jsonl, read_record, run_state

TOLERANCE = 1e-4
STREAMS = ("metrics.jsonl", "samples.jsonl")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the new run (default: RUN_reproduced_TIME)")
    parser.add_argument(
        "--with", dest="more", nargs="+", default=[], metavar="DIFF", help="overrides, or a file of them"
    )
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"relative, elsewhere (default: {TOLERANCE:g})"
    )
    given = parser.parse_args(arguments)
    try:
        return reproduce(given.run, given.out, given.more, given.tolerance)
    except ConfigError as error:
        print(f"launch.reproduce: {error}", file=sys.stderr)
        return 2


def reproduce(run: Path, out: Path | None, more: Sequence[str], tolerance: float) -> int:
    record = read_record(run)
    package, command = str(record["package"]), [str(word) for word in record["command"][3:]]
    flags = command[:2] if command[:1] == ["--config-dir"] else []
    overrides = command[len(flags) :]
    target = read_config(run)
    if more and len(more) == 1 and Path(more[0]).is_file():
        more = read_overrides_file(Path(more[0]))
    out = out or run.with_name(f"{run.name}_reproduced_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if (out / "run.json").exists():
        raise ConfigError(f"--out: must be a new folder, got the run {out}")
    # The command gives another configuration by now where an experiment's file or a default has changed.
    changed = config_changes(compose(package, overrides, flags, checked=False), target)
    if changed:
        print("the command now gives another configuration than the record's, which is the one that is run:")
        for key, (now, then) in changed.items():
            print(f"  {change(key, now, then).strip()}")
        overrides = applied(overrides, minimal_overrides(package, flags, overrides, target, None))
    overrides = applied(overrides, more)
    compose(package, overrides, flags)  # a mistake in --with is told before anything is run
    print(f"running into {out}", flush=True)
    where = [f"hydra.run.dir={out}"]
    done = subprocess.run([sys.executable, "-m", package, *flags, *overrides, *where])
    if done.returncode:
        print(f"launch.reproduce: {out}: the new run must finish, got exit status {done.returncode}", file=sys.stderr)
        return 1 if (out / "run.json").exists() else 2
    if more:
        print_difference(read_side(str(run)), read_side(str(out)))
        return 0
    return report(run, out, tolerance)


def report(run: Path, out: Path, tolerance: float) -> int:
    """Say what differs between a run and its repetition; 0 where nothing does, beyond what is tolerated."""
    old, new = read_record(run), read_record(out)
    for kind in ("code", "versions", "hardware"):
        for key, pair in config_changes(old[kind], new[kind]).items():
            print(f"{kind}: {change(key, *pair).strip()}")
    if patch(run) != patch(out):
        print("code: the uncommitted changes are others (code.patch)")
    exact = surroundings(old) == surroundings(new)
    print("same packages and hardware: compared bit for bit" if exact else f"compared within {tolerance:g}")
    if run_state(run) != "finished":
        print(f"the run is {run_state(run)}: compared up to its last step")
    found = next(differences(run, out, 0.0 if exact else tolerance), None)
    if found is not None:
        print(f"not reproduced; the first difference: {found}")
        return 1
    metrics, samples = (len(lines_of(run / name)) for name in STREAMS)
    print(f"reproduced: {metrics} lines of metrics, {samples} of samples")
    return 0


def surroundings(record: Mapping[str, Any]) -> Any:
    """What bits depend on beside code and configuration."""
    return {k: v for k, v in record["versions"].items() if k != "mara-rl"}, record["hardware"]


def patch(folder: Path) -> str:
    path = folder / "code.patch"
    return path.read_text("utf-8") if path.exists() else ""


def differences(run: Path, out: Path, tolerance: float) -> Iterator[str]:
    """What differs, the earliest step first; then the summary, then the weights."""
    complete = run_state(run) == "finished"
    found = [one for name in STREAMS for one in line_differences(run / name, out / name, tolerance, complete)]
    yield from (text for _, text in sorted(found, key=lambda one: one[0]))
    if not complete:
        return
    for key, old, new in value_differences(
        read_json(run / "summary.json"), read_json(out / "summary.json"), tolerance
    ):
        yield f"summary.json, {key}: {old} in the record, {new} now"
    if tolerance == 0:
        for name in sorted({*weights(run), *weights(out)}):
            old_hash, new_hash = weights(run).get(name, "none"), weights(out).get(name, "none")
            if old_hash != new_hash:
                yield f"{name}: sha256 {old_hash[:12]} in the record, {new_hash[:12]} now"


def line_differences(old: Path, new: Path, tolerance: float, complete: bool) -> Iterator[tuple[int, str]]:
    """(step, what) for each value of each line; lines that an unfinished run lacks are none of its faults."""
    for number, (one, other) in enumerate(zip_longest(lines_of(old), lines_of(new)), start=1):
        if one is None and not complete:
            return
        if one is None or other is None:
            step = (one or other or {}).get("step", -1)
            yield (
                step,
                f"step {step}, {old.name} line {number}: only in the {'record' if other is None else 'new run'}",
            )
            continue
        for key, a, b in value_differences(one, other, tolerance):
            yield one["step"], f"step {one['step']}, {key} ({old.name} line {number}): {a} in the record, {b} now"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """A command without training steps has no such file."""
    return read_jsonl(path) if path.exists() else []


def value_differences(old: Any, new: Any, tolerance: float) -> Iterator[tuple[str, Any, Any]]:
    for key, (a, b) in config_changes(old, new).items():
        if not close(a, b, tolerance):
            yield key, a, b


def close(a: Any, b: Any, tolerance: float) -> bool:
    """Equal, or numbers (in equally long lists) whose difference is within the tolerance."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if type(a) in (int, float) and type(b) in (int, float):
        return a == b or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance / 100)
    return bool(type(a) is type(b) and a == b)


def weights(run: Path) -> dict[str, str]:
    """Hashes of the final weights: the policy's, and all that the last checkpoint has."""
    files = sorted(run.glob("policy/*.safetensors"))
    files += sorted(run.glob("checkpoints/*/tensors.safetensors"))[-1:]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    sys.exit(main())
