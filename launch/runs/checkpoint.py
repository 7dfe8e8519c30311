"""Checkpoints, which hold everything the next step needs.

A checkpoint is a folder such as `checkpoints/step_00000120`, named after the number of completed steps. It holds
`tensors.safetensors`, `state.json` (the tree that refers to the tensors) and `manifest.json` (the run it belongs to,
the lengths and checksums of the run's line files, checksums of the other two). The folder is written under a
temporary name, synced and then renamed, so a folder with the final name is complete. The checksums detect later
damage.

What is damaged, or missing, sends a run to an earlier checkpoint. A file that cannot be read for another reason, such
as its permissions, stops the run, since the checkpoint may be good.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conf.schema.base import ConfigError
from conf.schema.renames import upgraded_flat
from conf.schema.rollout import VOLATILE as SERVERS
from launch.runs.atomic import make_folder, remove_folder, replacing, writing
from launch.runs.checksums import file_checksum
from launch.runs.line_files import RESULT_FILES, line_file
from launch.runs.run_folder import flatten

VOLATILE = (
    "resume",
    "checkpoint",
    "loggers",
    *SERVERS,
)  # configuration keys, or sections, that do not affect results
SET_ASIDE = "damaged_"  # prefix of a checkpoint that is not used again


class Stateful(Protocol):
    """An object with a state that a checkpoint holds, as `Run.register_state` takes it."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state: nested mappings and lists of tensors, numbers, strings, booleans and None."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Restore a `state_dict`. Its tensors are on the CPU, and its tuples have become lists."""


class LoopState(SimpleNamespace):
    """Plain values of a training loop that a checkpoint holds: `values = LoopState(beta=.1)`, then `values.beta`."""

    def state_dict(self) -> dict[str, Any]:
        """The values by name."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Set the values of a `state_dict`."""
        vars(self).update(state)


class Manifest(NamedTuple):
    """The run and the step that a checkpoint belongs to."""

    step: int  # completed steps
    config: dict[str, Any]  # by dotted key, without the volatile keys
    identity: dict[str, str]  # must also match when the run resumes, for example the hash of the reference
    positions: dict[str, int]  # lengths of metrics.jsonl, timings.jsonl and samples.jsonl in bytes
    score: float | None  # value of the metric that selects the best checkpoint, higher is better
    line_checksums: Mapping[str, str] = {}  # of the RESULT_FILES up to their positions; older checkpoints have none


class DamagedCheckpoint(Exception):
    """A checkpoint whose files, or the lines it follows, are missing or differ from what was written."""


