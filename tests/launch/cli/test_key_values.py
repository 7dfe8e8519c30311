"""Files and KEY=VALUE words of a command line."""

import pytest

from conf.schema.base import ConfigError
from launch.cli.key_values import check_keys, number_of, split_words, truth_of


def test_words_are_paths_or_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.jsonl").write_text("")
    paths, values = split_words(["x.jsonl", "a=b.jsonl", "beta=.04", "split=a=b", "empty="])
    assert [path.name for path in paths] == ["x.jsonl", "a=b.jsonl"]
    assert values == {"beta": ".04", "split": "a=b", "empty": ""}
    with pytest.raises(ConfigError, match="beta: given twice, as 1 and as 2"):
        split_words(["beta=1", "beta=2"])


def test_keys_and_values_are_checked():
    check_keys(["beta"], ["beta"])
    with pytest.raises(ConfigError, match=r"betta: no such key \(did you mean beta\?\); allowed: beta, out"):
        check_keys(["betta"], ["beta", "out"])
    values = {"beta": ".5", "bad": "x", "infinite": "inf", "yes": "True", "maybe": "2"}
    assert number_of(values, "beta", 0.0) == 0.5
    assert number_of(values, "missing") is None
    for key in ("bad", "infinite"):
        with pytest.raises(ConfigError, match=f"{key}: must be a finite number"):
            number_of(values, key)
    with pytest.raises(ConfigError, match=r"beta: must be a finite number >= 1, got \.5"):
        number_of(values, "beta", 1.0)
    assert truth_of(values, "yes", False) is True
    assert truth_of(values, "missing", False) is False
    with pytest.raises(ConfigError, match="maybe: must be true or false, got 2"):
        truth_of(values, "maybe", True)
