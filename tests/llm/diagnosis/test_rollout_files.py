"""Files of rollouts as the trainers' own functions write them, and files that are damaged."""

import gzip
import json
from collections import Counter

import pytest

from conf.schema.base import ConfigError
from llm.diagnosis.rollout_files import OPENRLHF, OURS, TRL, VERL, Options, read_files

from . import trainer_files
from .trainer_files import GROUP, QUESTION, STEPS, TEXTS, draws

SYSTEM = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": QUESTION}]


def expected():
    return [
        (step, TEXTS[number], trainer_files.reward(number)) for step, numbers in draws().items() for number in numbers
    ]


def expected_of_openrlhf():
    samples = trainer_files.openrlhf_samples()
    return [(step, text.removeprefix(trainer_files.CHATML), reward) for step, (text, reward) in samples]


def rows_of(reading):
    return [(rollout.step, rollout.completion, rollout.reward) for rollout in reading.rollouts]


def read(path, **options):
    return read_files([path], Options(**options))


def test_trl(tmp_path):
    pytest.importorskip("trl", reason="needs the extra trl")
    folder = trainer_files.write_trl(tmp_path / "policy")
    reading = read(folder)
    assert reading.trainer == TRL
    assert rows_of(reading) == expected()  # the reward of `right`, not the numbers of log_extra
    assert {rollout.prompt_name for rollout in reading.rollouts} == {QUESTION}
    assert reading.logged["kl"][-1] == (STEPS, pytest.approx(0.01 * STEPS))
    (folder / "trainer_state.json").rename(tmp_path / "elsewhere.json")
    both = read(folder)  # control: without it every number before `advantage` counts, and this is said
    assert rows_of(both) != expected()
    assert any("the reward is the sum of right, length" in note for note in both.notes)
    assert rows_of(read(folder, columns={"reward": "right"})) == expected()
    assert rows_of(read(folder / "completions" / "completions_00003.parquet", columns={"reward": "right"})) == [
        row for row in expected() if row[0] == 3
    ]


def test_verl(tmp_path):
    reading = read(trainer_files.write_verl(tmp_path / "rollouts"))
    assert reading.trainer == VERL
    assert rows_of(reading) == expected()
    assert all(rollout.prompt == SYSTEM for rollout in reading.rollouts)
    assert sum("answer=pred" in note for note in reading.notes) == 1
    named = read(tmp_path / "rollouts", columns={"answer": "pred"})
    assert Counter(rollout.answer for rollout in named.rollouts).keys() == {"1", "2", ""}
    assert not any("answer=pred" in note for note in named.notes)


def test_openrlhf(tmp_path):
    table = read(trainer_files.write_openrlhf_table(tmp_path / "table"))
    assert table.trainer == OPENRLHF
    assert rows_of(table) == expected_of_openrlhf()  # of the last table, which holds the others
    assert all(rollout.prompt == SYSTEM for rollout in table.rollouts)
    pytest.importorskip("tensorboard", reason="needs the extra tracking")
    events = read(trainer_files.write_openrlhf_events(tmp_path / "events"))
    assert events.trainer == OPENRLHF
    assert rows_of(events) == expected_of_openrlhf()
    whole = read(tmp_path / "table", split="nowhere")
    assert whole.rollouts[0].completion.startswith("system\n")
    assert any("nothing that divides them" in note for note in whole.notes)


def test_a_run_folder(tmp_path):
    (tmp_path / "config.yaml").write_text("objective: {beta: 0.03, direction: reverse}\n")
    row = {"step": 0, "prompt": 0, "completion": "a", "reward": 1.0, "policy_seq_logp": -1.0, "ref_seq_logp": -2.0}
    (tmp_path / "samples.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({**row, "prompt": 1, "step": 4}) + "\n"
    )
    reading = read(tmp_path)
    assert reading.trainer == OURS
    assert [rollout.prompt for rollout in reading.rollouts] == ["", "prompt 1 of step 4"]
    assert (reading.rollouts[0].policy_logp, reading.rollouts[0].ref_logp) == (-1.0, -2.0)
    assert reading.config["objective"]["beta"] == 0.03


def test_any_json_lines_table_or_list(tmp_path):
    rows = [{"query": "q", "response": "a", "score": 1, "old_log_probs": [-1.0, -0.5], "ref_log_prob": -2.0}]
    text = json.dumps(rows[0]) + "\n"
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.jsonl", "b.json", "c.jsonl.gz"):
        (rollout,) = read(tmp_path / name).rollouts
        assert (rollout.prompt, rollout.completion, rollout.reward) == ("q", "a", 1.0)
        assert (rollout.policy_logp, rollout.ref_logp, rollout.step) == (-1.5, -2.0, None)
    (tmp_path / "d.csv").write_text("said,points\nhello,0.5\n")
    (rollout,) = read(tmp_path / "d.csv", columns={"completion": "said", "reward": "points"}).rollouts
    assert (rollout.completion, rollout.reward) == ("hello", 0.5)


def test_a_last_line_that_is_cut_off_is_left_out_and_said(tmp_path):
    folder = trainer_files.write_verl(tmp_path / "rollouts")
    last = folder / f"{STEPS}.jsonl"
    last.write_bytes(last.read_bytes()[:-40])
    reading = read(folder)
    assert rows_of(reading) == expected()[:-1]
    assert any(f"line {GROUP}, the last one, is cut off" in note for note in reading.notes)
    lines = last.read_text().splitlines()
    last.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]))
    with pytest.raises(ConfigError, match="line 2: must be one JSON object"):  # control: in the middle it is an error
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "the file is empty"),
        ("binary.jsonl", bytes(range(256)) * 4, "binary.jsonl"),
        ("binary.parquet", b"PAR1" + bytes(range(200)), "not a complete Parquet file"),
        ("other.jsonl", b'{"a": 1}\n', "no column with completions"),
        ("list.jsonl", b"[1, 2]\n", "list.jsonl"),
        ("text.jsonl", b'{"completion": "a", "reward": "high"}\n', "reward must be a number"),
        ("infinite.jsonl", b'{"completion": "a", "reward": Infinity}\n', "infinite.jsonl"),
        ("trainer_state.json", b'{"log_history": []}', "no completions"),
        ("x.table.json", b'{"columns": ["a"]}', "must be a table"),
        ("events.out.tfevents.1", b"nothing at all", "has no texts"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_a_folder_without_rollouts_and_no_file(tmp_path):
    with pytest.raises(ConfigError, match="no rollouts: neither completions"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="no such file or folder"):
        read(tmp_path / "nowhere")
