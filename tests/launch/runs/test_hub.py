"""A hub that cannot be reached is asked once, and then only its cache is used."""

import socket

import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from launch.runs import hub


@pytest.fixture
def listener(monkeypatch):
    """A hub that accepts connections, as the endpoint; the process is online and has no proxy."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    hub.check_hub.cache_clear()
    yield server
    hub.check_hub.cache_clear()
    server.close()


def test_a_hub_that_answers_is_used(listener, capsys):
    assert hub.folder_or_hub("owner/model") == "owner/model"
    assert not constants.is_offline_mode()
    assert capsys.readouterr().out == ""


def test_a_hub_that_cannot_be_reached_is_not_asked_again(listener, capsys, tmp_path):
    listener.close()
    assert hub.folder_or_hub("owner/model") == "owner/model"
    assert hub.folder_or_hub("owner/other") == "owner/other"
    assert capsys.readouterr().out == "127.0.0.1 cannot be reached: only earlier downloads are used\n"
    assert constants.is_offline_mode()
    with pytest.raises(LocalEntryNotFoundError):  # at once, without a request
        hf_hub_download("owner/model", "config.json", cache_dir=tmp_path)


def test_behind_a_proxy_nothing_is_checked(listener, monkeypatch):
    listener.close()
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    hub.check_hub()
    assert not constants.is_offline_mode()


def test_a_folder_is_no_name_on_the_hub(listener, tmp_path, monkeypatch):
    listener.close()
    monkeypatch.setenv("MARA_CWD", str(tmp_path))  # in a job of a cluster
    (tmp_path / "model").mkdir()
    assert hub.folder_or_hub("model") == str(tmp_path / "model")
    assert not constants.is_offline_mode()
