import errno

import pytest

from launch.runs.atomic import PARTIAL, WriteError
from llm.testbed.building import cached_folder


def test_a_folder_is_built_once(monkeypatch, tmp_path):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path))

    def build(folder):
        folder.mkdir()
        (folder / "file").write_text("built")

    folder = cached_folder("name", build)
    assert folder == tmp_path / "name"
    assert (folder / "file").read_text() == "built"
    assert cached_folder("name", lambda _: pytest.fail("built again")) == folder


def test_a_folder_whose_build_fails_does_not_appear(monkeypatch, tmp_path):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path))

    def fail(folder):
        folder.mkdir()
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cached_folder("name", fail)
    assert not (tmp_path / "name").exists()


def test_a_full_cache_is_one_line_and_nothing_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("MARA_CACHE", str(tmp_path))

    def fill(folder):
        folder.mkdir()
        (folder / "weights").write_text("half of them")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match="name: cannot be written: No space left on device"):
        cached_folder("name", fill)
    assert not (tmp_path / "name").exists()
    assert not list(tmp_path.rglob(f"{PARTIAL}*"))


def test_a_cache_that_cannot_be_made_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MARA_CACHE", str(tmp_path / "file"))
    with pytest.raises(WriteError, match=r"file/\.name: cannot be written: Not a directory"):
        cached_folder("name", lambda _: None)
