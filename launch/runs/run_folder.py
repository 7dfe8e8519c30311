"""Read a run folder: its lock, state, record, configuration and line files. Nothing here imports torch."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from platformdirs import user_cache_path

from conf.schema.base import ConfigError
from conf.schema.extras import missing_package
from conf.schema.renames import upgraded
from launch.cli.command_table import as_typed
from launch.runs.atomic import disk_full, replacing

STATES = ("running", "finished", "failed", "preempted")
LOCK = ".lock"
CLOCK = "MARA_CLOCK"  # environment variable: the time that prompts with a date show, instead of the present
# The types of entries of run.json that other commands read. Not every version wrote all of them.
RECORD_TYPES: dict[str, Any] = {"package": str, "command": list, "started": str, "traceback": str | None}
RECORD_TYPES |= {"versions": dict, "code": dict, "hardware": dict, "checksums": dict}
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # errors of a file system that does not support locks


class FolderLocked(OSError):
    """Another process holds the lock of the folder."""


def lock_folder(folder: Path, patience: float = 1.0, name: str = LOCK) -> int | None:
    """Lock a run folder for this process. Closing the descriptor or any end of the process releases the lock.

    Args:
        folder: the run folder.
        patience: seconds to keep trying, since `run_state` holds the lock for a moment.
        name: of the file that is locked. A folder can have several locks.

    Returns:
        An open descriptor, or None if the file system does not support locks.

    Raises:
        FolderLocked: another process holds the lock.
        OSError: the folder cannot be written.
    """
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise FolderLocked(errno.EBUSY, "another process is using it", str(folder)) from None
            time.sleep(0.05)
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                return None
            raise


def is_locked(folder: Path, name: str = LOCK) -> bool | None:
    """Whether a process holds the lock `name` of the folder, None if this cannot be determined."""
    try:
        descriptor = os.open(folder / name, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)


def unusable_folder_message(error: OSError) -> str:
    """The message for a run folder that cannot be created, written or locked."""
    key = "hydra.run.dir (hydra.sweep.dir with -m)"
    place = f" to {error.filename}" if error.filename else ""
    return f"{key}: cannot write a run{place}: {error.strerror or error}; choose another folder"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file with an indented JSON object, atomically.

    Raises:
        WriteError: it cannot be written.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file atomically: it is never partly written, even if the machine crashes.

    Raises:
        WriteError: it cannot be written.
    """
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8", newline="")


def read_record(folder: Path) -> dict[str, Any]:
    """Read run.json of a run folder.

    Raises:
        ConfigError: the file is missing or is not the record of a run.
    """
    path = folder / "run.json"
    try:
        record = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: not a run folder, it has no run.json") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not the record of a run: {error}") from None
    if not isinstance(record, dict) or record.get("state") not in STATES:
        raise ConfigError(f"{path}: not the record of a run: it has no valid state")
    wrong = [name for name, kind in RECORD_TYPES.items() if name in record and not isinstance(record[name], kind)]
    if wrong:
        raise ConfigError(f"{path}: not the record of a run: it has no valid {wrong[0]}")
    return record


