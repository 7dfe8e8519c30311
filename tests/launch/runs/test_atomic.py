"""Files and folders that are complete or absent, and one line about what cannot be written."""

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from launch.runs import atomic
from launch.runs.atomic import (
    PARTIAL,
    WriteError,
    disk_full,
    make_folder,
    remove_folder,
    remove_partial,
    replacing,
    write_error_message,
    writing,
)


@pytest.fixture
def umask():
    """Sets the umask until the test ends."""
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.fixture(scope="module")
def small_disk():
    """A file system of 256 kB, which only root can mount."""
    folder = Path(tempfile.mkdtemp())
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0
    if not mounted:
        folder.rmdir()
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
    folder.rmdir()


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_mode_of_the_umask(tmp_path, umask, mask, expected):
    umask(mask)
    save_file({"x": torch.zeros(3)}, tmp_path / "control")
    with replacing(tmp_path / "file") as file:
        save_file({"x": torch.zeros(3)}, file)
    with replacing(tmp_path / "folder") as folder:
        folder.mkdir()
        save_file({"x": torch.zeros(3)}, folder / "a")
        (folder / "script").write_text("")
        (folder / "script").chmod(0o700)
    assert mode(tmp_path / "control") == 0o600  # whatever the umask is
    assert mode(tmp_path / "file") == mode(tmp_path / "folder" / "a") == expected
    assert mode(tmp_path / "folder" / "script") == expected | 0o100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["control", "file", "folder"]


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_what_fails_changes_nothing_and_leaves_nothing(tmp_path, error):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_text("old")
    expected = WriteError if isinstance(error, OSError) else type(error)

    def fail(path):
        if path.name == "folder":
            path.mkdir()
        (path / "b" if path.is_dir() else path).write_text("new")
        raise error

    with pytest.raises(expected), replacing(tmp_path / "file") as file:
        fail(file)
    with pytest.raises(expected), replacing(tmp_path / "folder") as folder:
        fail(folder)
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch):
    def write(name):
        with replacing(tmp_path / "folder") as folder:
            folder.mkdir()
            (folder / name).write_text("")

    write("a")
    write("b")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]
    rename = Path.rename

    def fail_for_new(self, target):
        if self.name == "folder" and Path(target) == tmp_path / "folder":
            raise OSError(errno.EIO, "broken")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(WriteError, match="folder: cannot be written: Input/output error"):
        write("c")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "name" / "inside").mkdir(parents=True)
    with (
        pytest.raises(WriteError, match="name: cannot be written: Is a directory"),
        replacing(tmp_path / "name") as new,
    ):
        new.write_text("")
    assert (tmp_path / "name" / "inside").is_dir()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "x"), "No space left on device; free some space"),
        (OSError(errno.EDQUOT, "x"), "Disk quota exceeded; free some space"),
        (OSError(errno.EFBIG, "x"), "File too large; free some space"),
        (PermissionError(errno.EACCES, "x"), "Permission denied; change its permissions, or write to another folder"),
        (OSError(errno.EROFS, "x"), "Read-only file system; change its permissions, or write to another folder"),
        (OSError(errno.EIO, "x"), "Input/output error; run the same command again"),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), "No space left on device; free"),
        (Exception("I/O error: no space (os error 28)"), "No space left on device; free some space"),  # from Rust
    ],
)
def test_the_line_says_what_is_wrong_and_what_to_do(tmp_path, error, line):
    with pytest.raises(WriteError) as raised, writing(tmp_path / "file"):
        raise error
    assert str(raised.value).startswith(f"{tmp_path / 'file'}: cannot be written: {line}")
    assert "\n" not in str(raised.value)
    assert str(raised.value) == write_error_message(error, tmp_path / "file")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        OSError("of a library, without a number"),
        FileNotFoundError(errno.ENOENT, "is read elsewhere", "/somewhere/else"),
    ],
)
def test_other_errors_are_not_renamed(tmp_path, error):
    with pytest.raises(type(error)) as raised, writing(tmp_path / "file"):
        raise error
    assert raised.value is error


def test_a_full_disk_is_known_wherever_it_is_met():
    message = "/tmp/x: cannot be written: No space left on device; free some space"
    assert str(disk_full(OSError(errno.ENOSPC, "x", "/tmp/x"))).startswith(message)
    assert str(disk_full(OSError(errno.ENOSPC, "x"))).startswith("a temporary file: cannot be written: No space")
    assert disk_full(PermissionError(errno.EACCES, "of a file that is read")) is None
    assert disk_full(ValueError()) is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/a: cannot be written: Not a directory"):
        make_folder(tmp_path / "file" / "a")
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")


def test_what_a_killed_process_left_is_removed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{PARTIAL}{name}" / "inside").mkdir(parents=True)
        (tmp_path / name / "inside").mkdir(parents=True)
    remove_partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    remove_folder(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_cannot_flush_folders_is_no_obstacle(tmp_path, monkeypatch, number):
    def fsync(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    if number == errno.EINVAL:
        atomic.sync_to_disk(tmp_path)
    else:
        with pytest.raises(OSError, match="Input/output"):
            atomic.sync_to_disk(tmp_path)


# --- each kind of file, on a disk that is full ---------------------------------------------------------------


def write_weights(path):
    save_file({"x": torch.zeros(100_000)}, path)


def write_csv(path):
    import pandas as pd

    pd.DataFrame({"x": range(100_000)}).to_csv(path)


def write_parquet(path):
    import pandas as pd

    pd.DataFrame({"x": torch.rand(100_000).numpy()}).to_parquet(path)


def write_tokenizer(path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word{number}": number for number in range(20_000)}, "word0")).save(str(path))


def write_image(path):
    from PIL import Image

    Image.frombytes("RGB", (400, 400), os.urandom(480_000)).save(path, "PNG")


@pytest.mark.parametrize("kind", [write_weights, write_csv, write_parquet, write_tokenizer, write_image])
def test_each_library_says_that_the_disk_is_full(tmp_path, small_disk, kind):
    with replacing(tmp_path / "file") as file:  # control: it can be written elsewhere
        kind(file)
    (small_disk / "file").write_text("old")
    with (
        pytest.raises(WriteError, match="file: cannot be written: No space left on device"),
        replacing(small_disk / "file") as file,
    ):
        kind(file)
    assert [path.name for path in small_disk.iterdir()] == ["file"]
    assert (small_disk / "file").read_text() == "old"
