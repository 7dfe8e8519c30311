"""Records from files of several formats, a seeded choice of them, and errors."""

import json

import pandas
import pytest

from conf.schema.base import ConfigError
from llm.data import SHUFFLE_BUFFER, load_both, load_records, refuse_conflicts, shuffled

from .helpers import source, write_lines


def parse_text(record):
    if "text" not in record:
        raise ValueError("text")
    return record["text"] if record.get("keep", True) else None


def test_records_come_from_json_lines_json_and_parquet(tmp_path, monkeypatch):
    rows = [{"text": f"t{i}", "keep": i != 3} for i in range(6)]
    expected = ["t0", "t1", "t2", "t4", "t5"]
    write_lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    files = ("a.jsonl", "a.json", "a.parquet")
    loaded = [load_records("d", source(name), str(tmp_path), 0, parse_text) for name in files]
    assert [records.items for records in loaded] == [expected] * 3
    assert len({records.sha256 for records in loaded}) == 1  # of the items, whatever the file format
    assert [records.facts()["origin"] for records in loaded] == list(files)
    assert str(tmp_path) not in str([records.facts() for records in loaded])
    monkeypatch.setenv("MARA_DATA", str(tmp_path))
    assert load_records("d", source("a.jsonl"), None, 0, parse_text).items == expected
    other = tmp_path / "other"
    other.mkdir()
    write_lines(other / "a.jsonl", rows[:2])
    in_root = load_records("d", source("a.jsonl"), str(other), 0, parse_text)  # data.root takes precedence
    assert in_root.items == expected[:2]
    assert in_root.sha256 != loaded[0].sha256


def test_the_seed_chooses_a_count_of_records(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(50)])

    def choose(seed, count):
        return load_records("d", source("a.jsonl", count), str(tmp_path), seed, parse_text).items

    assert choose(0, 8) == choose(0, 8) != choose(1, 8)
    assert len(set(choose(0, 8))) == 8
    assert sorted(choose(0, 50), key=int) == [str(i) for i in range(50)] != choose(0, 50)
    with pytest.raises(ConfigError, match=r"d\.count: must be at most the number of records, 50, got 51"):
        choose(0, 51)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, r"d\.path: no file a\.jsonl in data\.root"),
        ("a.jsonl", "{", r"d\.path: a\.jsonl, line 1: must be one JSON object, got \{ \("),
        (
            "a.jsonl",
            '{"text": "x"}\n\n{"other": 1}\n',
            r"a\.jsonl, line 3: a record must have text, got other \(a number\)",
        ),
        ("a.jsonl.gz", None, r"d\.path: no file a\.jsonl\.gz in data\.root"),
        ("a.csv", None, r"d\.path: no file a\.csv in data\.root"),
        ("a.txt", None, r"d\.path: no file a\.txt in data\.root"),
        ("./prompts", None, r"d\.path: no file \./prompts in data\.root"),
        ("a/b/prompts", None, r"d\.path: no file a/b/prompts in data\.root"),
        ("tiny_words.jsonl", None, r"d\.path: no file tiny_words\.jsonl in data\.root"),
        ("a.txt", "x", r"d\.path: must be a \.json, \.jsonl, \.csv, \.tsv, \.parquet, .* file, got a\.txt"),
        ("a.parquet.gz", "x", r"d\.path: must be a .* file, got a\.parquet\.gz"),
        ("prompts", "x", r"d\.path: must be a .* file, got prompts"),
        (".", None, r"d\.path: the folder \. has no Parquet files; give a file in it"),
        ("no/such", None, r"d\.path: cannot read the data set no/such \("),
        ("a.jsonl", '{"text": "x", "keep": false}\n', r"d\.path: a\.jsonl has no records that can be used"),
        ("tiny_nothing", None, r"d\.path: llm\.testbed\.corpora has no data set tiny_nothing"),
    ],
)
def test_an_error_of_the_data_is_one_line(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_records("d", source(name), str(tmp_path), 0, parse_text)
    assert "\n" not in str(error.value)


def test_equal_seeds_choose_the_records_that_datasets_would():
    datasets = pytest.importorskip("datasets")
    for count in (1, 50, SHUFFLE_BUFFER, 2 * SHUFFLE_BUFFER + 123):
        stream = datasets.IterableDataset.from_generator(lambda count=count: ({"i": i} for i in range(count)))
        theirs = [row["i"] for row in stream.shuffle(seed=3, buffer_size=SHUFFLE_BUFFER)]
        assert list(shuffled(list(range(count)), 3)) == theirs
        assert count == 1 or list(shuffled(list(range(count)), 4)) != theirs  # control


def test_all_records_of_a_file_are_checked(tmp_path):
    write_lines(tmp_path / "a.jsonl", [*({"text": str(i)} for i in range(30)), {"txt": "x"}])
    for seed in range(3):  # whichever records the seed chooses
        with pytest.raises(ConfigError, match=r"a\.jsonl, line 31: a record must have text, got txt \(a text\)"):
            load_records("d", source("a.jsonl", 2), str(tmp_path), seed, parse_text)


def test_repeated_records_are_said_and_conflicts_refused(tmp_path, capsys):
    write_lines(tmp_path / "a.jsonl", [{"text": text} for text in ("a", "b", "a", "B", "a")])
    records = load_records("d", source("a.jsonl"), str(tmp_path), 0, parse_text)
    assert capsys.readouterr().out == "d: 2 of 5 records of a.jsonl repeat another one and are left out\n"
    assert records.distinct() == ["a", "b", "B"]
    refuse_conflicts({"d": records, "e": records}, "text", lambda text: text, "letters")  # control: equal ones
    message = r"^e\.path: a\.jsonl, line 4: the text 'b' is also in a\.jsonl, line 2, with other letters$"
    with pytest.raises(ConfigError, match=message):
        refuse_conflicts({"e": records}, "text", str.lower, "letters")


def test_a_task_needs_both_data_sets(tmp_path, make_config):
    write_lines(tmp_path / "a.jsonl", [{"text": "x"}])
    paths = (f"data.root={tmp_path}", "data.train.path=a.jsonl")
    with pytest.raises(ConfigError, match=r"^data\.evaluation\.path: must be given for task\.name=maths, got null$"):
        load_both(make_config("task.name=maths", *paths), parse_text)
    train, evaluation = load_both(make_config(*paths, "data.evaluation.path=a.jsonl"), parse_text)
    assert train == evaluation
