"""python -m core.explain, end to end: it prints the targets, and reports a mistake in one line."""

import math
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.explain import HELP, main, started_by
from core.mara import anchor_reference, augment_reward
from core.small_problem import KEYS
from core.targets import forward_crossover_beta, forward_kl_target, reverse_crossover_beta, reverse_kl_target

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ("reward=[1,1,0]", "ref=[.3,.02,.68]", "beta=.01")


def explain(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "core.explain", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def rows_of(text: str, outcomes: int) -> list[list[str]]:
    """The cells of the first table, without its heading."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:1] == ["outcome"])
    return [line.split() for line in lines[first + 1 : first + 1 + outcomes]]


# --- end to end ------------------------------------------------------------------------------------------


def test_the_command_prints_the_targets() -> None:
    child = explain(*EXAMPLE)
    assert child.returncode == 0
    assert child.stderr == ""
    rows = rows_of(child.stdout, 3)
    assert rows[0] == ["0", "1", "0.3", "anchor", "0.9375", "0.9311", "0.5000", "0.4966"]
    assert rows[1] == ["1", "1", "0.02", "yes", "0.0625", "0.0621", "0.5000", "0.4966"]
    assert rows[2][:4] == ["2", "0", "0.68", "no"]
    assert rows[2][5] == "0.0068"
    assert "reward >= 1 (the best reward on the support, since no threshold= is given)" in child.stdout
    assert "anchor: outcome 0" in child.stdout
    assert "2.7081 by eq. 7, 2.7081 in the target, 0.0000 after MARA" in child.stdout
    assert "15 to 1 as in the reference" in child.stdout
    assert "at constant beta effectively 1.01 of 2 good outcomes, 1.01 after MARA" in child.stdout
    assert "with beta falling linearly from 0.16 to 0.01, 1.05 and 1.09" in child.stdout
    *_, verdict, following = child.stdout.splitlines()
    assert verdict == (
        "Under reverse and forward KL the optimum collapses onto outcome 0, which has 93.8% of the good mass "
        "(effectively 1.26 of 2 good outcomes); after MARA, effectively 2.00."
    )
    assert following.startswith("next: python -m didactic -m problem.name=table 'problem.ref=[0.3,0.02,0.68]' ")


def test_help_teaches_with_examples_that_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    child = explain("--help")
    assert child.returncode == 0
    assert child.stderr == ""
    assert child.stdout == HELP
    assert printed(capsys, "-h") == printed(capsys, *EXAMPLE, "--help") == HELP
    for key in KEYS:
        assert key in HELP
    examples = [line.split("explain ")[1] for line in HELP.splitlines() if line.startswith("    mara explain")]
    assert len(examples) == 5
    monkeypatch.chdir(tmp_path)  # one writes a page
    for example in examples:
        assert printed(capsys, *shlex.split(example))


def test_a_mistake_ends_the_command_with_status_1() -> None:
    child = explain("reward=[1,2]", "ref=[.5,.5]", "beta=much")
    assert child.returncode == 1
    assert child.stdout == ""
    assert child.stderr == "beta: must be a finite number, got 'much'\n"


# --- what is printed -------------------------------------------------------------------------------------


def close(cell: str, logp: torch.Tensor) -> bool:
    if cell.startswith("e^"):
        return abs(float(cell[2:]) - float(logp)) <= 0.5
    return math.isclose(float(cell), float(logp.exp()), rel_tol=0.05, abs_tol=5e-5)


@pytest.mark.parametrize("beta", [0.001, 0.1, 5.0])
@pytest.mark.parametrize(
    ("reward", "ref", "threshold"),
    [
        ([1.0, 1.0, 0.0], [0.3, 0.02, 0.68], None),
        ([0.75, 1.0, 0.0, 0.9], [0.2, 0.1, 0.6, 0.1], 0.7),
        ([0.0, 1.0, 1.0, 3.0], [0.34, 0.33, 0.33, 0.0], None),
        ([2.0], [1.0], None),
        ([0.0, 1.0], [0.5, 0.5], 5.0),
    ],
)
def test_every_cell_is_the_value_of_its_target(
    reward: list[float], ref: list[float], threshold: float | None, beta: float, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [] if threshold is None else [f"threshold={threshold}"]
    text = printed(capsys, f"reward={reward}", f"ref={ref}", f"beta={beta}", *more)
    r, logp = torch.tensor(reward, dtype=torch.float64), torch.tensor(ref, dtype=torch.float64).log()
    if threshold is None:
        threshold = max(x for x, p in zip(reward, ref, strict=True) if p > 0)
        assert f"reward >= {threshold:g} (the best reward on the support" in text
    else:
        assert f"reward >= {threshold:g}\n" in text
        assert "best reward" not in text
    anchored_reward, anchored_ref = anchor_reference(r, logp, threshold=threshold)
    columns = [
        reverse_kl_target(logp, r, beta),
        forward_kl_target(logp, r, beta),
        reverse_kl_target(logp, augment_reward(r, logp, beta=beta, threshold=threshold), beta),
        forward_kl_target(anchored_ref, anchored_reward, beta),
    ]
    for i, row in enumerate(rows_of(text, len(reward))):
        if row[3:5] == ["off", "support"]:
            row[3:5] = ["off support"]
        assert [float(x) for x in row[:3]] == [i, reward[i], ref[i]]
        good = reward[i] >= threshold and ref[i] > 0
        assert row[3] in (("anchor", "yes") if good else ("no", "off support"))
        assert all(close(cell, column[i]) for cell, column in zip(row[4:], columns, strict=True))
    kinds = [row[3] for row in rows_of(text, len(reward))]
    assert kinds.count("anchor") == (1 if {"anchor", "yes"} & set(kinds) else 0)


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, *EXAMPLE).splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["outcome"])
    assert len({len(line) for line in lines[start : start + 4]}) == 1


def test_crossovers_are_those_of_the_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    reward, ref = [0.75, 1.0, 0.0], [0.0174, 0.0026, 0.98]
    text = printed(capsys, f"reward={reward}", f"ref={ref}", "beta=.1", "threshold=.75")
    r, logp = torch.tensor(reward, dtype=torch.float64), torch.tensor(ref, dtype=torch.float64).log()
    for better, likelier in ((1, 0), (1, 2), (0, 2)):
        (line,) = (x for x in text.splitlines() if f"{better} below, {likelier} above" in x)
        reverse = reverse_crossover_beta(logp[better], logp[likelier], r[better], r[likelier])
        forward = forward_crossover_beta(logp, r, better, likelier)
        cells = [f"{float(x):.4g}" if x < math.inf else "none" for x in (reverse, forward)]
        assert line.split()[-2:] == cells
    assert "0.1315" in text
    assert "none" in text
    assert "crossover: none" not in text
    nothing = printed(capsys, "reward=[1,0]", "ref=[.7,.3]", "beta=.1")
    assert "crossover: none; no outcome has a higher reward than one that is likelier under the reference" in nothing


def test_of_many_crossovers_those_next_to_beta_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    reward, ref = [0.0, 1.0, 2.0, 3.0, 4.0], [0.5, 0.25, 0.15, 0.07, 0.03]
    text = printed(capsys, f"reward={reward}", f"ref={ref}", "beta=1")
    assert sum(" below, " in line for line in text.splitlines()) == 6
    assert "and 4 more, further from beta" in text


def test_entropy_leaves_forward_out_and_enters_reverse(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *EXAMPLE, "entropy_coef=.5")
    assert "forward KL has no closed form with entropy_coef > 0" in text
    assert "target forward" not in text
    r, logp = torch.tensor([1, 1, 0.0]).double(), torch.tensor([0.3, 0.02, 0.68], dtype=torch.float64).log()
    target = reverse_kl_target(logp, r, 0.01, 0.5)
    assert all(close(row[4], target[i]) for i, row in enumerate(rows_of(text, 3)))
    assert "target forward" in printed(capsys, *EXAMPLE)  # control


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reward=[1,1]", "ref=[.5,.5]", "beta=.1"], "spreads evenly over the good outcomes (effectively 2.00 of 2"),
        (
            ["reward=[1,1]", "ref=[.6,.4]", "beta=.1"],
            "favours outcome 0, which has 60.0% of the good mass (effectively 1.96",
        ),
        (["reward=[1,1]", "ref=[.95,.05]", "beta=.1"], "collapses onto outcome 0, which has 95.0% of the good mass"),
        (["reward=[1,1]", "ref=[.05,.95]", "beta=.1"], "collapses onto outcome 1, which has 95.0%"),
        (["reward=[1,0]", "ref=[.5,.5]", "beta=.1"], "Only outcome 0 is good, so MARA has nothing to equalise."),
        (["reward=[1,0]", "ref=[.5,.5]", "beta=.1", "threshold=2"], "No outcome is good at this threshold"),
        (["reward=[1,1,0]", "ref=[.01,.01,.98]", "beta=9"], "and the good outcomes have 2."),
        (["reward=[0,.9,1]", "ref=[.34,.33,.33]", "beta=.001", "threshold=.9"], "outcome 2, which has over 99.9%"),
    ],
)
def test_the_sentence_is_computed(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    last, following = printed(capsys, *arguments).splitlines()[-2:]
    assert following.startswith("next: python -m didactic -m ")
    assert sentence in last
    assert last.endswith(".")
    assert sentence not in printed(capsys, "reward=[1,1]", "ref=[.97,.03]", "beta=.1")  # control


def test_lists_without_brackets_and_spaces_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    expected = printed(capsys, *EXAMPLE)
    assert printed(capsys, "reward=1,1,0", "ref=.3,.02,.68", "beta=1e-2") == expected
    assert printed(capsys, "beta= .01", "ref=[ .3, .02, .68 ]", "reward=[1, 1., 0]") == expected


# --- answers -----------------------------------------------------------------------------------------------------

SPELT = ["reward=[1,1,1,1,0]", "ref=[.4,.1,.06,.04,.4]", "beta=.1", 'classes=["Mars","Venus","Venus","Venus",""]']


def test_answers_are_shown_beside_sequences(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "165")
    assert main(SPELT) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.partition("answers, by")[2].splitlines()[2:-1]}
    assert list(rows) == ["Mars", "Venus"]
    venus, mars = ([float(cell) for cell in rows[name][2:]] for name in ("Venus", "Mars"))
    assert mars[0] / venus[0] == pytest.approx(2, rel=1e-3)  # without MARA, as in the reference
    assert venus[2] == pytest.approx(3 * mars[2], abs=2e-4)  # over sequences, by the number of spellings
    assert mars[4:] == venus[4:]  # over answers
    by_answer = [float(line.split()[-2]) for line in printed.splitlines()[3:7]]
    assert by_answer[1:] == pytest.approx([0.25, 0.15, 0.10], abs=1e-4)  # the reference's phrasing
    assert max(map(len, printed.splitlines()[:-1])) <= 165
    assert main(SPELT[:3]) == 0
    assert "answers" not in capsys.readouterr().out  # control: only if asked for


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("classes=[1,2]", "classes: must have one name per outcome, 5 as in reward, got 2"),
        ("classes=Mars", "classes: must be a list of names or whole numbers"),
        ("classes=[1.5,1,1,1,1]", "classes: must be a list of names or whole numbers"),
    ],
)
def test_a_mistake_in_the_classes(classes: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SPELT[:3], classes]) == 1
    assert capsys.readouterr().err.startswith(message)


# --- width -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_tables_fit_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: Any, width: int) -> None:
    """Eight answers with long names: all numbers are there, in tables that begin with the names."""
    names = [f"answer_{n}_{'with_a_long_name_' * 3}" for n in range(8)]
    problem = [f"reward={[1] * 8}", f"ref={[0.125] * 8}", "beta=.1", f"classes={names}"]
    monkeypatch.setenv("COLUMNS", "1000")
    wide = printed(capsys, *problem)
    monkeypatch.setenv("COLUMNS", str(width))
    text = printed(capsys, *problem)
    tables = [line for line in text.splitlines() if "0.1250" in line or "MARA forward" in line]
    assert max(map(len, tables)) <= width < max(map(len, wide.splitlines()))
    assert text.count("0.1250") == wide.count("0.1250") == 8 * 6 + 8 * 7
    joined = "".join(text.split())
    assert all(name in joined or name[:20] in joined for name in names)


def test_the_next_command_is_typed_as_this_one_was():
    assert started_by(["/usr/bin/python", "/venv/bin/mara", "explain", "reward=[1,1]"]) == ["mara"]
    assert started_by(["python", "-m", "launch.cli.mara", "explain"]) == ["mara"]
    assert started_by(["python", "-m", "core.explain", "beta=1"]) == ["python", "-m"]
