"""A run folder as others read it: its state, its configuration, its lines. Nothing here loads torch."""

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from platformdirs import user_cache_path

from conf.schema.base import ConfigError
from conf.schema.renames import upgraded

STATES = ("running", "finished", "failed", "preempted")
LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers


class FolderLocked(OSError):
    """Another process has the folder."""


def lock_folder(folder: Path, patience: float = 1.0) -> int | None:
    """Take a run folder for this process, until it closes the descriptor or ends, however it ends.

    Args:
        patience: seconds to go on trying; `run_state` holds the lock for an instant.

    Returns:
        An open descriptor; None where the file system has no locks.

    Raises:
        FolderLocked: by another process. OSError: the folder cannot be written to.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise FolderLocked(errno.EBUSY, "another process is running it", str(folder)) from None
            time.sleep(0.05)
        except OSError as error:
            os.close(descriptor)
            if error.errno in NO_LOCKS:
                return None
            raise


def is_locked(folder: Path) -> bool | None:
    """Whether a process has the folder; None where that cannot be known."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
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


def unusable_folder(error: OSError) -> str:
    """The message for a run folder that cannot be used."""
    key = "hydra.run.dir (hydra.sweep.dir with -m)"
    return f"{key}: must be a folder that a new run can be written to, got {error.filename} ({error.strerror})"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file whole: never half-written, even when the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_record(folder: Path) -> dict[str, Any]:
    """run.json.

    Raises:
        ConfigError: the folder holds none that can be read.
    """
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: must be a run folder, got no run.json in it") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: must be the record of a run, got {error}") from None
    if not isinstance(record, dict) or record.get("state") not in STATES:
        raise ConfigError(f"{path}: must be the record of a run, got no state in it")
    return record


def run_state(folder: Path) -> str:
    """The state in run.json; `dead` for one that says running though no process has the folder."""
    said = str(read_record(folder)["state"])
    return "dead" if said == "running" and is_locked(folder) is False else said


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a run, with the keys that it would have today."""
    return upgraded(read_yaml(folder / "config.yaml"))


def read_yaml(path: Path) -> Any:
    """A YAML file as plain mappings and lists.

    Raises:
        ConfigError: there is none, or it is none.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: must be a file, got none") from None
    except Exception as error:
        raise ConfigError(f"{path}: must be valid YAML, got: {str(error).partition(chr(10))[0]}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object.

    Raises:
        ConfigError: there is none, or it is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: must be a file, got none") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: must be JSON, got {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a JSON object, got {type(content).__name__}")
    return content


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a last one without its end was cut off by a crash and is left out."""
    return list(iterate_jsonl(path))


def iterate_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as lines:  # str.splitlines would also split at a U+2028
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def last_line(path: Path) -> dict[str, Any] | None:
    """The last whole line of a file, without reading the rest of it; None where there is none."""
    try:
        with path.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            tail = b""
            while end > 0 and tail.count(b"\n") < 3:
                start = max(end - 65536, 0)
                stream.seek(start)
                tail = stream.read(end - start) + tail
                end = start
    except FileNotFoundError:
        return None
    whole = [line for line in tail.split(b"\n")[:-1] if line]
    return json.loads(whole[-1]) if whole else None


def last_traceback_line(trace: str | None) -> str:
    """What a recorded traceback ends with, the error; empty where there is none."""
    return (trace or "").strip().rpartition("\n")[2]


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists and empty mappings are values."""
    if not isinstance(tree, Mapping) or (not tree and prefix):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for name, item in tree.items():
        found |= flatten(item, f"{prefix}.{name}" if prefix else str(name))
    return found


def user_path(path: str) -> Path:
    """A path as the user typed it: in a cluster's job relative to where the job was submitted."""
    return Path(os.environ.get("MARA_CWD", "")) / path


def folder_or_hub(name: str) -> str:
    """What `from_pretrained` takes for a model: a folder, as the user typed it, or else a name on the hub."""
    folder = user_path(name)
    return str(folder) if folder.is_dir() else name


def cache_folder() -> Path:
    """What runs share and can be made again: MARA_CACHE, or .cache/mara in the home folder."""
    root = os.environ.get("MARA_CACHE")
    return Path(root) if root else user_cache_path("mara")


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """A mistake of the user's ends the command with one line and status 1; a bug keeps its traceback."""
    try:
        yield
    except ConfigError as error:
        raise SystemExit(f"{command}: {error}") from None
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(f"{command}: interrupted") from None
