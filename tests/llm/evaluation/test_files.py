"""Files of prompts and generations: their fields, and errors with the file, the line and the field."""

import json

import pytest

from conf.schema.base import ConfigError
from llm.evaluation.files import chat_to_prompt, read_generations, read_prompts

GOOD = {"id": "a", "prompt": "Name a colour.", "generations": ["red", "blue", "red"]}
MISTAKES = [  # changes of the second line, and the message after file and line
    ({"id": None}, "id: must be a text or a number, got null"),
    ({"id": True}, "id: must be a text or a number, got true"),
    ({"id": "a"}, "id: must be different from that of line 1, got a"),
    ({"id": ...}, "id: must be a text or a number, got nothing"),
    ({"prompt": ...}, "prompt: must be a text or a list of chat turns, got nothing"),
    ({"prompt": 3}, "prompt: must be a text or a list of chat turns, each with role and content, got 3"),
    ({"prompt": []}, "prompt: must be a text or a list of chat turns, each with role and content, got []"),
    ({"prompt": [{"role": "user"}]}, "prompt: must be a text or a list of chat turns"),
    ({"generations": ...}, "generations: must be a list of texts, got nothing"),
    ({"generations": []}, "generations: must be a list of at least one text, got []"),
    ({"generations": "red"}, "generations: must be a list of texts, got red"),
    ({"generations": ["red", 3, "x"]}, "generations: must be a list of texts, got 3"),
    ({"generations": ["red", "x"]}, "generations: must be 3 texts, as many as in line 1, got 2 texts"),
    ({"partition": [0, 1]}, "partition: must be 3 whole numbers, one for each of the generations, got 2"),
    ({"partition": [0, 1, 0.5]}, "partition: must be a list of whole numbers, got 0.5"),
    ({"partition": [0, True, 0]}, "partition: must be a list of whole numbers, got true"),
    ({"partition": None}, "partition: must be a list of whole numbers, got null"),
    ({"partition": [0, -1, 1]}, "partition: must be a list of whole numbers >= 0, got -1"),
    ({"generation_scores": [1, 2]}, "generation_scores: must be 3 finite numbers, one for each of the generations"),
    ({"generation_scores": [1, "2", 3]}, "generation_scores: must be a list of finite numbers, got 2"),
]


def write_file(folder, *lines):
    path = folder / "generations.jsonl"
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_noveltybenchs_format_is_read(tmp_path):
    more = {
        "id": 7,
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Go\u2028on"}],
    }
    more |= {"generations": ["a", "", "a"], "partition": [0, 1, 0], "generation_scores": [3, 10.0, 0], "model": "m"}
    first, second = read_generations("generations", write_file(tmp_path, GOOD, more))
    assert first[:5] == ("a", [{"role": "user", "content": "Name a colour."}], ["red", "blue", "red"], None, None)
    assert second[:1] + second[2:5] == ("7", ["a", "", "a"], [0, 1, 0], [3, 10.0, 0])
    assert chat_to_prompt(first.chat) == GOOD["prompt"]
    assert chat_to_prompt(second.chat) == more["prompt"]
    assert [record.id for record in read_prompts("prompts", write_file(tmp_path, GOOD, more))] == ["a", "7"]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_a_mistake_names_file_line_and_field(tmp_path, change, message):
    second = {key: value for key, value in {**GOOD, "id": "b", **change}.items() if value is not ...}
    path = write_file(tmp_path, GOOD, second)
    with pytest.raises(ConfigError) as caught:
        read_generations("generations", path)
    text = str(caught.value)
    assert text.startswith(f"generations: {path}, line 2, {message}")
    assert "\n" not in text
    read_generations("generations", write_file(tmp_path, GOOD, {**GOOD, "id": "b"}))  # control


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'id': 1}\n", "must be one JSON object"),
        ("[1]\n", "must be one JSON object, got [1]"),
        ('{"id": NaN}\n', "NaN is not a finite number"),
    ],
)
def test_a_line_that_is_not_an_object(tmp_path, line, message):
    path = write_file(tmp_path, GOOD, *({**GOOD, "id": str(i)} for i in range(5)), line, {**GOOD, "id": "z"})
    with pytest.raises(ConfigError) as caught:
        read_generations("compare", path)
    assert str(caught.value).startswith(f"compare: {path}, line 7: ")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    for name, content, message in (
        ("no", None, "No such file"),
        ("latin", b'{"id": "\xe9"}', "UTF-8"),
        ("empty", b"", "one JSON object"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match=message) as caught:
            read_prompts("prompts", str(path))
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_scores_of_first_generations_are_from_one_to_ten(tmp_path):
    line = GOOD | {"partition": [0, 0, 1], "generation_scores": [1, 99, 10]}
    read_generations("generations", write_file(tmp_path, line))  # a repeat may have any score
    message = r"line 1, generation_scores: must be from 1 to 10 for the first generation of a class, got 0"
    with pytest.raises(ConfigError, match=message):
        read_generations("generations", write_file(tmp_path, line | {"generation_scores": [1, 99, 0]}))


def test_a_long_value_is_shortened(tmp_path):
    with pytest.raises(ConfigError, match=r"got x{77}\.\.\.$"):
        read_generations("generations", write_file(tmp_path, GOOD | {"generations": "x" * 500}))
    with pytest.raises(ConfigError, match=r"got y{57}\.\.\. \("):
        read_generations("generations", write_file(tmp_path, "y" * 500 + "\n"))
