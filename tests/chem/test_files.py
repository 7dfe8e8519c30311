"""Files named in a configuration, and hashes."""

import hashlib

import pytest

from chem.files import file_hash, find_file, folder_hash
from conf.schema.base import ConfigError


def test_a_file_is_found_here_or_below_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "a.smi").write_text("C\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MARA_DATA", str(tmp_path / "data"))
    assert find_file("data", "sub/a.smi") == tmp_path / "data" / "sub" / "a.smi"
    (tmp_path / "here" / "sub").mkdir()
    (tmp_path / "here" / "sub" / "a.smi").write_text("CC\n")
    assert find_file("data", "sub/a.smi").read_text() == "CC\n"  # the given path comes first
    for name in ("none.smi", "sub"):  # a folder is not a file
        with pytest.raises(ConfigError, match=f"^receptor: there is no file {name}, neither here nor .*MARA_DATA$"):
            find_file("receptor", name)
    monkeypatch.delenv("MARA_DATA")
    (tmp_path / "here" / "sub" / "a.smi").unlink()
    with pytest.raises(ConfigError, match=r"no file sub/a\.smi"):
        find_file("data", "sub/a.smi")


def test_hashes_are_of_the_contents(tmp_path):
    (tmp_path / "b.py").write_bytes(b"second")
    (tmp_path / "a.py").write_bytes(b"first")
    (tmp_path / "c.txt").write_bytes(b"no code")
    assert file_hash(tmp_path / "a.py") == hashlib.sha256(b"first").hexdigest()
    before = folder_hash(tmp_path)
    assert before == hashlib.sha256(b"firstsecond").hexdigest()
    (tmp_path / "c.txt").write_bytes(b"changed")
    assert folder_hash(tmp_path) == before
    (tmp_path / "b.py").write_bytes(b"changed")  # control
    assert folder_hash(tmp_path) != before
