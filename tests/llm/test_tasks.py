"""The shipped tasks: what they ask, what they accept, and what they read."""

import itertools
import json
import os
import random
from pathlib import Path

import pytest

from conf.schema.base import ConfigError
from conf.schema.llm import SourceConfig
from llm.data import load_records
from llm.tasks.base import load_task
from llm.tasks.creative import MAX_PROMPT_CHARACTERS, parse_prompt
from llm.tasks.maths import last_number
from llm.tasks.one_of_many import OneOfMany
from llm.tasks.texts import HELD_OUT, MATHS_INSTRUCTION, QUESTIONS
from llm.testbed import corpora

DATA = os.environ.get("MARA_DATA", "")


def ask(text):
    return [{"role": "user", "content": text}]


def source(path, count=None):
    return SourceConfig(path=path, subset=None, split="train", count=count)


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# --- one_of_many ----------------------------------------------------------------------------------------------


def test_every_question_has_several_answers_each_with_one_spelling():
    task = OneOfMany()
    assert len(task.prompts()) == 12
    assert len(task.evaluation_prompts()["held_out/"]) == 4
    asked = [chat[0]["content"] for chats in task.evaluation_prompts().values() for chat in chats]
    assert len(set(asked)) == 16
    assert len({question.name for question in (*QUESTIONS, *HELD_OUT)}) == 16
    for question in (*QUESTIONS, *HELD_OUT):
        assert len(set(question.answers)) == len(question.answers) >= 2
        assert task.right_answers(ask(question.text)) == question.answers
        for answer in question.answers:
            assert task.reward(ask(question.text), answer) == 1
            for other in (f"{answer}.", f" {answer}", answer.swapcase(), f"{answer} {answer}"):
                assert other in question.answers or task.reward(ask(question.text), other) == 0
    assert task.reward(ask(QUESTIONS[0].text), QUESTIONS[1].answers[0]) == 0
    assert task.prompt_name(ask(QUESTIONS[0].text)) == "planet"


def test_questions_of_your_own_come_from_a_file(tmp_path, make_config):
    write_lines(tmp_path / "q.jsonl", [{"question": "Say a or b.", "answers": ["a", "b"], "name": "ab"}])
    write_lines(tmp_path / "e.jsonl", [{"question": "Say c.", "answers": ["c"]}])
    config = make_config(
        "experiment=one_of_many",
        f"data.root={tmp_path}",
        "data.train.path=q.jsonl",
        "data.evaluation.path=e.jsonl",
    )
    task = load_task("one_of_many", config)
    assert [chat[0]["content"] for chat in task.prompts()] == ["Say a or b."]
    assert task.reward(ask("Say a or b."), "b") == 1
    assert task.prompt_name(ask("Say a or b.")) == "ab"
    assert list(task.evaluation_prompts()) == ["", "held_out/"]
    assert task.data["train"].origin == "q.jsonl"
    write_lines(tmp_path / "q.jsonl", [{"question": "Say a.", "answers": "a"}])
    with pytest.raises(ConfigError, match=r"data\.train\.path: records must have question: .*answers: a list"):
        load_task("one_of_many", config)


