"""`python -m benchmarks.scaling [AXIS ...]`: measure how the cost of a step and of commands grows."""

import argparse
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

DESCRIPTION = """Measure how CPU seconds and peak memory grow with the size of the work, one size after another, each
in a process of its own with one thread. A size that the file of records holds already is not measured again, so the
command can be interrupted and started again.

  completions, prompt, completion, width    a step of llm: completions per prompt, their and the prompts' tokens,
                                            and the width of the model
  batch                                     a step of chem: molecules in a batch
  jobs/status, jobs/collect, jobs/resume    commands on a sweep: jobs, whose folders are made, not trained
  steps/log, steps/status, steps/collect,   a run: logged steps
  steps/resume

CPU seconds are those of the process and its children: on a machine that others use, too, they vary less than the
time on the clock. Memory is the highest resident memory during the work minus that before it. The exponent is the
slope of log cost over log size at the four largest sizes."""

EPILOG = """examples:
  nice -n 10 python -m benchmarks.scaling                  # what is missing in benchmarks/records/scaling.jsonl
  python -m benchmarks.scaling jobs/status --records /tmp/scaling.jsonl --pictures /tmp
  python -m benchmarks.scaling --minutes 0                 # tables and pictures of what has been measured"""

TIME_LIMIT = 900  # seconds of a size


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, measure what is missing and return the exit status."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from benchmarks.scaling.axes import AXES
    from benchmarks.scaling.records import RECORDS

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"default: all ({', '.join(AXES)})")
    parser.add_argument("--records", type=Path, default=RECORDS, help="file of records (default: %(default)s)")
    parser.add_argument(
        "--pictures", type=Path, default=Path("docs/images"), help="folder of the pictures (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="start no further size after this many minutes")
    parser.add_argument("--largest", type=float, default=float("inf"), help="the largest size")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.axes) - set(AXES))
    if unknown:
        parser.error(f"AXIS: there is no {unknown[0]}; the axes are {', '.join(AXES)}")
    try:
        return run(options.axes or list(AXES), options.records, options.pictures, options.minutes, options.largest)
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return 130


def run(axes: list[str], path: Path, pictures: Path, minutes: float, largest: float) -> int:
    """Measure the missing sizes, print the table, draw the pictures, and return 1 if a size has failed."""
    from benchmarks.scaling.pictures import draw_pictures
    from benchmarks.scaling.records import append_record, missing, read_records
    from launch.runs.closing import show_pictures

    preload(axes)
    deadline, failed = time.monotonic() + 60 * minutes, 0
    for axis, size in missing(read_records(path), axes):
        if size > largest or time.monotonic() >= deadline:
            continue
        record = measure_apart(axis, size)
        failed += "error" in record
        print(json.dumps(record), flush=True)
        if "error" not in record:
            append_record(path, record)
    records = read_records(path)
    print_exponents(records, axes)
    pictures.mkdir(parents=True, exist_ok=True)
    show_pictures(draw_pictures(records, pictures))
    left = len(missing(records, axes))
    if left:
        print(f"{left} sizes have no record; the same command measures them")
    return int(failed > 0)


def preload(axes: list[str]) -> None:
    """Import what the axes need, so that no size pays for it."""
    import launch.collect
    import launch.resume
    import launch.runs.run
    import launch.status  # noqa: F401

    if "batch" in axes:
        import benchmarks.chem_step  # noqa: F401
    if set(axes) & {"completions", "prompt", "completion", "width"}:
        import transformers.models.qwen3.modeling_qwen3  # noqa: F401

        import llm.train  # noqa: F401


def measure_apart(axis: str, size: int) -> dict[str, Any]:
    """The record of a size, measured in a process of its own; with an `error` if that failed.

    The process is forked, because importing takes longer than most sizes; it is killed after TIME_LIMIT.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=send_measured, args=(sender, axis, size))
    child.start()
    sender.close()
    measured: dict[str, Any] = {"error": f"has not ended after {TIME_LIMIT} s"}
    if receiver.poll(TIME_LIMIT):
        try:
            measured = receiver.recv()
        except EOFError:
            child.join()
            measured = {"error": f"its process ended with status {child.exitcode}"}
    if child.is_alive() and "error" in measured:
        child.kill()
    child.join()
    return {"axis": axis, "size": size, **measured}


def send_measured(sender: Any, axis: str, size: int) -> None:
    """Send what a record says beside its axis and size, or its error."""
    import torch

    from benchmarks.scaling.axes import AXES
    from launch.cli.shadowing import HOME
    from launch.runs.provenance import code_version

    torch.set_num_threads(1)
    try:
        cost = AXES[axis].cost(size)
    except Exception as error:
        sender.send({"error": f"{type(error).__name__}: {error}"})
        return
    rounded = {"cpu_seconds": round(cost.cpu_seconds, 4), "peak_mb": round(cost.peak_mb, 2), "repeats": cost.repeats}
    sender.send({**rounded, "commit": code_version(HOME).get("commit"), "torch": torch.__version__})


def print_exponents(records: dict[tuple[str, int], dict[str, Any]], axes: list[str]) -> None:
    """Print a table with the costs at the largest size of each axis and the exponents."""
    from benchmarks.scaling.axes import AXES
    from benchmarks.scaling.fit import exponent
    from benchmarks.scaling.records import costs
    from launch.runs.console import console
    from launch.runs.fitted_table import FittedTable

    table = FittedTable()
    table.add_column("axis", "label")
    table.add_column("work", "text")
    for column in ("sizes", "CPU seconds", "exponent", "MiB", "exponent"):
        table.add_column(column)
    for axis in axes:
        cells = []
        for key in ("cpu_seconds", "peak_mb"):
            sizes, values = costs(records, axis, key)
            if sizes:
                cells += [f"{values[0]:.3g} to {values[-1]:.3g}", f"{exponent(sizes, values):.2f}"]
        if cells:
            table.add_row(axis, AXES[axis].work, f"{sizes[0]} to {sizes[-1]}", *cells)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
