"""Read the files that trainers write of their rollouts: TRL, verl, OpenRLHF, run folders, and tables or JSON Lines.

The formats are those of TRL 1.16, verl 0.9.1 and OpenRLHF 0.11.2:

TRL: `completions/completions_STEP.parquet` with `log_completions=True` (trl/trainer/grpo_trainer.py, `log`), with the
    columns step, prompt, completion, one for each reward function, those of `log_extra`, and advantage; and
    trainer_state.json.
verl: `STEP.jsonl` in `trainer.rollout_data_dir` (verl/trainer/ppo/ray_trainer.py, `_write_generations`), with input,
    output, gts, score, step, and what the reward returned.
OpenRLHF: a sample of each step, prompt and completion in one text, in the table `train/generated_samples` of W&B or
    in TensorBoard's events (openrlhf/utils/logging_utils.py).
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from conf.schema.extras import missing_package
from launch.runs.run_folder import read_config, read_json
from llm.data_files import read_rows
from llm.diagnosis.columns import ANSWER_HINTS, Columns, Rollout
from llm.inference.prompts import Chat

TRL, VERL, OPENRLHF, OURS = "trl", "verl", "openrlhf", "mara"
SAMPLES_TAG = "train/generated_samples"
EVENT_TEXT = re.compile(r"Sample:\\n(.*)\\n\\nReward: (\S+)", re.DOTALL)  # OpenRLHF writes a backslash and an n
LOGGED = ("kl", "entropy", "frac_reward_zero_std")  # of TRL's log_history
# What stands between prompt and completion where a template's special tokens have been left out, or kept.
SPLITS = (
    *("<|im_start|>assistant\n", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<start_of_turn>model\n"),
    *("[/INST]", "\nassistant\n\n", "\nassistant\n", "assistant\n\n", "\nmodel\n", "\nAssistant:"),
)


@dataclass
class Reading:
    """What was read.

    Attributes:
        rollouts: in the order of the files.
        trainer: that wrote them; empty: not known.
        notes: what was read and how, for the user.
        config: of a run folder of this project, by dotted key.
        logged: curves of the trainer's own log, by name: step and value.
    """

    rollouts: list[Rollout] = field(default_factory=list)
    trainer: str = ""
    notes: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    logged: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    reward_names: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Options:
    """How files are read. columns: what the user says of them. split: what stands between prompt and completion."""

    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = ""


def read_files(paths: Sequence[Path], options: Options) -> Reading:
    """Read files and folders.

    Raises:
        ConfigError: names what cannot be read, and why.
    """
    reading = Reading()
    files = [file for path in paths for file in _files_of(path, reading)]
    for file in sorted(files, key=lambda path: path.name != "trainer_state.json"):  # it names the reward functions
        before = len(reading.rollouts)
        _reader(file)(file, options, reading)
        if file.name != "trainer_state.json" and len(reading.rollouts) == before:
            raise ConfigError(f"{file}: holds no completions")
    if not reading.rollouts:
        raise ConfigError(f"{', '.join(map(str, paths))}: no completions; a trainer_state.json alone has none")
    kinds = {TRL: "TRL's", VERL: "verl's", OPENRLHF: "OpenRLHF's", OURS: "a run folder's"}
    kind = kinds.get(reading.trainer, "another")
    shown = ", ".join(path.name for path in paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    reading.notes.insert(0, f"{shown}: {len(reading.rollouts):,} completions in {kind} format.")
    return reading


def _files_of(path: Path, reading: Reading) -> list[Path]:
    """The files to read of a path: itself, or those of a folder that a trainer wrote."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    if (path / "samples.jsonl").is_file():
        reading.config = read_config(path) if (path / "config.yaml").is_file() else {}
        reading.trainer = OURS
        return [path / "samples.jsonl"]
    parquet = sorted(path.glob("*.parquet")) or sorted((path / "completions").glob("*.parquet"))
    if parquet:
        states = [*path.glob("trainer_state.json"), *path.parent.glob("trainer_state.json")]
        checkpoints = sorted(path.glob("checkpoint-*/trainer_state.json"), key=_step_of_checkpoint)
        return [*parquet, *[*states, *checkpoints[-1:]][:1]]
    tables = sorted(path.rglob("generated_samples*.table.json"), key=lambda file: file.stat().st_size)
    if tables:
        return tables[-1:]  # each holds all rows of those before
    events = sorted(path.rglob("events.out.tfevents.*"))
    lines = sorted((f for f in path.glob("*.jsonl*") if f.suffix in (".jsonl", ".gz")), key=_number_of_file)
    if events or lines:
        return lines or events
    raise ConfigError(
        f"{path}: no rollouts: neither completions/*.parquet (TRL, log_completions=True), nor *.jsonl (verl, "
        "trainer.rollout_data_dir), nor a table or events of OpenRLHF, nor samples.jsonl of a run"
    )


