"""`python -m launch.reproduce RUN`: repeat a recorded run in a new folder, and compare the results.

The recorded configuration is run. Then the command prints the differences in code, packages and hardware, and
compares metrics.jsonl and samples.jsonl line by line, summary.json and the weights. With the same packages and
hardware they must be equal bit for bit. Otherwise numbers may differ by --tolerance (relative, plus a hundredth of it
absolute), text must be equal, and weights are not compared. Sampled rollouts diverge for good once a probability
differs in its last bit, so a long run will not pass on other hardware; look at the first step that differs.

    python -m launch.reproduce runs/llm/one_two/2026-11-21_10-00-00
    python -m launch.reproduce RUN --with objective.beta=.01        the same run under a config diff
    python -m launch.reproduce RUN --with diff.txt                  ... with the output of launch.diff --overrides

With --with, the results are expected to differ, and the two runs are shown side by side. It takes overrides, or a
file of them; relative paths in them are relative to the working folder of the recorded run. The exit status is 0 if
the run was reproduced, 1 if it was not, and 2 after an error.
"""

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.cli.command_table import ArgumentParser
from launch.cli.compose import compose
from launch.cli.recorded_command import read_command
from launch.diff import (
    config_changes,
    format_change,
    merge_overrides,
    minimal_overrides,
    print_difference,
    read_overrides_file,
    read_side,
)
from launch.runs.checksums import check_files
from launch.runs.closing import command, next_line, pictures_in, show_next, show_pictures
from launch.runs.provenance import DISTRIBUTION, EARLIER_NAME
from launch.runs.run_folder import CLOCK, clock_of, read_config, read_json, read_jsonl, read_record, run_state
from launch.runs.streams import run_command

