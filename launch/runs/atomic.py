"""Write files and folders so that they are complete or absent, and report in one line what cannot be written.

Nothing here imports torch.
"""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conf.schema.base import ConfigError

PARTIAL = ".half_"  # prefix of what is being written or removed

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
NO_SYNC = (errno.EINVAL, errno.ENOTSUP)  # of a file system that cannot flush a folder


class WriteError(ConfigError):
    """A file or folder cannot be written. The message is one line: the path, the reason and what to do."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path at which to write a new file or folder, which replaces `path` when the context ends.

    It has the same name, in a temporary folder beside `path`. If the context ends with an exception, `path` is
    unchanged. The temporary folder is removed in both cases. All files get the mode that the umask allows, also those
    that a library created for the user alone.

    Raises:
        WriteError: it cannot be written.
    """
    staging = path.with_name(f"{PARTIAL}{os.getpid()}_{path.name}")
    new, old = staging / path.name, staging / f"{PARTIAL}{path.name}"
    with writing(path):
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir(parents=True)
            yield new
            _finish(new, staging.stat().st_mode & 0o666)
            if path.is_dir() and new.is_dir():
                path.rename(old)  # a folder that is not empty cannot be replaced
            new.rename(path)
            sync_to_disk(path.parent)
        except BaseException:
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error about writing `path`, or anything else in its folder, into a WriteError.

    An error about a file elsewhere is raised as it is.
    """
    try:
        yield
    except Exception as error:
        if _error_number(error) is None or not _is_about(error, path.absolute().parent):
            raise
        raise WriteError(write_error_message(error, path)) from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents unless they exist.

    Raises:
        WriteError: a folder cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(write_error_message(error, path)) from error


def write_error_message(error: Exception, path: Path) -> str:
    """The line about a file or folder that cannot be written."""
    number = _error_number(error)
    reason = (os.strerror(number) if number else "") or str(error)
    if number in FULL:
        advice = "free some space and run the same command again; a run resumes from its last checkpoint"
    elif number in DENIED:
        advice = "change its permissions, or write to another folder"
    else:
        advice = "run the same command again when the folder can be written; a run resumes from its last checkpoint"
    return f"{path}: cannot be written: {reason}; {advice}"


def disk_full(error: BaseException) -> WriteError | None:
    """A WriteError in place of an exception that only a full or read-only disk causes, None for another one."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return WriteError(write_error_message(error, Path(os.fsdecode(error.filename or "a temporary file"))))
    return None


def remove_partial(folder: Path) -> None:
    """Remove what an earlier process was writing in a folder, or removing from it, when it was killed."""
    for path in folder.glob(f"{PARTIAL}*"):
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
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def _finish(new: Path, mode: int) -> None:
    """Add a mode to that of a file, or of all files in a folder, and flush them to the disk."""
    for path in (*new.rglob("*"), new) if new.is_dir() else (new,):
        present = path.stat().st_mode
        if path.is_file() and present | mode != present:
            path.chmod(present | mode)
        sync_to_disk(path)


def _error_number(error: Exception) -> int | None:
    """The errno of an exception, None if it has none. Libraries in Rust, and shutil, give it in the message only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = re.search(r"\(os error (\d+)\)|\[Errno (\d+)\]", str(error))
    return int(match[1] or match[2]) if match else None


def _is_about(error: Exception, folder: Path) -> bool:
    """Whether an exception names a path in this folder, or no path."""
    names = [getattr(error, "filename", None), getattr(error, "filename2", None)]
    paths = [Path(os.fsdecode(name)).absolute() for name in names if isinstance(name, str | bytes | os.PathLike)]
    return not paths or any(path.is_relative_to(folder) for path in paths)
