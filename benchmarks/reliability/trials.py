"""What the experiments share: small runs, fingerprints of their results, and a file with one line per trial."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.runs.signals import STOP_SIGNALS

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("didactic", "llm", "chem")
SMALL_RUNS = {  # seconds each, with a checkpoint every few steps
    "didactic": [
        *("experiment=bandit", "gradient=sampled", "steps=120", "log_every=2", "samples=32"),
        *("beta_schedule=adaptive", "beta_schedule.kl_target=.2", "checkpoint.every_steps=10"),
    ],
    "llm": [
        *("steps=6", "group_size=4", "sample_every=1", "evaluation_completions=4", "max_new_tokens=6"),
        *("transform=mara", "beta_schedule=adaptive", "beta_schedule.kl_target=.2", "checkpoint.every_steps=1"),
    ],
    "chem": [
        *("experiment=qed", "steps=6", "batch_size=4", "oracle.workers=1", "cache=null", "threads=1"),
        *("transform=mara", "checkpoint.every_steps=2"),
    ],
}
RESULT_FILES = ("metrics.jsonl", "samples.jsonl", "summary.json", "molecules.csv")
SAME, REFUSED, WRONG = "same result", "one line and status 1", "wrong"


@dataclass
class Trial:
    """One trial: what was done and how it ended.

    Attributes:
        number: of the trial in its experiment.
        outcome: SAME, REFUSED or WRONG.
        what: what was done, in words.
        detail: the line that was printed, or what is wrong.
    """

    number: int
    outcome: str
    what: str
    detail: str = ""


@dataclass
class Ended:
    """How a command ended."""

    status: int
    output: str
    error: str
    timed_out: bool = False

    def fault(self, package: str) -> str:
        """What is wrong with how the command ended, empty if it succeeded or failed in one line with status 1."""
        if self.timed_out:
            return "did not end in time"
        if self.status < 0:
            return f"ended by signal {-self.status}: {self.error[-300:]!r}"
        if "Traceback" in self.error or "Traceback" in self.output:
            return f"traceback: {self.error.strip().rpartition(chr(10))[2][:300]}"
        if self.status == 0:
            return ""
        if self.status != 1:
            return f"status {self.status}: {self.error[-300:]!r}"
        lines = self.error.splitlines()
        if len(lines) == 1 and lines[0].startswith((f"{package}: ", "launch.")):
            return ""
        return "no message" if not lines else f"{len(lines)} lines: {self.error[:300]!r}"


@dataclass
class Experiment:
    """Runs trials and writes a line of JSON for each; trials that the file already holds are not run again.

    Attributes:
        name: of the experiment.
        folder: holds `NAME_SEED.jsonl` and the runs.
        seed: of the random choices. A trial depends on the seed and its number only.
    """

    name: str
    folder: Path
    seed: int
    trials: dict[int, Trial] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            rows = [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]
            self.trials = {row["number"]: Trial(**row) for row in rows}

    @property
    def path(self) -> Path:
        """The file with one line per trial."""
        return self.folder / f"{self.name}_{self.seed}.jsonl"

    def missing(self, count: int) -> Iterator[tuple[int, random.Random]]:
        """Yield the numbers of the trials that remain to be run, each with its own random generator."""
        for number in range(count):
            if number not in self.trials:
                yield number, random.Random(f"{self.name} {self.seed} {number}")

    def add(self, trial: Trial) -> None:
        """Write the line of a trial and print one that is wrong."""
        self.trials[trial.number] = trial
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial), ensure_ascii=False) + "\n")
        if trial.outcome == WRONG:
            print(f"[{trial.number}] wrong: {trial.what}: {trial.detail}", flush=True)

    def run(self, count: int, attempt: Callable[[int, random.Random], Trial]) -> int:
        """Run the trials that are missing, print the row of the table and return the exit status."""
        for number, generator in self.missing(count):
            self.add(attempt(number, generator))
        return self.report(count)

    def report(self, count: int) -> int:
        """Print the row of the table for the first `count` trials. Returns 1 if one of them is wrong, otherwise 0."""
        outcomes = Counter(trial.outcome for trial in self.trials.values() if trial.number < count)
        print("| experiment | trials | same result | one line and status 1 | wrong |\n|---|---|---|---|---|")
        cells = [str(outcomes[outcome]) for outcome in (SAME, REFUSED, WRONG)]
        print(f"| {self.name} | {sum(outcomes.values())} | {' | '.join(cells)} |")
        print(f"one line per trial: {self.path}")
        return int(outcomes[WRONG] > 0)


def environment() -> dict[str, str]:
    """Environment variables of the commands: one thread, no network, no tracking service."""
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **settings}


def command(package: str, folder: Path) -> list[str]:
    """The command of the package's small run in a folder."""
    return [sys.executable, "-m", package, *SMALL_RUNS[package], f"hydra.run.dir={folder}"]