def _step_of_checkpoint(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _number_of_file(path: Path) -> tuple[int, str]:
    number = path.name.partition(".")[0]
    return (int(number) if number.isdigit() else 0, path.name)


def _reader(path: Path) -> Callable[[Path, Options, Reading], None]:
    """The function that reads a file, by its name and its first bytes."""
    with _opened(path) as stream:
        start = stream.read(4)
    if not start:
        raise ConfigError(f"{path}: the file is empty")
    if start == b"PAR1":
        return _read_parquet
    if path.name == "trainer_state.json":
        return _read_trainer_state
    if "tfevents" in path.name:
        return _read_events
    if path.name.endswith(".table.json"):
        return _read_wandb_table
    return _read_rows


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


# --- TRL ---------------------------------------------------------------------------------------------------


def _read_parquet(path: Path, options: Options, reading: Reading) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f"{path}: {missing_package(error) or error}") from None
    try:
        table = parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ConfigError(f"{path}: not a complete Parquet file ({str(error).splitlines()[0]})") from None
    names = [name for name in table.column_names if not name.startswith("__index")]
    given = dict(options.columns)
    if {"step", "completion", "advantage"} <= set(names):
        reading.trainer = reading.trainer or TRL
        if "reward" not in given:
            given["reward"] = ",".join(_trl_rewards(path, names, table, reading))
    if not given.get("reward", "-"):
        del given["reward"]
    columns = Columns(names, given, str(path))
    for number, row in enumerate(table.to_pylist(), 1):
        rollout = columns.rollout(row, f"{path}, row {number}")
        reading.rollouts.append(replace(rollout, as_chat=not isinstance(rollout.prompt, str)))


def _trl_rewards(path: Path, names: Sequence[str], table: Any, reading: Reading) -> list[str]:
    """The columns of the reward functions: as trainer_state.json names them, else all numbers before `advantage`."""
    between = names[: names.index("advantage")]
    numeric = [
        name
        for name in between
        if name not in ("step", "prompt", "completion") and str(table.schema.field(name).type) in ("double", "float")
    ]
    known = [name for name in numeric if name in reading.reward_names]
    rewards = known or numeric
    if len(rewards) > 1:
        reading.note(
            f"{path.name}: the reward is the sum of {', '.join(rewards)}, each with weight 1; say reward=NAME,NAME "
            "for others."
        )
    return rewards


def _read_trainer_state(path: Path, options: Options, reading: Reading) -> None:
    history = read_json(path).get("log_history")
    if not isinstance(history, list):
        raise ConfigError(f"{path}: must have a list log_history, as TRL and transformers write it")
    rows = [row for row in history if isinstance(row, dict)]
    found = [match for row in rows for key in row if (match := re.fullmatch(r"rewards/(.+)/mean", key))]
    reading.reward_names += list(dict.fromkeys(match[1] for match in found))
    for name in LOGGED:
        points = [
            (row["step"], row[name]) for row in rows if "step" in row and isinstance(row.get(name), int | float)
        ]
        if points:
            reading.logged[name] = points
            reading.note(f"{path.name}: {name} goes from {points[0][1]:.3g} to {points[-1][1]:.3g}, as TRL logs it.")


# --- JSON Lines and tables: verl and others -------------------------------------------------------------------


def _read_rows(path: Path, options: Options, reading: Reading) -> None:
    columns: Columns | None = None
    for location, row in _complete_rows(path, reading):
        if columns is None:
            columns = Columns(row, options.columns, str(path))
            if {"input", "output", "score", "step"} <= set(row):
                reading.trainer = reading.trainer or VERL
            hint = next((name for name in ANSWER_HINTS if name in row), None)
            if hint and "answer" not in options.columns:
                reading.note(f"Completions are compared by their text; answer={hint} compares that column.")
        rollout = columns.rollout(row, location)
        if reading.trainer == OURS:
            rollout = _of_run(rollout, row)
        reading.rollouts.append(_without_template(rollout, options))


