"""Checksums of the files of a run, with which damage to a file is found. Nothing here imports torch."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.runs.run_folder import is_locked, read_json, read_record

START_FILES = ("config.yaml", "overrides.yaml")  # written when a process of the run begins
SHOWN_FILES = ("metrics.jsonl", "summary.json")  # which launch.status and launch.collect show


def file_checksum(path: Path, length: int | None = None) -> str:
    """The SHA-256 hash of a file, or of its first `length` bytes."""
    if length is not None:
        return digest(path, length).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path, length: int) -> Any:
    """The hash of the first `length` bytes of a file, to which more can be added."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (chunk := file.read(min(length, 1 << 20))):
            sha256.update(chunk)
            length -= len(chunk)
    return sha256


def file_checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The checksums of those of the files that a run folder has, for its record."""
    return {name: file_checksum(folder / name) for name in names if (folder / name).is_file()}


def check_files(folder: Path, record: Mapping[str, Any] | None = None) -> None:
    """Compare START_FILES and SHOWN_FILES with what the run wrote.

    The latter are those of the end of the run, or of the last checkpoint of a killed one. Nothing is compared while a
    run goes on. Earlier versions recorded no checksums, and lines after a killed run's last checkpoint have none.

    Args:
        folder: the run folder.
        record: the content of its run.json, if it has been read already.

    Raises:
        ConfigError: a file has changed or is missing.
    """
    for name, length, checksum in _recorded(folder, read_record(folder) if record is None else record):
        path = folder / name
        if not path.is_file() or file_checksum(path, length) != checksum:
            raise ConfigError(f"{path}: damaged, or changed since the run wrote it: its checksum does not match")


def _recorded(folder: Path, record: Mapping[str, Any]) -> Iterator[tuple[str, int | None, str]]:
    """The recorded checksums, as (file, number of bytes or None for all, checksum)."""
    running = record["state"] == "running"
    if running and is_locked(folder):
        return
    yield from ((name, None, checksum) for name, checksum in record.get("checksums", {}).items())
    if running:
        manifest = newest_manifest(folder)
        for name, checksum in manifest.get("line_checksums", {}).items():
            if f"{name}.jsonl" in SHOWN_FILES:
                yield f"{name}.jsonl", manifest["positions"][name], checksum


def newest_manifest(folder: Path) -> Mapping[str, Any]:
    """The manifest of the newest checkpoint; empty if there is none that can be read, which a resumed run handles."""
    paths = sorted((folder / "checkpoints").glob("step_*/manifest.json"))
    try:
        return read_json(paths[-1]) if paths else {}
    except ConfigError:
        return {}