# --- maths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3+4=7\n#### 7", "7"),
        ("#### 42", "42"),
        ("so\n#### 1,234,567", "1234567"),
        ("so\n#### -3", "-3"),
        ("so\n#### 042", "42"),
        ("so\n#### 2.50", "2.5"),
        ("so\n#### 42.0", "42"),
        ("so\n#### -0", "0"),
        ("#### 6\n#### 7", "7"),  # the last line counts
        ("so #### 7", None),
        ("so\n####7", None),
        ("so\n#### 7 apples", None),
        ("so\n#### $7", None),
        ("so\n#### 7\n", None),
        ("so\n#### 7.", None),
        ("so\n#### 1,23", None),
        ("so\n#### 1e3", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_answer_is_the_number_on_the_last_line(text, number):
    assert last_number(text) == number


def test_maths_reads_gsm8ks_format(tmp_path, make_config):
    problems = [
        {"question": "How many?", "answer": "She has <<1000+200=1200>>1200.\n#### 1,200"},
        {"question": "And now?", "answer": "None left.\n#### 0"},
    ]
    write_lines(tmp_path / "p.jsonl", problems)
    paths = (f"data.root={tmp_path}", "data.train.path=p.jsonl", "data.evaluation.path=p.jsonl")
    config = make_config("experiment=maths", *paths)
    task = load_task("maths", config)
    assert task.prompts()[0] == ask("How many?" + MATHS_INSTRUCTION)
    assert task.reward(task.prompts()[0], "1000 + 200\n#### 1200.0") == 1
    assert task.reward(task.prompts()[0], "#### 0") == 0 == task.reward(task.prompts()[1], "#### 1200")
    assert task.reward(task.prompts()[0], "1200") == 0
    assert task.answer("a\n#### 1,200") == task.answer("b\n#### 1200") != task.answer("1200?")
    write_lines(tmp_path / "p.jsonl", [{"question": "How many?", "answer": "12"}])
    with pytest.raises(ConfigError, match=r"data\.train\.path: records must have .* in record 0 of p\.jsonl"):
        load_task("maths", config)
    with pytest.raises(ConfigError, match=r"data\.train\.path: must be given for task\.name=maths, got null"):
        load_task("maths", make_config("task.name=maths"))


# --- creative ---------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_first_turn_of_an_english_conversation():
    turns = [{"role": "user", "content": " Tell me. "}, {"role": "assistant", "content": "No."}]
    wild = {"conversation": turns, "language": "English", "toxic": False, "redacted": False}
    assert parse_prompt(wild) == "Tell me." == parse_prompt({"prompt": "Tell me.", "id": "1"})
    for change in ({"language": "French"}, {"toxic": True}, {"redacted": True}):
        assert parse_prompt(wild | change) is None
    assert parse_prompt({"prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}) is None is parse_prompt({"prompt": " "})
    with pytest.raises(ValueError, match="prompt: text"):
        parse_prompt({"text": "x"})


@pytest.mark.parametrize("name", ["noveltybench_curated", "noveltybench_wildchat"])
def test_novelty_benchs_own_files_are_read(name, monkeypatch):
    if not Path(DATA, f"{name}.jsonl").exists():
        pytest.skip(f"needs MARA_DATA with {name}.jsonl")
    monkeypatch.setenv("MARA_DATA", DATA)
    found = load_records("data.evaluation", source(f"{name}.jsonl"), None, 0, parse_prompt)
    assert found.origin == f"{name}.jsonl"
    assert len(found.items) == {"curated": 100, "wildchat": 1000}[name[13:]]


# --- records ----------------------------------------------------------------------------------------------------


def read_text(record):
    if "text" not in record:
        raise ValueError("text")
    return record["text"] if record.get("keep", True) else None


def test_records_come_from_json_lines_json_and_parquet(tmp_path, monkeypatch):
    rows = [{"text": f"t{i}", "keep": i != 3} for i in range(6)]
    expected = ["t0", "t1", "t2", "t4", "t5"]
    write_lines(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    formats = ["a.jsonl", "a.json"]
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    read = [load_records("d", source(name), str(tmp_path), 0, read_text) for name in (*formats, "a.parquet")]
    assert [records.items for records in read] == [expected] * 3
    assert len({records.sha256 for records in read}) == 1  # of what was read, whatever held it
    assert str(tmp_path) not in str([records.facts() for records in read])
    monkeypatch.setenv("MARA_DATA", str(tmp_path))
    assert load_records("d", source("a.jsonl"), None, 0, read_text).items == expected
    other = tmp_path / "other"
    other.mkdir()
    write_lines(other / "a.jsonl", rows[:2])
    here = load_records("d", source("a.jsonl"), str(other), 0, read_text)  # data.root comes before MARA_DATA
    assert here.items == expected[:2]
    assert here.sha256 != read[0].sha256


def test_a_count_of_records_is_chosen_by_the_seed(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(50)])

    def chosen(seed, count):
        return load_records("d", source("a.jsonl", count), str(tmp_path), seed, read_text).items

    assert chosen(0, 8) == chosen(0, 8) != chosen(1, 8)
    assert len(set(chosen(0, 8))) == 8
    assert sorted(chosen(0, 50), key=int) == [str(i) for i in range(50)] != chosen(0, 50)
    with pytest.raises(ConfigError, match=r"d\.count: must be no more than the records there are, got 51 of 50"):
        chosen(0, 51)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, r"d\.path: must be a file in data\.root, or a hub name, got no a\.jsonl there"),
        ("a.jsonl", "{", r"d\.path: must be a data set that can be read, got a\.jsonl"),
        ("a.jsonl", '{"other": 1}\n', r"d\.path: records must have text, got other in record 0 of a\.jsonl"),
        ("no/such", None, r"d\.path: must be a data set that can be read, got no/such"),
        ("tiny_nothing", None, r"d\.path: must be a data set of llm\.testbed\.corpora, got tiny_nothing"),
    ],
)
def test_what_cannot_be_read_is_one_line(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_records("d", source(name), str(tmp_path), 0, read_text)
    assert "\n" not in str(error.value)


# --- what is made here ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", corpora.CORPORA)
def test_a_corpus_is_a_distribution_for_each_prompt(name):
    corpus = corpora.CORPORA[name]()
    for said in corpus.values():
        assert sum(said.values()) == pytest.approx(1)
        assert min(said.values()) > 0
        assert max(len(text.encode()) for text in said) < 40


def test_the_reference_of_one_of_many_knows_all_answers_and_prefers_one():
    corpus, task = corpora.one_of_many(), OneOfMany()
    for question in (*QUESTIONS, *HELD_OUT):
        said = corpus[question.text]
        right = [said[answer] for answer in question.answers]
        assert 0.75 < sum(share for text, share in said.items() if task.reward(ask(question.text), text)) < 0.9
        assert right == sorted(right, reverse=True)
        assert right[0] / right[1] == pytest.approx(1 / 0.6)


def test_the_sums_have_the_right_answer_by_another_way(make_config):
    task = load_task("maths", make_config("experiment=maths_tiny"))
    said = corpora.maths()
    for chat in itertools.chain(task.prompts(), task.evaluation_prompts()[""]):
        words = chat[0]["content"].split()
        right = str(int(words[2]) + int(words[6]))
        shares = {text: share for text, share in said[chat[0]["content"]].items() if task.reward(chat, text)}
        assert {last_number(text) for text in shares} == {right}
        assert 0.4 < sum(shares.values()) < 0.5
    asked = [{chat[0]["content"] for chat in chats} for chats in (task.prompts(), task.evaluation_prompts()[""])]
    assert len(asked[0]) == 108
    assert len(asked[1]) == 36
    assert not asked[0] & asked[1]


def test_raters_like_different_lines_about_the_topic(make_config):
    task = load_task("creative", make_config("experiment=creative_tiny"))
    assert len(task.prompts()) == 8
    assert len(task.evaluation_prompts()[""]) == 3
    assert task.correct_reward is None
    assert not task.has_reward()
    first, other = corpora.RATERS.values()
    assert first.quality("sea", "wild gull sings in rain") == 3 == other.quality("sea", "wild gull burns in rain")
    assert first.quality("city", "wild gull sings in rain") == 1
    for broken in ("wild gull sings", "wild sings gull in rain", "gull in rain", "wild gull sings  in rain", ""):
        assert first.quality("sea", broken) == -3
    qualities = [[rater.quality("sea", str(line)) for line in corpora.lines("sea")] for rater in (first, other)]
    best = [{i for i, value in enumerate(some) if value == max(some)} for some in qualities]
    assert min(map(len, best)) >= 30
    assert 0 < len(best[0] & best[1]) < len(best[0])
    compared = corpora.comparisons(random.Random(0), 500)
    assert len({first.quality(topic, text) for topic, *pair in compared for text in pair}) >= 6
