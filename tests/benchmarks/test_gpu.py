"""The table of a GPU: its parts on the CPU, and what it says of parts that fail, hang or are left out."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.measure import MEASURES, relative_difference
from benchmarks.gpu.settings import MINUTES, PARTS
from benchmarks.gpu.table import Row, failed, markdown, write_table

ROOT = Path(__file__).parents[2]
ROW = 'print(json.dumps({"quantity": "speed", "value": 2.5, "unit": "tokens/s", "check": ""}), flush=True)'


@pytest.fixture
def programs(monkeypatch):
    """Parts whose programs are given by the test, with a limit of two seconds."""
    texts: dict[str, str] = {}

    def add(part, text, seconds=2, needs=None):
        texts[part] = f"import json, subprocess, sys, time; {text}"
        monkeypatch.setitem(PARTS, part, PARTS["model"]._replace(seconds=seconds, needs=needs))

    monkeypatch.setattr(command, "part_command", lambda part, *_: [sys.executable, "-S", "-c", texts[part]])
    monkeypatch.setattr(command, "GRACE", 0.3)
    return add


def test_a_part_that_fails_or_hangs_is_named_and_the_others_go_on(programs, tmp_path):
    programs("fails", f"{ROW}; sys.exit('no memory')", seconds=60)
    with_child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    programs("hangs", f"{ROW}; {with_child}; time.sleep(60)", seconds=6)
    programs("is missing", "pass", needs="a_package_that_nobody_has")
    programs("works", f"print('not a row'); {ROW}", seconds=60)
    start = time.monotonic()
    rows = command.run_parts(["fails", "hangs", "is missing", "works"], "cpu", {"torch": "2"}, 1.0, tmp_path)
    assert time.monotonic() - start < 55
    speeds = [row.part for row in rows if row.quantity == "speed"]
    assert speeds == ["fails", "hangs", "works"]  # what was measured stays
    last = {row.part: row for row in rows}
    assert last["fails"].check == "failed"
    assert last["fails"].value.endswith(": no memory")
    assert (last["hangs"].check, last["hangs"].value) == ("ran over", "ran over its 6 s")
    assert last["is missing"].check == "left out"
    assert last["works"].check == "ok"
    assert {row.part for row in failed(rows)} == {"fails", "hangs"}
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == [row._asdict() for row in rows]


def test_nothing_starts_after_the_limit_of_all_parts(programs, tmp_path):
    programs("works", ROW, seconds=60)
    (row,) = command.run_parts(["works"], "cpu", {}, 0.0, tmp_path)
    assert row.check == "not run"


def test_the_table_is_written_after_each_part(programs, tmp_path, monkeypatch):
    programs("one", ROW, seconds=60)
    programs("two", ROW, seconds=60)
    written = []
    monkeypatch.setattr(command, "write_table", lambda out, facts, rows: written.append(len(rows)))
    command.run_parts(["one", "two"], "cpu", {}, 1.0, tmp_path)
    assert written == [2, 4]


def test_every_part_has_a_measure():
    assert set(MEASURES) == set(PARTS)
    assert MINUTES == 8


def test_the_table_on_a_page(tmp_path):
    rows = [Row("packed", "a|b", 1 / 3, "s", "must be <= 0.1"), Row("trl", "status", None)]
    assert "| packed | a\\|b | 0.3333 | s | must be <= 0.1 |" in markdown({"card": "H200"}, rows)
    assert "| trl | status | - |  |  |" in markdown({}, rows)
    write_table(tmp_path / "new", {}, rows)
    assert failed(rows) == rows[:1]


def test_a_difference_is_relative_to_the_largest_value():
    import torch

    a = torch.tensor([1.0, 4.0])
    assert relative_difference(a, a) == 0
    assert relative_difference(a + 1, a) == 0.25


def table(*arguments):
    line = [sys.executable, "-m", "benchmarks.gpu", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=850)


def test_an_unknown_part_and_a_missing_gpu_are_one_line():
    ended = table("--parts", "speed")
    assert ended.returncode == 2
    assert "--parts: there is no speed" in ended.stderr
    import torch

    if not torch.cuda.is_available():
        ended = table("--device", "cuda")
        assert ended.returncode == 2
        assert "no GPU is available" in ended.stderr


@pytest.mark.slow
@pytest.mark.long
def test_the_command_measures_a_tiny_model_on_the_cpu(tmp_path):
    parts = "model,packed,decoding,training"
    ended = table("--device", "cpu", "--parts", parts, "--out", tmp_path, "--minutes", 40)  # of a busy machine
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [Row(**row) for row in json.loads((tmp_path / "results.json").read_text())["rows"]]
    assert [row.part for row in rows if row.quantity == "status" and row.check == "ok"] == parts.split(",")
    values = {(row.part, row.quantity): row.value for row in rows}
    assert values["packed", "log-probabilities, float32: packed against whole rows"] < 1e-5
    assert values["packed", "log-probabilities, bfloat16: packed against whole rows"] > 1e-5  # control: it is rounded
    assert values["decoding", "tokens a second"] > 0
    assert 0 < values["training", "model flop utilisation of the training passes"] < 1
    assert "| training | peak memory |" in (tmp_path / "results.md").read_text()


def test_vllm_samples_in_its_own_environment(tmp_path, monkeypatch, capsys):
    """With a module in place of vLLM, which is asked for completions of the right number and length."""
    from benchmarks.fixed_lengths import build
    from benchmarks.gpu.measure import Place, measure_vllm

    (tmp_path / "vllm.py").write_text(
        "from types import SimpleNamespace as N\n"
        "__version__ = 'made up'\n"
        "class SamplingParams(N): pass\n"
        "class LLM(N):\n"
        "    def generate(self, prompts, options, use_tqdm):\n"
        "        assert options.temperature == 1.0 and options.ignore_eos\n"
        "        assert {len(p['prompt_token_ids']) for p in prompts} == {32}\n"
        "        output = N(token_ids=[0] * options.max_tokens)\n"
        "        return [N(outputs=[output] * options.n) for _ in prompts]\n"
    )
    place = Place("cpu", str(tmp_path))
    build(place.full, place.sizes.shape)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MARA_VLLM_PYTHON", sys.executable)
    measure_vllm(place)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    values = {row["quantity"]: (row["value"], row["check"]) for row in rows}
    assert values["tokens sampled"] == (2 * 4 * 8, "ok")
    assert values["version"] == ("made up", "")
    monkeypatch.setattr("llm.rollout.server.vllm_python", no_environment)
    measure_vllm(place)  # control
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["check"] == "left out"


def no_environment(given):
    from conf.schema.base import ConfigError

    raise ConfigError("rollout.python: no environment with vLLM was found")