TOLERANCE = 1e-4
LINE_FILES = ("metrics.jsonl", "samples.jsonl")  # the line files that are compared


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    parser = ArgumentParser("launch.reproduce", __doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the new run (default: RUN_reproduced_TIME)")
    parser.add_argument(
        "--with", dest="more", nargs="+", default=[], metavar="DIFF", help="overrides, or a file with overrides"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help=f"relative tolerance if packages or hardware differ (default: {TOLERANCE:g})",
    )
    args = parser.parse_args(arguments)
    try:
        return reproduce(args.run, args.out, args.more, args.tolerance)
    except ConfigError as error:
        print(f"launch.reproduce: {error}", file=sys.stderr)
        return 2


def reproduce(run: Path, out: Path | None, more: Sequence[str], tolerance: float) -> int:
    """Repeat a run and compare the results.

    Args:
        run: the folder of the recorded run.
        out: the folder of the new run; by default one beside `run`.
        more: overrides that change the run, or the path of a file of them.
        tolerance: relative tolerance if packages or hardware differ.

    Returns:
        The exit status.

    Raises:
        ConfigError: `run` is not a run folder or has a damaged file, `out` holds a run, or the overrides are not
            valid.
    """
    record = read_record(run)
    check_files(run, record)
    recorded = read_command(record)
    recorded.check(run)
    package, flags, overrides = recorded.package, recorded.flags, list(recorded.overrides)
    target = read_config(run)
    if more and len(more) == 1 and Path(more[0]).is_file():
        more = read_overrides_file(Path(more[0]))
    out = out or run.with_name(f"{run.name}_reproduced_{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if (out / "run.json").exists():
        raise ConfigError(f"--out: {out} already holds a run; choose another folder")
    # The recorded command gives another configuration if an experiment file or a default has changed since.
    changed = config_changes(compose(package, overrides, flags, checked=False), target)
    if changed:
        print("the recorded command now gives another configuration; running the recorded one (now -> recorded):")
        for key, (now, then) in changed.items():
            print(f"  {format_change(key, now, then).strip()}")
        overrides = merge_overrides(overrides, minimal_overrides(package, flags, overrides, target, None))
    overrides = merge_overrides(overrides, more)
    compose(package, overrides, flags)  # reports an error in --with before anything is run
    print(f"running into {out}", flush=True)
    try:
        status = replace(recorded, overrides=tuple(overrides)).run(out, run, {CLOCK: clock_of(record)})
    except KeyboardInterrupt as interruption:
        interruption.add_note(next_line(command("launch.resume", out)))
        raise
    if status:
        print(f"launch.reproduce: the new run in {out} failed with exit status {status}", file=sys.stderr)
        return 1 if (out / "run.json").exists() else 2
    if more:
        print_difference(read_side(str(run)), read_side(str(out)))
        show_next([command("launch.collect", run, out, "--out", out / "collected")])
        return 0
    different = print_comparison(run, out, tolerance)
    show_pictures(pictures_in(out))
    show_next([command("launch.diff", run, out)])
    return different


def print_comparison(run: Path, out: Path, tolerance: float) -> int:
    """Print how a run and its repetition differ. Return 0 if the results are equal within the tolerance, else 1."""
    old, new = read_record(run), read_record(out)
    for kind in ("code", "versions", "hardware"):
        for key, pair in config_changes(old[kind], new[kind]).items():
            print(f"{kind}: {format_change(key, *pair).strip()}")
    if read_patch(run) != read_patch(out):
        print("code: the uncommitted changes differ (code.patch)")
    exact = environment(old) == environment(new)
    print("same packages and hardware: compared bit for bit" if exact else f"compared within {tolerance:g}")
    if run_state(run) != "finished":
        print(f"the run is {run_state(run)}: compared up to its last step")
    difference = next(differences(run, out, 0.0 if exact else tolerance), None)
    if difference is not None:
        print(f"not reproduced; the first difference: {difference}")
        return 1
    metrics, samples = (len(read_lines(run / name)) for name in LINE_FILES)
    print(f"reproduced: {metrics} lines of metrics, {samples} of samples")
    return 0


def environment(record: Mapping[str, Any]) -> Any:
    """The packages and hardware of a run: results depend on them bit for bit, beside code and configuration."""
    return {k: v for k, v in record["versions"].items() if k not in (DISTRIBUTION, EARLIER_NAME)}, record["hardware"]


def read_patch(folder: Path) -> str:
    """The uncommitted changes that a run recorded."""
    path = folder / "code.patch"
    return path.read_text("utf-8") if path.exists() else ""


def differences(run: Path, out: Path, tolerance: float) -> Iterator[str]:
    """Describe the differences in the lines, the earliest step first, then in the summary, then in the weights.

    Args:
        run: the recorded run.
        out: its repetition.
        tolerance: relative tolerance of numbers; weights are compared only if it is 0.

    Yields:
        One line for each difference.
    """
    complete = run_state(run) == "finished"
    of_lines = [pair for name in LINE_FILES for pair in line_differences(run / name, out / name, tolerance, complete)]
    yield from (text for _, text in sorted(of_lines, key=lambda pair: pair[0]))
    if not complete:
        return
    for key, old, new in value_differences(
        read_json(run / "summary.json"), read_json(out / "summary.json"), tolerance
    ):
        yield f"summary.json, {key}: {old} in the record, {new} now"
    if tolerance == 0:
        old_hashes, new_hashes = weight_hashes(run), weight_hashes(out)
        for name in sorted({*old_hashes, *new_hashes}):
            old_hash, new_hash = old_hashes.get(name, "none"), new_hashes.get(name, "none")
            if old_hash != new_hash:
                yield f"{name}: sha256 {old_hash[:12]} in the record, {new_hash[:12]} now"


def line_differences(old: Path, new: Path, tolerance: float, complete: bool) -> Iterator[tuple[int, str]]:
    """Describe the differences between two line files.

    Args:
        old: a line file of the recorded run.
        new: the same file of its repetition.
        tolerance: relative tolerance of numbers.
        complete: whether the recorded run finished. If not, lines that only the repetition has are no difference.

    Yields:
        (step, description).
    """
    for number, (old_row, new_row) in enumerate(zip_longest(read_lines(old), read_lines(new)), start=1):
        if old_row is None and not complete:
            return
        if old_row is None or new_row is None:
            step = (old_row or new_row or {}).get("step", -1)
            place = "record" if new_row is None else "new run"
            yield step, f"step {step}, {old.name} line {number}: only in the {place}"
            continue
        for key, a, b in value_differences(old_row, new_row, tolerance):
            step = old_row["step"]
            yield step, f"step {step}, {key} ({old.name} line {number}): {a} in the record, {b} now"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a line file; none if it does not exist, as for a command without training steps."""
    return read_jsonl(path) if path.exists() else []


def value_differences(old: Any, new: Any, tolerance: float) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) for the values that differ by more than the tolerance."""
    for key, (a, b) in config_changes(old, new).items():
        if not is_close(a, b, tolerance):
            yield key, a, b


def is_close(a: Any, b: Any, tolerance: float) -> bool:
    """Whether two values are equal, or are numbers or lists of numbers that are equal within the tolerance."""
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(is_close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if type(a) in (int, float) and type(b) in (int, float):
        return a == b or math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance / 100)
    return bool(type(a) is type(b) and a == b)


def weight_hashes(run: Path) -> dict[str, str]:
    """SHA-256 hashes of the files of the final policy and of the tensors in the last checkpoint."""
    files = sorted(run.glob("policy/*.safetensors"))
    files += sorted(run.glob("checkpoints/*/tensors.safetensors"))[-1:]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


if __name__ == "__main__":
    run_command("launch.reproduce", main)
