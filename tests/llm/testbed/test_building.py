import pytest

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