def run_state(folder: Path, record: Mapping[str, Any] | None = None) -> str:
    """The state in run.json, or `dead` if it is `running` but no process holds the lock of the folder.

    Args:
        folder: the run folder.
        record: the content of its run.json, if it has been read already.
    """
    state = str((read_record(folder) if record is None else record)["state"])
    return "dead" if state == "running" and is_locked(folder) is False else state


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a run, with keys that were renamed since under their present names.

    Raises:
        ConfigError: the file is missing or does not hold a configuration.
    """
    path = folder / "config.yaml"
    config = read_yaml(path)
    if not isinstance(config, dict) or path.stat().st_size == 0:
        raise ConfigError(f"{path}: not a configuration: it is empty or no mapping")
    return upgraded(config)


def clock_of(record: Mapping[str, Any]) -> str:
    """The time that prompts with a date show in a run, from its record. Earlier versions did not record it.

    Raises:
        ConfigError: it is not a time in ISO format.
    """
    text = str(record.get("clock") or record.get("started"))
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"run.json: clock must be a time such as 2026-11-29T10:00:00+00:00, got {text!r}") from None
    return text


def recorded_clock(folder: Path) -> datetime:
    """`clock_of` of the run in a folder."""
    return datetime.fromisoformat(clock_of(read_record(folder)))


def read_yaml(path: Path) -> Any:
    """Read a YAML file as plain mappings and lists.

    Raises:
        ConfigError: the file is missing or is not valid YAML.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: file not found") from None
    except Exception as error:
        raise ConfigError(f"{path}: invalid YAML: {str(error).partition(chr(10))[0]}") from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ConfigError: the file is missing or does not hold a JSON object.
    """
    try:
        content = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: file not found") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: invalid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a JSON object, got {type(content).__name__}")
    return content


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a file. A last line without a line end was cut off by a crash and is ignored.

    Raises:
        ConfigError: a line is not a JSON object, or the file cannot be read.
    """
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a file, as `read_jsonl` returns them."""
    try:
        with path.open("rb") as lines:  # str.splitlines would also split at U+2028
            for number, line in enumerate(lines, start=1):
                if line.endswith(b"\n"):
                    yield parse_line(line, f"{path}, line {number}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def parse_line(line: bytes, place: str) -> dict[str, Any]:
    """Parse a line of a file.

    Args:
        line: the line.
        place: the file and the line's number, for the message.

    Raises:
        ConfigError: the line is not a JSON object.
    """
    try:
        row = parse_json(line.decode("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{place}: must be a JSON object, got {type(row).__name__}")
    return row


def read_last_line(path: Path) -> dict[str, Any] | None:
    """Read the last complete line of a file without reading the whole file. None if there is no line or no file.

    Raises:
        ConfigError: the line is not a JSON object, or the file cannot be read.
    """
    lines = read_last_lines(path, 1)
    return lines[0] if lines else None


def read_last_lines(path: Path, count: int) -> list[dict[str, Any]]:
    """`read_last_line` for the last `count` complete lines, or fewer where the file has fewer; in their order."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            tail = b""
            while end > 0 and tail.count(b"\n") < count + 2:
                start = max(end - 65536, 0)
                stream.seek(start)
                tail = stream.read(end - start) + tail
                end = start
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    complete = [line for line in tail.split(b"\n")[:-1] if line]
    place = f"{path}, last line" if count == 1 else f"{path}, one of the last {count} lines"
    return [parse_line(line, place) for line in complete[-count:]]


@contextmanager
def foreign_files(folder: Path) -> Iterator[None]:
    """Raise ConfigError where the files of a folder have another content than a run writes, whatever goes wrong then.

    Raises:
        ConfigError: the folder, and what is wrong.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, RecursionError) as error:
        raise ConfigError(f"{folder}: a file holds something else than a run writes: {error!r}") from error


def last_traceback_line(trace: str | None) -> str:
    """The last line of a recorded traceback, which names the error; empty if there is no traceback."""
    return (trace or "").strip().rpartition("\n")[2]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one mapping with dotted keys. Lists and empty mappings count as values."""
    if not isinstance(tree, Mapping) or (not tree and prefix):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, item in tree.items():
        flat |= flatten(item, f"{prefix}.{name}" if prefix else str(name))
    return flat


def user_path(path: str) -> Path:
    """Resolve a path that the user typed. In a cluster job it is relative to where the job was submitted."""
    return Path(os.environ.get("MARA_CWD", "")) / path


def cache_folder() -> Path:
    """The folder for files that runs share and can recreate: MARA_CACHE, or .cache/mara in the home folder."""
    root = os.environ.get("MARA_CACHE")
    return Path(root) if root else user_cache_path("mara")


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """Exit with a one-line message and status 1 on a ConfigError, a missing optional package or a full disk.

    Other exceptions keep their traceback.
    """
    try:
        yield
    except ConfigError as error:
        raise SystemExit(f"{command}: {as_typed(str(error))}") from None
    except (OSError, ImportError) as error:
        message = disk_full(error) or missing_package(error)
        if message is None:
            raise
        raise SystemExit(f"{command}: {message}") from None
