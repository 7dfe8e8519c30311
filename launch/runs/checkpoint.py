"""Checkpoints, which hold everything the next step needs.

A checkpoint is a folder such as `checkpoints/step_00000120`, named after the number of completed steps. It holds
`tensors.safetensors`, `state.json` (the tree that refers to the tensors) and `manifest.json` (the run it belongs to,
the lengths of the run's line files, checksums). The folder is written under a temporary name, synced and then
renamed, so a folder with the final name is complete. The checksums detect later damage.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conf.schema.base import ConfigError
from conf.schema.renames import upgraded_flat
from launch.runs.line_files import line_file
from launch.runs.run_folder import flatten

VOLATILE = ("resume", "checkpoint", "loggers")  # configuration keys that do not affect results
PARTIAL = ".half_"  # prefix of a folder that is being written or removed


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


class DamagedCheckpoint(Exception):
    """A checkpoint whose files are missing or differ from what was written."""


def save_checkpoint(folder: Path, manifest: Manifest, state: Mapping[str, Any], keep: int) -> None:
    """Write `state` as a checkpoint of the run folder, then remove all but the last `keep` and the best one.

    Raises:
        OSError: the checkpoint cannot be written; earlier checkpoints are unchanged.
        TypeError: `state` holds a value that is neither a tensor nor a plain value.
    """
    parent = folder / "checkpoints"
    parent.mkdir(exist_ok=True)
    partial, final = parent / f"{PARTIAL}{manifest.step:08}", _path(folder, manifest.step)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(encode(state, tensors, {}))
        save_file(tensors, partial / "tensors.safetensors")
        (partial / "state.json").write_text(tree, "utf-8")
        checksums = {path.name: _file_checksum(path) for path in sorted(partial.iterdir())}
        content = {**manifest._asdict(), "checksums": checksums}
        text = json.dumps({**content, "checksum": _json_checksum(content)}, indent=1)
        (partial / "manifest.json").write_text(text, "utf-8")
        for path in (*partial.iterdir(), partial):
            sync_to_disk(path)
        if final.exists():  # a damaged checkpoint of the same step
            remove_folder(final)
        partial.rename(final)
        sync_to_disk(parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    prune_checkpoints(folder, keep)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep` and the one with the highest score, the latest one of a tie."""
    steps = checkpoint_steps(folder)
    scores = {step: score for step in steps if (score := _score(folder, step)) is not None}
    best = max(scores, key=lambda step: (scores[step], step), default=None)
    for step in steps[keep:]:
        if step != best:
            remove_folder(_path(folder, step))


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of a run folder's checkpoints, newest first."""
    names = [path.name for path in (folder / "checkpoints").glob("step_*")]
    return sorted((int(name[5:]) for name in names if name[5:].isdecimal()), reverse=True)


def read_manifest(folder: Path, step: int) -> Manifest:
    """Read the manifest of a checkpoint and verify the checksums of all its files.

    Raises:
        DamagedCheckpoint: a file is missing, or differs from what was written.
    """
    path = _path(folder, step)
    try:
        content = json.loads((path / "manifest.json").read_text("utf-8"))
        if content.pop("checksum") != _json_checksum(content):
            raise DamagedCheckpoint("the checksum of manifest.json does not match")
        for name, checksum in content.pop("checksums").items():
            if _file_checksum(path / name) != checksum:
                raise DamagedCheckpoint(f"the checksum of {name} does not match")
        content["config"] = upgraded_flat(content["config"])
        return Manifest(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(str(error)) from error


def newest_checkpoint(
    folder: Path, config: Mapping[str, Any], identity: Mapping[str, str], warn: Callable[[str], None]
) -> Manifest | None:
    """The newest undamaged checkpoint of a run folder whose line files are still complete, None if there is none.

    Raises:
        ConfigError: the checkpoint has another configuration or identity.
    """
    for step in checkpoint_steps(folder):
        checkpoint = str(_path(folder, step))
        try:
            manifest = read_manifest(folder, step)
            for name, position in manifest.positions.items():
                path = line_file(folder, name)
                if not path.exists() or path.stat().st_size < position:
                    raise DamagedCheckpoint(f"{path.name} is shorter than it was when the checkpoint was written")
        except DamagedCheckpoint as error:
            warn(f"{checkpoint} is damaged and is not used: {error}")
            continue
        check_equal(checkpoint, manifest.config, config, "use a new folder for another run")
        check_equal(checkpoint, manifest.identity, identity, "use a new folder for another model")
        return manifest
    return None


def read_state(folder: Path, step: int) -> dict[str, Any]:
    """The state in a checkpoint, which `read_manifest` must have verified."""
    path = _path(folder, step)
    tensors = load_file(path / "tensors.safetensors")
    return decode(json.loads((path / "state.json").read_text("utf-8")), tensors)


def result_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that affects results, by dotted key."""
    return flatten({key: value for key, value in config.items() if key not in VOLATILE})


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


def remove_partial(folder: Path) -> None:
    """Remove the folders that an earlier process was writing or removing when it was killed."""
    for path in (folder / "checkpoints").glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder. It is renamed first, so that a partly removed folder does not keep its name."""
    partial = path.with_name(f"{PARTIAL}{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    path.rename(partial)
    shutil.rmtree(partial, ignore_errors=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step_{step:08}"


def _score(folder: Path, step: int) -> float | None:
    try:
        score = json.loads((_path(folder, step) / "manifest.json").read_text("utf-8"))["score"]
    except (OSError, ValueError, KeyError):
        return None
    return None if score is None else float(score)


def _file_checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json_checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
