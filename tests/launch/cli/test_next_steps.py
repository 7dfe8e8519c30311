"""The commands that are shown after a run exist, for every command and also in folders with odd names."""

import pytest

from conf.schema.commands import COMMANDS
from launch.cli.compose import compose
from launch.cli.next_steps import STEPS, after_run, after_status, after_sweep, how_to_continue, path_override
from launch.runs.closing import is_managed, next_line, show_next
from tests.next_lines import check_next, next_commands

from ..made_up import write_run

REQUIRED = {  # keys that have no default
    "llm.ensemble": ["policy=POLICY", "reference=tiny"],
    "llm.evaluate": ["run=POLICY", "equivalence=exact"],
    "chem.pretrain": ["data=molecules.smi"],
    "chem.score": ["file=molecules.smi"],
    "chem.evaluate": ["file=scores.csv"],
}
OTHERS = [  # (package, overrides): further sources of the steps
    ("llm.ensemble", ["policy=tiny", "reference=tiny"]),
    ("llm.evaluate", ["model=tiny", "experiment=one_two", "max_new_tokens=8", "equivalence=exact"]),
    ("llm.evaluate", ["generations=a.jsonl", "equivalence=exact"]),
    ("chem.sample", ["format=smi"]),
    ("chem.evaluate", ["file=scores.csv", "score_column=qed"]),
    ("chem.stock", ["inventory=default"]),
    ("chem.benchmark", ["benchmark=molexp", "seeds=2"]),
]


def write(folder, package, overrides):
    config = dict(compose(package, overrides, checked=False))
    words = ["python", "-m", package, *overrides]
    write_run(folder, config, package=package, command=words)


@pytest.mark.parametrize("name", ["run", "a b'c ${x}"])
@pytest.mark.parametrize(("package", "overrides"), [*((p, REQUIRED.get(p, [])) for p in COMMANDS), *OTHERS])
def test_the_commands_after_a_run_can_be_typed(tmp_path, monkeypatch, capsys, package, overrides, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "POLICY", "llm", ["experiment=one_two"])
    run = tmp_path / name
    write(run, package, overrides)
    show_next(after_run(run))
    commands = check_next(capsys.readouterr().out, tmp_path, monkeypatch)
    if package not in ("llm.evaluate", "chem.evaluate", "chem.benchmark"):
        assert all(name in text.replace("\\", "").replace("'\"'\"'", "'") for text in commands)


def test_every_command_has_steps():
    assert set(STEPS) == set(COMMANDS)


def test_a_wrong_command_is_found(tmp_path, monkeypatch):
    """The check of these tests fails where a command does not exist; the control."""
    for wrong in ("python -m llm.evaluate ran=x", "python -m launch.collect --nothing x"):
        with pytest.raises(AssertionError):
            check_next(f"{next_line(wrong)}\n", tmp_path, monkeypatch)
    with pytest.raises(ModuleNotFoundError):
        check_next("next: python -m launch.nothing x\n", tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        check_next("no command\n", tmp_path, monkeypatch)
    assert next_commands("a\nnext: b c\n") == ["b c"]


def test_the_benchmark_goes_on_with_more_seeds(tmp_path):
    write(tmp_path / "run", "chem.benchmark", ["seeds=3", "benchmark=molexp"])
    assert after_run(tmp_path / "run") == ["python -m chem.benchmark benchmark=molexp seeds=6"]


def test_an_average_is_evaluated_on_the_task_of_its_policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "POLICY", "llm", ["experiment=one_of_many", "max_new_tokens=9"])
    write(tmp_path / "run", "llm.ensemble", ["policy=POLICY", "reference=tiny"])
    (text,) = after_run(tmp_path / "run")
    assert "model=run/policy experiment=one_of_many max_new_tokens=9" in text


@pytest.mark.parametrize(
    ("states", "names"),
    [
        (["running", "missing", "finished"], ["watch", "collect"]),
        (["failed", "finished"], ["resume", "collect"]),
        (["finished"], ["collect"]),
        (["missing"], ["resume"]),
        (["queued"], ["watch"]),
    ],
)
def test_what_follows_depends_on_the_states(tmp_path, monkeypatch, states, names):
    monkeypatch.chdir(tmp_path)
    assert after_status(tmp_path / "s", states) == [f"python -m launch.{name} s" for name in names]


def test_a_sweep_without_a_finished_run_is_not_collected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert after_sweep(tmp_path / "s", 0, 2) == ["python -m launch.resume s"]
    assert after_sweep(tmp_path / "s", 1, 0) == ["python -m launch.collect s"]


def test_an_interrupted_run_goes_on_with_its_sweep_or_its_ranks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "s" / "0"
    assert how_to_continue(run, None) == []  # nothing is there yet
    write_run(run, {}, "preempted")
    assert how_to_continue(run, None) == ["next: python -m launch.resume s/0"]
    assert how_to_continue(run, run.parent) == ["next: python -m launch.resume s"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    (line,) = how_to_continue(run, None)
    assert line.endswith("start the same command again with hydra.run.dir=s/0")
    monkeypatch.setenv("MARA_CWD", str(tmp_path))  # a launcher has started it, and says so
    assert is_managed()
    assert how_to_continue(run, None) == []


def test_a_path_is_quoted_for_hydra_only_if_it_must_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_override("run", tmp_path / "plain-1.5_x") == "run=plain-1.5_x"
    assert path_override("run", tmp_path / "0") == "run='0'"  # else Hydra would read a number
