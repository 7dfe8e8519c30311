"""`python -m benchmarks.gpu`: one table of what runs on a GPU, how fast, and how much memory it takes."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.settings import MINUTES, PARTS
from benchmarks.gpu.table import Row, failed, write_table

DESCRIPTION = """Run on this machine's GPU, each part in a process of its own with a time limit:

  model     build a Qwen3 with random weights (on a GPU the size of Qwen3-1.7B, on a CPU a tiny one)
  tests     the tests with the mark gpu
  packed    log-probabilities and gradients of the packed path beside whole rows, in float32 and bfloat16
  decoding  sampling: tokens a second, memory bandwidth over the card's, seconds of drawing, waits for the device
  compiled  the same with model.compile_decoding=true
  graphs    the same with model.cuda_graphs=true
  training  steps: tokens a second, model flop utilisation, peak memory beside the estimate of llm.plan
  zero3     a step with engine=zero3 on one device beside engine=torch
  trl       the same steps by TRL's GRPOTrainer, if it is installed
  vllm      sampling by vLLM, if an environment with it is found (docs/rollouts.md)
  one_two   the 1-2 task

results.json and results.md are written after each part. A part that fails, is killed or runs over its limit has a
row that says so, and the others go on; what it had measured stays in the table."""

EPILOG = """examples:
  python -m benchmarks.gpu                                  # all parts, at most 8 minutes
  python -m benchmarks.gpu --parts model,packed,decoding
  python -m benchmarks.gpu --device cpu --out tiny_on_cpu   # a tiny model: whether the command itself works"""

GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the parts, and return 1 if one has failed or a check has."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: auto")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated (default: all)")
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help="limit of all parts; more gives each more (default: %(default)g)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the table (default: runs/gpu)")
    options = parser.parse_args(arguments)
    parts = [part for part in options.parts.split(",") if part]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        parser.error(f"--parts: there is no {unknown[0]}; the parts are {', '.join(PARTS)}")
    device, facts = find_device(options.device)
    if device is None:
        parser.error("--device: no GPU is available; use --device cpu for a tiny model on the CPU")
    try:
        rows = run_parts(parts, device, facts, options.minutes, options.out)
    except KeyboardInterrupt:
        print(f"interrupted; the finished parts are in {options.out / 'results.md'}", file=sys.stderr)
        return 130
    print((options.out / "results.md").read_text("utf-8"))
    print(f"table: {options.out / 'results.md'}")
    return int(bool(failed(rows)))


def find_device(name: str) -> tuple[str | None, dict[str, Any]]:
    """cuda or cpu, None for a GPU that is missing; and facts about the machine, found in a process of its own."""
    program = (
        "import json, platform, torch; cuda = torch.cuda.is_available(); "
        "print(json.dumps({'torch': torch.__version__, 'cuda': torch.version.cuda, 'python': "
        "platform.python_version(), 'cards': [torch.cuda.get_device_name(i) for i in "
        "range(torch.cuda.device_count())] if cuda else []}))"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    facts: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    cuda = bool(facts["cards"])
    if name == "cuda" and not cuda:
        return None, facts
    device = "cuda" if cuda and name != "cpu" else "cpu"
    return device, {"device": device, **facts}


def run_parts(parts: list[str], device: str, facts: dict[str, Any], minutes: float, out: Path) -> list[Row]:
    """Run the parts one after another, and write the table after each of them."""
    rows: list[Row] = []
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as model:
        for part in parts:
            needs, share = PARTS[part].needs, PARTS[part].seconds * max(minutes / MINUTES, 1.0)
            limit = min(share, deadline - time.monotonic())
            if needs is not None and find_spec(needs) is None:
                rows.append(Row(part, "status", f"{needs} is not installed", check="left out"))
            elif limit <= 0:
                rows.append(Row(part, "status", f"no time was left of {minutes:g} minutes", check="not run"))
            else:
                rows += run_part(part, device, model, limit)
            write_table(out, facts, rows)
            print(f"{part}: {rows[-1].value}", flush=True)
    return rows


def run_part(part: str, device: str, model: str, limit: float) -> list[Row]:
    """The rows of a part, the last of which says how it ended. Its process group is ended at the limit."""
    rows: list[Row] = []
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            part_command(part, device, model),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=environment(),
        )
        reader = threading.Thread(target=read_rows, args=(part, child.stdout, rows), daemon=True)
        reader.start()
        try:
            child.wait(limit)
        except subprocess.TimeoutExpired:
            end_group(child)
            reader.join(GRACE)
            return [*rows, Row(part, "status", f"ran over its {limit:.0f} s", check="ran over")]
        except KeyboardInterrupt:
            end_group(child)
            raise
        reader.join(GRACE)
        errors.seek(0)
        lines = [line for line in errors.read().splitlines() if line.strip()]
    seconds = f"{time.monotonic() - start:.0f} s"
    if child.returncode:
        reason = lines[-1][:300] if lines else "no message"
        return [*rows, Row(part, "status", f"status {child.returncode} after {seconds}: {reason}", check="failed")]
    return [*rows, Row(part, "status", f"done in {seconds}", check="ok")]


def part_command(part: str, device: str, model: str) -> list[str]:
    """The command that measures a part and prints its rows."""
    return [sys.executable, "-m", "benchmarks.gpu.measure", part, device, model]


def environment() -> dict[str, str]:
    """The environment of a part. Nothing is asked of the network."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, "PYTHONUNBUFFERED": "1"}


def read_rows(part: str, stream: Any, rows: list[Row]) -> None:
    """Add the rows that a part prints as lines of JSON; other lines are ignored."""
    for line in stream:
        try:
            rows.append(Row(part, **json.loads(line)))
        except (ValueError, TypeError):
            continue


def end_group(child: subprocess.Popen[str]) -> None:
    """End a part and the processes that it has started."""
    for number, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


if __name__ == "__main__":
    sys.exit(main())