def save_checkpoint(folder: Path, manifest: Manifest, state: Mapping[str, Any], keep: int) -> None:
    """Write `state` as a checkpoint of the run folder, then remove all but the last `keep` and the best one.

    Raises:
        WriteError: the checkpoint cannot be written; earlier checkpoints are unchanged.
        TypeError: `state` holds a value that is neither a tensor nor a plain value.
    """
    make_folder(folder / "checkpoints")
    with replacing(_path(folder, manifest.step)) as path:
        path.mkdir()
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(encode(state, tensors, {}))
        save_file(tensors, path / "tensors.safetensors")
        (path / "state.json").write_text(tree, "utf-8")
        checksums = {file.name: file_checksum(file) for file in sorted(path.iterdir())}
        content = {**manifest._asdict(), "checksums": checksums}
        text = json.dumps({**content, "checksum": _json_checksum(content)}, indent=1)
        (path / "manifest.json").write_text(text, "utf-8")
    prune_checkpoints(folder, keep)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep` and the one with the highest score, the latest one of a tie.

    A checkpoint with a damaged manifest counts as neither, and is removed.

    Raises:
        WriteError: a checkpoint cannot be removed.
    """
    scores: dict[int, float | None] = {}
    with writing(folder / "checkpoints"):
        steps = checkpoint_steps(folder)
        for step in steps:
            with suppress(DamagedCheckpoint):
                scores[step] = _manifest_content(folder, step)["score"]
        scored = {step: score for step, score in scores.items() if score is not None}
        best = max(scored, key=lambda step: (scored[step], step), default=None)
        for step in steps:
            if step != best and step not in list(scores)[:keep]:
                remove_folder(_path(folder, step))


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of a run folder's checkpoints, newest first."""
    try:
        names = os.listdir(folder / "checkpoints")  # unlike Path.glob, raises if the folder cannot be read
    except FileNotFoundError:
        return []
    steps = (name.removeprefix("step_") for name in names if name.startswith("step_"))
    return sorted((int(step) for step in steps if step.isdecimal()), reverse=True)


def read_manifest(folder: Path, step: int) -> Manifest:
    """Read the manifest of a checkpoint and verify the checksums of all its files.

    Raises:
        DamagedCheckpoint: a file is missing, or differs from what was written.
        ConfigError: a file cannot be read for another reason.
    """
    content = _manifest_content(folder, step)
    with _reading(_path(folder, step)):
        for name, checksum in content.pop("checksums").items():
            if file_checksum(_path(folder, step) / name) != checksum:
                raise DamagedCheckpoint(f"the checksum of {name} does not match")
        content["config"] = upgraded_flat(content["config"])
        return Manifest(**content)


def _manifest_content(folder: Path, step: int) -> dict[str, Any]:
    """The content of a manifest, whose own checksum is verified.

    Raises:
        DamagedCheckpoint: the file is missing, or differs from what was written.
        ConfigError: it cannot be read for another reason.
    """
    path = _path(folder, step) / "manifest.json"
    with _reading(path):
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if content.pop("checksum") != _json_checksum(content):
            raise DamagedCheckpoint("the checksum of manifest.json does not match")
        return content


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a damaged or missing file raises into DamagedCheckpoint, and another OSError into ConfigError."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DamagedCheckpoint(f"{Path(error.filename or path).name}: {error.strerror}") from error
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path}: cannot be read: {error.strerror or error}; the run was not resumed, since "
            "its checkpoint may be good: run the same command when the file can be read, or use a new folder"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path.name}: {error}") from error


def newest_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    identity: Mapping[str, str],
    warn: Callable[[str], None],
    required: bool = False,
) -> Manifest | None:
    """The newest undamaged checkpoint of a run folder whose line files are still complete, None if there is none.

    Newer checkpoints, which are damaged, are renamed, so that they neither are used again nor count when old
    checkpoints are removed.

    Args:
        folder: the run folder.
        config: that of this run, by dotted key, without the volatile keys.
        identity: that of this run.
        warn: prints a warning.
        required: whether only the newest checkpoint will do.

    Raises:
        ConfigError: the checkpoint has another configuration or identity, or cannot be read; or it is `required`, and
            the newest one is damaged or there is none.
    """
    damaged: dict[int, str] = {}
    manifest = None
    with _reading(folder / "checkpoints"):
        steps = checkpoint_steps(folder)
    for step in steps:
        try:
            manifest = _usable_manifest(folder, step)
            break
        except DamagedCheckpoint as error:
            damaged[step] = str(error)
    if manifest is not None:
        checkpoint = str(_path(folder, manifest.step))
        check_equal(checkpoint, manifest.config, config, "use a new folder for another run")
        check_equal(checkpoint, manifest.identity, identity, "use a new folder for another model")
    if required:
        _require_newest(folder, damaged, manifest)
    with writing(folder / "checkpoints"):
        for step, reason in damaged.items():
            name = set_aside(folder, step)
            warn(f"{_path(folder, step)} is damaged and is not used: {reason}; it was renamed to {name}")
    return manifest


def _usable_manifest(folder: Path, step: int) -> Manifest:
    """The manifest of a checkpoint, with which the result files up to their positions are compared."""
    manifest = read_manifest(folder, step)
    for name in RESULT_FILES:
        check_line_file(folder, name, manifest)
    return manifest


def check_line_file(folder: Path, name: str, manifest: Manifest) -> None:
    """Compare one of the RESULT_FILES, up to its position in a checkpoint, with what it was then.

    Raises:
        DamagedCheckpoint: it differs.
        ConfigError: it cannot be read.
    """
    path, position = line_file(folder, name), manifest.positions.get(name, 0)
    if position == 0:
        return
    with _reading(path):
        if path.stat().st_size < position:
            raise DamagedCheckpoint(f"{path.name} is shorter than it was when the checkpoint was written")
        checksum = manifest.line_checksums.get(name)
        if checksum is not None and file_checksum(path, position) != checksum:
            raise DamagedCheckpoint(f"{path.name} differs from what it was when the checkpoint was written")


def _require_newest(folder: Path, damaged: Mapping[int, str], manifest: Manifest | None) -> None:
    alternative = "start again" if manifest is None else f"go on from step {manifest.step}"
    for step, reason in damaged.items():
        raise ConfigError(
            f"resume=must: {_path(folder, step)} is damaged: {reason}; use resume=auto to {alternative}"
        )
    if manifest is None:
        raise ConfigError(f"resume=must: {folder} holds no checkpoint to resume from; use resume=auto to start again")


def set_aside(folder: Path, step: int) -> str:
    """Rename a checkpoint so that it is not one any more, and return its new name."""
    path = _path(folder, step)
    aside = path.with_name(f"{SET_ASIDE}{path.name}")
    if aside.exists():
        remove_folder(aside)
    path.rename(aside)
    return aside.name


def read_state(folder: Path, step: int) -> dict[str, Any]:
    """The state in a checkpoint, which `read_manifest` must have verified."""
    path = _path(folder, step)
    tensors = load_file(path / "tensors.safetensors")
    return decode(json.loads((path / "state.json").read_text("utf-8")), tensors)


def result_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that affects results, by dotted key."""
    sections = tuple(f"{key}." for key in VOLATILE)
    flat = flatten(dict(config))
    return {key: value for key, value in flat.items() if key not in VOLATILE and not key.startswith(sections)}


def check_equal(name: str, recorded: Mapping[str, Any], current: Mapping[str, Any], advice: str) -> None:
    """Check that two flat mappings are equal.

    Args:
        name: the file or folder that `recorded` was read from, for the message.
        recorded: values by dotted key.
        current: values of this run by dotted key.
        advice: what to do if they differ, for the message.

    Raises:
        ConfigError: they differ; the message gives the first three keys with both values.
    """
    keys = [key for key in {**recorded, **current} if recorded.get(key, "absent") != current.get(key, "absent")]
    if keys:
        differences = [
            f"{key} is {recorded.get(key, 'absent')} there and {current.get(key, 'absent')} here" for key in keys
        ]
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise ConfigError(f"{name}: differs from this run: {', '.join(differences[:3])}{more}; {advice}")


def encode(value: Any, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """Convert a state to a JSON tree that refers to tensors by name.

    Args:
        value: the state.
        tensors: filled with the tensors by name.
        seen: filled with the names of the tensors by their storage, so that tied tensors are stored once.

    Raises:
        TypeError: the state holds a value that is neither a tensor nor a plain value.
    """
    if isinstance(value, Tensor):
        key = (
            (value.device, value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else id(value)
        )
        if key not in seen:
            seen[key] = str(len(tensors))
            is_whole_storage = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
            tensors[seen[key]] = (
                value.detach() if is_whole_storage else value.detach().clone(memory_format=torch.contiguous_format)
            )
        return {"tensor": seen[key]}
    if isinstance(value, Mapping):
        return {"mapping": [[name, encode(item, tensors, seen)] for name, item in value.items()]}
    if isinstance(value, list | tuple):
        return [encode(item, tensors, seen) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint can hold tensors, numbers, text, lists and mappings, got {type(value).__name__}")


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Convert the JSON tree of `encode` back to the state."""
    if isinstance(tree, list):
        return [decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    return {name: decode(item, tensors) for name, item in tree["mapping"]}


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The SHA-256 hash of names, types, shapes and values, for example of `module.named_parameters()`."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step_{step:08}"


def _json_checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