def default_signals() -> None:
    """React to signals as a command in a terminal does; nohup and `&` make what they start ignore some."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def start(arguments: list[str], before: Callable[[], None] | None = None) -> "subprocess.Popen[str]":
    """Start a command in a session of its own. `before` is called in the new process."""

    def prepare() -> None:
        default_signals()
        if before is not None:
            before()

    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(),
        text=True,
        start_new_session=True,
        preexec_fn=prepare,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: "subprocess.Popen[str]", timeout: float = 300) -> Ended:
    """Wait for a command and return how it ended. It is killed after `timeout` seconds."""
    try:
        output, error = process.communicate(timeout=timeout)
        return Ended(process.returncode, output, error)
    except subprocess.TimeoutExpired:
        process.kill()
        output, error = process.communicate()
        return Ended(process.returncode, output, error, timed_out=True)


def undisturbed(folder: Path, package: str) -> tuple[Path, float]:
    """The package's small run, undisturbed, in `folder`. Returns the run folder and the seconds it takes."""
    run, seconds = folder / f"undisturbed_{package}", folder / f"undisturbed_{package}.seconds"
    if not seconds.exists():
        began = time.monotonic()
        ended = finish(start(command(package, run)))
        if ended.status != 0:
            raise SystemExit(f"the undisturbed run of {package} failed: {ended.error}")
        seconds.write_text(str(time.monotonic() - began))
    return run, float(seconds.read_text())


def fingerprint(run: Path) -> dict[str, str]:
    """Hashes of the results of a run: metrics, samples, summary, molecules, final weights and checkpoint."""
    final = sorted(run.glob("checkpoints/step_*"))[-1:]
    files = [run / name for name in RESULT_FILES] + sorted(run.glob("policy/*.safetensors"))
    files += [folder / name for folder in final for name in ("tensors.safetensors", "state.json")]
    return {str(path.relative_to(run)): file_hash(path) for path in files if path.exists()}


def differences(run: Path, expected: dict[str, str]) -> list[str]:
    """The result files of a run that are not those of the undisturbed run."""
    results = fingerprint(run)
    return sorted(name for name in {**results, **expected} if results.get(name) != expected.get(name))


def resume_faults(package: str, run: Path, whole: Path) -> list[str]:
    """Resume a run until it ends by itself, and list what is wrong with how it ends and with its results.

    Args:
        package: the package of the run.
        run: its folder.
        whole: the folder of the undisturbed run.
    """
    resumed = finish(start(command(package, run)))
    if resumed.status != 0 or resumed.fault(package):
        return [f"the resumed run: {resumed.fault(package) or resumed.error.strip()}"]
    return [f"{name} differs" for name in differences(run, fingerprint(whole))]


def metric_lines(run: Path) -> int:
    """The number of lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def recorded_state(run: Path) -> str:
    """The state in run.json, or a dash if there is none."""
    try:
        content: Any = json.loads((run / "run.json").read_text("utf-8"))
        return str(content["state"])
    except FileNotFoundError:
        return "-"


def file_hash(path: Path) -> str:
    """The SHA-256 hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