def _complete_rows(path: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file. A last line that is cut off, as that of a run that was killed, is left out with a note."""
    rows = read_rows("file", str(path), path)
    cut = _cut_line(path)
    while True:
        try:
            location, content = next(rows)
        except StopIteration:
            return
        except ConfigError as error:
            message = str(error).removeprefix("file: ")
            if cut is None or f"{path}, line {cut}:" not in message:
                raise ConfigError(message) from None
            reading.note(f"{path.name}: line {cut}, the last one, is cut off and was left out.")
            return
        yield location, content


def _cut_line(path: Path) -> int | None:
    """The number of the last line, if it has no end and is no complete object; None otherwise."""
    if path.suffix != ".jsonl":
        return None
    lines = path.read_bytes().split(b"\n")
    try:
        json.loads(lines[-1] or b"{}")
    except ValueError:
        return len(lines)
    return None


def _of_run(rollout: Rollout, row: Mapping[str, Any]) -> Rollout:
    """A line of samples.jsonl, whose prompt is a number within its step."""
    number = row.get("prompt", 0)
    return replace(rollout, prompt="" if number == 0 else f"prompt {number} of step {rollout.step}")


# --- OpenRLHF ------------------------------------------------------------------------------------------------


def _read_wandb_table(path: Path, options: Options, reading: Reading) -> None:
    content = read_json(path)
    names, data = content.get("columns"), content.get("data")
    if not isinstance(names, list) or not isinstance(data, list):
        raise ConfigError(f"{path}: must be a table of Weights & Biases, with columns and data")
    if {"global_step", "text", "reward"} <= set(names):
        reading.trainer = reading.trainer or OPENRLHF
    columns = Columns(names, options.columns, str(path))
    for number, values in enumerate(data, 1):
        row = dict(zip(names, values, strict=False))
        reading.rollouts.append(_divided(columns.rollout(row, f"{path}, row {number}"), options, reading))


def _read_events(path: Path, options: Options, reading: Reading) -> None:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ConfigError(f"{path}: {missing_package(error) or error}") from None
    events = EventAccumulator(str(path), size_guidance={"tensors": 0})
    events.Reload()
    tag = f"{SAMPLES_TAG}/text_summary"
    if tag not in events.Tags()["tensors"]:
        raise ConfigError(f"{path}: has no texts {SAMPLES_TAG}, as OpenRLHF writes them")
    reading.trainer = reading.trainer or OPENRLHF
    for event in events.Tensors(tag):
        match = EVENT_TEXT.fullmatch(event.tensor_proto.string_val[0].decode("utf-8", "replace"))
        if match is None:
            raise ConfigError(f"{path}, step {event.step}: the text is not that of OpenRLHF")
        reading.rollouts.append(_divided(Rollout(event.step, "", match[1], float(match[2])), options, reading))


def _divided(rollout: Rollout, options: Options, reading: Reading) -> Rollout:
    """A rollout whose text is prompt and completion together, divided at the last split."""
    divided = _split_text(rollout.completion, options)
    if divided is None:
        reading.note(
            "Prompt and completion are in one text, and nothing that divides them was found: the text is compared as "
            "it is. Say split=TEXT, which stands before the completion."
        )
        return rollout
    prompt, completion, split = divided
    reading.note(f"Prompt and completion are divided at the last {split!r}; split=TEXT says another one.")
    return replace(rollout, prompt=_turns(prompt), completion=completion)


def _split_text(text: str, options: Options) -> tuple[str, str, str] | None:
    """The text before and after the split, and the split; None if there is none in the text."""
    for split in (options.split,) if options.split else SPLITS:
        before, found, after = text.rpartition(split)
        if found:
            return before, after.strip(), split
    return None


ROLES = re.compile(
    r"(?:(?:<\|im_start\|>)?system\n(?P<system>.*?)(?:<\|im_end\|>)?\n)?"
    r"(?:<\|im_start\|>)?user\n(?P<user>.*?)(?:<\|im_end\|>)?\n?",
    re.DOTALL,
)


def _turns(prompt: str) -> str | Chat:
    """A rendered prompt of ChatML, with or without its special tokens, as text or turns; others as they are."""
    match = ROLES.fullmatch(prompt)
    if match is None:
        return prompt
    user = {"role": "user", "content": match["user"].rstrip("\n")}
    return user["content"] if match["system"] is None else [{"role": "system", "content": match["system"]}, user]


def _without_template(rollout: Rollout, options: Options) -> Rollout:
    """A rollout whose prompt is a rendered chat, as verl decodes it, with the user's text as its prompt."""
    if not isinstance(rollout.prompt, str):
        return rollout
    divided = _split_text(f"{rollout.prompt}\0", options)
    if divided is None or divided[1] != "\0":
        return rollout
    return replace(rollout, prompt=_turns(divided[0]))
