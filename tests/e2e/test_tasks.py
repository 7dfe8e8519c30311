"""The commands of docs/tasks.md with the shipped experiments, in a few steps."""

import json
import os

import pytest

from .typed import llm


def read(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "summary.json").read_text()), rows


REWARDS = """
def short(prompts, completions):
    assert len(prompts) == len(completions) and prompts[0][-1]["role"] == "user"
    return [-float(len(text)) for text in completions]


def fragile(prompts, completions):
    return [1 / (len(text) - 1) for text in completions]
"""


@pytest.mark.slow
def test_functions_and_failures_by_the_commands_a_user_types(tmp_path):
    (tmp_path / "mine.py").write_text(REWARDS)
    common = ("steps=2", "evaluation_completions=64", "checkpoint.keep=0")
    llm(
        *(*common, "+reward.parts.task={function: task, weight: 2}", "hydra.run.dir=sum"),
        "+reward.parts.short={function: mine:short, weight: .01}",
        folder=tmp_path,
    )
    summary, rows = read(tmp_path / "sum")
    for row in rows:
        assert row["reward/raw"] == pytest.approx(2 * row["reward/task"] + 0.01 * row["reward/short"], abs=1e-5)
        assert row["reward/short"] < -5
        assert "reward/invalid_share" not in row
    assert summary["reward/mean"] < 2

    fragile = "+reward.parts.f.function=mine:fragile"  # the tiny model says "1" or "2" 8 times in 100
    said = "".join(llm(*common, fragile, "hydra.run.dir=stopped", folder=tmp_path, status=1))
    (line,) = [line for line in said.splitlines() if line.startswith("llm: ")]
    assert "reward.parts.f: rewards must be finite, got ZeroDivisionError" in line
    assert "of the prompt 'Generate a uniformly" in line
    assert "reward.on_failure=drop" in line
    assert not (tmp_path / "stopped" / "summary.json").exists()

    said = "".join(llm(*common, fragile, "reward.on_failure=drop", "hydra.run.dir=dropped", folder=tmp_path))
    summary, rows = read(tmp_path / "dropped")
    assert all(0 < row["reward/invalid_share"] < 0.3 for row in rows)
    assert said.count("warning: reward.parts.f") == 1


@pytest.mark.slow
def test_one_of_many_counts_coverage_of_each_question(tmp_path):
    options = ("experiment=one_of_many", "transform=mara", "steps=3", "evaluation_completions=192")
    said = "".join(llm(*options, "checkpoint.keep=0", f"hydra.run.dir={tmp_path / 'run'}"))
    summary, rows = read(tmp_path / "run")
    for prefix, questions in (("", 12), ("held_out/", 4)):
        own = [value for key, value in summary.items() if key.startswith(f"{prefix}coverage/") and key[-3:] != "/se"]
        assert len(own) == questions
        assert summary[f"{prefix}coverage"] == pytest.approx(sum(own) / questions)
        assert summary[f"{prefix}completions"] == 16 * questions
    assert 0.7 < summary["base"]["correct"] < 0.9
    assert "held_out/" in said
    assert "coverage" in said
    assert all(sum(key.startswith("coverage/") for key in row) == 4 for row in rows)
    assert (tmp_path / "run" / "figure.png").stat().st_size > 10_000


@pytest.mark.long
def test_creative_in_small_takes_the_path_of_the_large(tmp_path):
    options = ("experiment=creative_tiny", "transform=mara", "steps=3", "evaluation_completions=96")
    llm(*options, "checkpoint.every_steps=2", f"hydra.run.dir={tmp_path / 'run'}")
    summary, rows = read(tmp_path / "run")
    for key in ("reward/mean", "reward/se", "out_of_distribution/mean", "out_of_distribution/se", "entropy_nats"):
        assert isinstance(summary[key], float)
        assert summary[key] != summary["base"][key]
    assert "correct" not in summary
    assert "correct" not in rows[0]
    # A tenth of a group is good: 3 or 4 of 32, more where rewards are equal.
    assert all(0.09 < row["mara/good_share"] < 0.3 for row in rows)
    assert summary["data"]["train"]["records"] == 8
    assert len(summary["data"]["evaluation"]["sha256"]) == 64
    assert os.environ["MARA_CACHE"] not in (tmp_path / "run" / "summary.json").read_text()
    manifest = json.loads(next((tmp_path / "run" / "checkpoints").glob("*/manifest.json")).read_text())
    assert {"reward/quality", "data/train", "data/evaluation", "reference"} == set(manifest["identity"])


@pytest.mark.slow
@pytest.mark.long
def test_creative_reads_novelty_benchs_file_and_another_data_root(tmp_path):
    prompts = [
        {"id": f"curated-{i}", "category": "c", "prompt": f"Say {i}.", "prompt_paraphrases": []} for i in range(3)
    ]
    (tmp_path / "n.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    options = ("experiment=creative_tiny", "steps=1", "evaluation_completions=6", "checkpoint.keep=0")
    llm(*options, f"data.root={tmp_path}", "data.evaluation.path=n.jsonl", f"hydra.run.dir={tmp_path / 'run'}")
    summary, _ = read(tmp_path / "run")
    assert summary["data"]["evaluation"]["origin"] == "n.jsonl"
    assert summary["completions"] == 6
    assert str(tmp_path) not in (tmp_path / "run" / "summary.json").read_text()


@pytest.mark.slow
@pytest.mark.long
def test_maths_in_small(tmp_path):
    options = ("experiment=maths_tiny", "steps=3", "evaluation_completions=72", "checkpoint.keep=0")
    llm(*options, f"hydra.run.dir={tmp_path / 'run'}")
    summary, rows = read(tmp_path / "run")
    assert 0.2 < summary["base"]["correct"] < 0.6
    assert summary["data"]["evaluation"]["records"] == 36
    assert summary["completions"] == 72
    assert rows[-1]["correct"] > 0.2
