"""Checkpoints: all that the next step needs, whole or not at all.

One folder each, `checkpoints/step_00000120`, named by how many steps are done: `tensors.safetensors`, `state.json`
(the tree around the tensors) and `manifest.json` (what it belongs to, where the run's lines end, checksums). It is
written under another name, synced, and renamed; a folder under the right name is therefore whole, and one that a
broken disk or hand has changed since is found out by its checksums.
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

VOLATILE = ("resume", "checkpoint", "loggers")  # keys of a configuration that change no result
PARTIAL = ".half_"  # prefix of what is being written or removed


class Stateful(Protocol):
    """What `Run.register_state` takes."""

    def state_dict(self) -> Mapping[str, Any]:
        """Nested mappings and lists of tensors, numbers, text, booleans and None."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Continue from a `state_dict`; tensors come on the CPU, tuples as lists."""


class LoopState(SimpleNamespace):
    """Plain values of a training loop that a checkpoint holds: `values = LoopState(beta=.1)`, then `values.beta`."""

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


class Manifest(NamedTuple):
    """What a checkpoint belongs to."""

    step: int  # steps done
    config: dict[str, Any]  # dotted keys, volatile ones left out
    identity: dict[str, str]  # what else must be the same, e.g. the reference's hash
    positions: dict[str, int]  # bytes of metrics.jsonl, timings.jsonl and samples.jsonl
    score: float | None  # the higher the better; of the metric that chooses the best


class DamagedCheckpoint(Exception):
    """A checkpoint that is not what was written."""


def save_checkpoint(folder: Path, manifest: Manifest, state: Mapping[str, Any], keep: int) -> None:
    """Write `state` as a checkpoint of the run folder, then remove all but the last `keep` and the best.

    Raises:
        OSError: it could not be written; earlier checkpoints are as they were.
        TypeError: `state` holds something else than tensors and plain values.
    """
    home = folder / "checkpoints"
    home.mkdir(exist_ok=True)
    half, whole = home / f"{PARTIAL}{manifest.step:08}", _path(folder, manifest.step)
    shutil.rmtree(half, ignore_errors=True)
    try:
        half.mkdir()
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(encode(state, tensors, {}))
        save_file(tensors, half / "tensors.safetensors")
        (half / "state.json").write_text(tree, "utf-8")
        checksums = {path.name: _checksum(path) for path in sorted(half.iterdir())}
        content = {**manifest._asdict(), "checksums": checksums}
        text = json.dumps({**content, "checksum": _checksum_of(content)}, indent=1)
        (half / "manifest.json").write_text(text, "utf-8")
        for path in (*half.iterdir(), half):
            sync(path)
        if whole.exists():  # a damaged one of the same step
            remove(whole)
        half.rename(whole)
        sync(home)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
    prune(folder, keep)


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the last `keep` and the one with the highest score, the later one of equals."""
    steps = checkpoint_steps(folder)
    scores = {step: score for step in steps if (score := _score(folder, step)) is not None}
    best = max(scores, key=lambda step: (scores[step], step), default=None)
    for step in steps[keep:]:
        if step != best:
            remove(_path(folder, step))


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps that a run folder has checkpoints of, the newest first."""
    names = [path.name for path in (folder / "checkpoints").glob("step_*")]
    return sorted((int(name[5:]) for name in names if name[5:].isdecimal()), reverse=True)


def read_manifest(folder: Path, step: int) -> Manifest:
    """Check a checkpoint as a whole and say what it belongs to.

    Raises:
        DamagedCheckpoint: a file is missing, or is not what was written.
    """
    path = _path(folder, step)
    try:
        content = json.loads((path / "manifest.json").read_text("utf-8"))
        said = content.pop("checksum")
        if said != _checksum_of(content):
            raise DamagedCheckpoint("manifest.json does not have its checksum")
        for name, checksum in content.pop("checksums").items():
            if _checksum(path / name) != checksum:
                raise DamagedCheckpoint(f"{name} does not have its checksum")
        content["config"] = upgraded_flat(content["config"])
        return Manifest(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedCheckpoint(str(error)) from error


def newest_checkpoint(
    folder: Path, config: Mapping[str, Any], identity: Mapping[str, str], warn: Callable[[str], None]
) -> Manifest | None:
    """The newest checkpoint of a run folder that is whole and whose lines are all there; None where there is none.

    Raises:
        ConfigError: it is of another configuration or identity.
    """
    for step in checkpoint_steps(folder):
        where = str(_path(folder, step))
        try:
            manifest = read_manifest(folder, step)
            for name, position in manifest.positions.items():
                path = line_file(folder, name)
                if not path.exists() or path.stat().st_size < position:
                    raise DamagedCheckpoint(f"{path.name} is shorter than when the checkpoint was written")
        except DamagedCheckpoint as error:
            warn(f"{where} is damaged and is not used: {error}")
            continue
        check_equal(where, manifest.config, config, "use a new folder for another run")
        check_equal(where, manifest.identity, identity, "use a new folder for another model")
        return manifest
    return None


def read_state(folder: Path, step: int) -> dict[str, Any]:
    """The state of a checkpoint that `read_manifest` has checked."""
    path = _path(folder, step)
    tensors = load_file(path / "tensors.safetensors")
    return decode(json.loads((path / "state.json").read_text("utf-8")), tensors)


def result_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that results depend on, with dotted keys."""
    return flatten({key: value for key, value in config.items() if key not in VOLATILE})


def check_equal(what: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], way_out: str) -> None:
    """Raise ConfigError, naming the first keys, where two flat mappings differ."""
    keys = [key for key in {**theirs, **ours} if theirs.get(key, "nothing") != ours.get(key, "nothing")]
    if keys:
        differences = [
            f"{key} is {theirs.get(key, 'nothing')} there and {ours.get(key, 'nothing')} here" for key in keys
        ]
        more = f", and {len(keys) - 3} more keys" if len(keys) > 3 else ""
        raise ConfigError(f"{what}: must be of the same run, got {', '.join(differences[:3])}{more}; {way_out}")


def encode(value: Any, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """A JSON tree in which tensors are names; fills `tensors`, and `seen` so that tied ones are stored once."""
    if isinstance(value, Tensor):
        key = (
            (value.device, value.data_ptr(), value.dtype, value.shape, value.stride()) if value.numel() else id(value)
        )
        if key not in seen:
            seen[key] = str(len(tensors))
            whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
            tensors[seen[key]] = (
                value.detach() if whole else value.detach().clone(memory_format=torch.contiguous_format)
            )
        return {"tensor": seen[key]}
    if isinstance(value, Mapping):
        return {"mapping": [[name, encode(item, tensors, seen)] for name, item in value.items()]}
    if isinstance(value, list | tuple):
        return [encode(item, tensors, seen) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors, numbers, text, lists and mappings, got {type(value).__name__}")


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [decode(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    return {name: decode(item, tensors) for name, item in tree["mapping"]}


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """sha256 over names, types, shapes and values, e.g. of `module.named_parameters()`."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def remove_partial(folder: Path) -> None:
    """Remove what an earlier process was writing or removing when it was killed."""
    for path in (folder / "checkpoints").glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a folder so that no half of it keeps its name."""
    half = path.with_name(f"{PARTIAL}{path.name}")
    shutil.rmtree(half, ignore_errors=True)
    path.rename(half)
    shutil.rmtree(half, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk."""
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


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
