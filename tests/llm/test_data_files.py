"""Values of files are read as they are written, and mistakes are named by file and line."""

import csv
import gzip
import json

import pytest

from conf.schema.base import ConfigError
from llm.data_files import file_ending, read_json, read_rows

VALUES = {
    "dates": ["1969-07-20", "2020-01-01T00:00:00Z"],
    "missing": ["NA", "null", "nan", ""],
    "numbers": [1, 1.0, 10**40, -0.5, "007"],
    "other": [True, None, {"a": [1, {"b": "2"}]}, []],
    "text": "Go\u2028on \x7f é 😀",
}


def rows(folder, name, content):
    path = folder / name
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") and not name.startswith("bad") else data)
    return list(read_rows("d.path", name, path))


def same(one, other):
    """Equality that also tells 1 from 1.0 and True."""
    return json.dumps(one) == json.dumps(other)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "A.JSON.GZ"])
def test_values_are_those_of_the_file(tmp_path, name):
    lines = [VALUES, {"only": "this"}, {"dates": "not a list"}]
    texts = [json.dumps(line, ensure_ascii=number == 0) for number, line in enumerate(lines)]
    many = rows(tmp_path, name, "\n".join(texts))
    assert [row.location for row in many] == [f"{name}, line {number}" for number in (1, 2, 3)]
    assert same([row.content for row in many], lines)
    for variant in ("\ufeff" + "\r\n".join(texts) + "\r\n", "\n\n" + "\n \n".join(texts) + "\n\n"):
        assert same([row.content for row in rows(tmp_path, name, variant)], lines)
    assert [row.location for row in rows(tmp_path, name, "\n\n" + texts[0] + "\n \n{}")][1] == f"{name}, line 5"
    listed = rows(tmp_path, name, json.dumps(lines, indent=2))
    assert same([row.content for row in listed], lines)
    assert listed[0].location == f"{name}, line 2"
    assert json.dumps(lines, indent=2).splitlines()[int(listed[1].location.split()[-1]) - 1] == "  {"
    assert rows(tmp_path, name, " [ ] ") == []


def test_control_datasets_changes_values(tmp_path):
    """What reading with Hugging Face datasets did to the same values."""
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.jsonl"
    path.write_text('{"answers": ["1969-07-20", "1970-01-01"]}\n{"other": 1}\n')
    read = list(datasets.load_dataset("json", data_files=str(path), split="train", streaming=True))
    assert read[0]["answers"] != ["1969-07-20", "1970-01-01"]
    assert read[1] != {"other": 1}
    assert [row.content for row in read_json("d", "a.jsonl", path)] == [
        {"answers": ["1969-07-20", "1970-01-01"]},
        {"other": 1},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have one JSON object in each line, but the file is empty"),
        ("\n \n", "but the file is empty"),
        ('{"a": 1}\n{"a": \n{"a": 2}', 'line 2: must be one JSON object, got {"a": (Expecting value: column'),
        ("{'a': 1}", "line 1: must be one JSON object, got {'a': 1} (Expecting property name"),
        ('{"a": 1}\n[1]', "line 2: must be one JSON object, got [1]"),
        ('{"a": 1}\n"x"', 'line 2: must be one JSON object, got "x"'),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "line 1: must be one JSON object, got {"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "(the field c is there twice)"),
        ('{"a": NaN}', "(NaN is not a finite number)"),
        ('{"a": -Infinity}', "(-Infinity is not a finite number)"),
        ('{"a": 1e999}', "(1e999 is not a finite number)"),
        ('{"a": ' + "9" * 5000 + "}", "line 1: must be one JSON object"),
        ('{"a": "\\ud800"}', "(a text has half of a surrogate pair)"),
        ('{"a": ' + "[" * 100_000 + "}", "line 1: must be one JSON object"),
        ('{"a": 1}\n'.encode("utf-16"), "must be UTF-8"),
        (b'{"a": 1}\n{"a": "\xe9"}', "line 2: must be UTF-8"),
        ('[{"a": 1},\n {"a": }]', "line 2: must be one JSON object"),
        ('[{"a": 1},\n 3]', "line 2: must be one JSON object, got 3"),
        ('[{"a": 1}\n {"a": 2}]', "line 2: the list must go on with a comma or end with a closing bracket"),
        ('[{"a": 1}]\n[{"a": 2}]', 'must be one JSON object, got [{"a": 2}] after the list of objects'),
        ('[{"a": 1, "a": 2}]', "(the field a is there twice)"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(tmp_path, content, message):
    with pytest.raises(ConfigError) as caught:
        rows(tmp_path, "a.jsonl", content)
    text = str(caught.value)
    assert text.startswith("d.path: a.jsonl")
    assert message in text
    assert "\n" not in text
    assert len(text) < 300


def test_a_damaged_file_is_named(tmp_path):
    for content in (b"not gzip", gzip.compress(b'{"a": 1}\n' * 100)[:-20]):
        with pytest.raises(ConfigError, match=r"^d\.path: bad\.jsonl\.gz: cannot be read \(.+\)$"):
            rows(tmp_path, "bad.jsonl.gz", content)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ",")])
def test_values_of_tables_are_texts(tmp_path, name, delimiter):
    table = [["question", "answer"], ["When?", "1969-07-20"], ['Two\nlines, "quoted"', "007"], ["None?", "NA"]]
    with (tmp_path / "plain").open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(table)
    read = rows(tmp_path, name, (tmp_path / "plain").read_bytes())
    assert [list(row.content.values()) for row in read] == table[1:]
    assert [row.location for row in read] == [f"{name}, line {number}" for number in (2, 3, 5)]
    for content, message in (
        ("a,b\n1\n", r"a\.csv, line 2: must have 2 values, got 1"),
        ("a,a\n1,2\n", r"a\.csv, line 1: must name each column differently, got a, a"),
        ('a,b\n1,"2\n', r"a\.csv, line 2: cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            rows(tmp_path, "a.csv", content)


def test_the_ending_of_a_name():
    names = {"a.JSONL": ".jsonl", "a.json.gz": ".json", "x/y.b.csv": ".csv", "org/name": "", "a.gz": ""}
    assert {name: file_ending(name) for name in names} == names
