"""Samples of the first and last step of a run."""

import json

import pytest

from conf.schema.base import ConfigError
from launch.analysis.samples import (
    MAX_CHARACTERS,
    MAX_COMPLETIONS,
    MAX_MOLECULES,
    MAX_PROMPTS,
    molecule_drawing,
    read_samples,
)


def write(folder, rows):
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def completion(step, text, reward=1.0, prompt=0):
    return {"step": step, "prompt": prompt, "completion": text, "reward": reward}


def test_the_first_and_the_last_step_are_read(tmp_path):
    texts = [(0, "a"), (0, "b"), (0, "a"), (10, "middle"), (20, "c"), (20, "c")]
    first, last = read_samples(write(tmp_path, [completion(*pair) for pair in texts]))
    assert (first.step, last.step) == (1, 21)
    assert [(s.text, s.count, s.reward) for s in first.prompts[0].samples] == [("a", 2, 1.0), ("b", 1, 1.0)]
    assert [(s.text, s.count) for s in last.prompts[0].samples] == [("c", 2)]
    assert (first.prompts[0].title, first.prompts[0].others) == ("", 0)
    assert [prompt.repeats for prompt in (*first.prompts, *last.prompts)] == [True, True]


def test_one_step_is_shown_once_and_none_not_at_all(tmp_path):
    assert read_samples(tmp_path) == []
    assert read_samples(write(tmp_path, [])) == []
    assert len(read_samples(write(tmp_path, [completion(3, "a")]))) == 1


def test_a_few_of_many_are_shown_without_a_choice_by_reward(tmp_path):
    rows = [completion(0, f"{number:02}", reward=number, prompt=prompt) for prompt in range(5) for number in range(9)]
    (step,) = read_samples(write(tmp_path, rows))
    assert [prompt.title for prompt in step.prompts] == [f"prompt {n + 1} of the step" for n in range(MAX_PROMPTS)]
    assert [sample.reward for sample in step.prompts[1].samples] == list(range(MAX_COMPLETIONS))
    assert step.prompts[1].others == 9 - MAX_COMPLETIONS
    assert not step.prompts[1].repeats


def test_a_long_completion_is_shortened(tmp_path):
    (step,) = read_samples(write(tmp_path, [completion(0, "x" * (MAX_CHARACTERS + 1234))]))
    text = step.prompts[0].samples[0].text
    assert text == "x" * MAX_CHARACTERS + " [and 1,234 more characters]"


def test_molecules_are_drawn(tmp_path):
    pytest.importorskip("rdkit")
    rows = [{"step": 0, "smiles": "C" * (number + 1), "score": None if number else 0.5} for number in range(9)]
    (step,) = read_samples(write(tmp_path, rows))
    (shown,) = step.prompts
    assert [(s.text, s.reward) for s in shown.samples[:2]] == [("C", 0.5), ("CC", None)]
    assert all("<svg" in sample.svg for sample in shown.samples)
    assert (len(shown.samples), shown.others) == (MAX_MOLECULES, 9 - MAX_MOLECULES)
    for smiles in ("C(", "", "C" * 5000, "<script>"):
        assert molecule_drawing(smiles) == ""


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"completion": "a"}', '{"step": 0}', '{"step": 0, "completion": "a", "reward": "x"}']
)
def test_a_foreign_file_is_one_line(tmp_path, line):
    (tmp_path / "samples.jsonl").write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"samples.jsonl"):
        read_samples(tmp_path)
