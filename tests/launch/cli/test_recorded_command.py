"""The recorded command of a run: its flags, what is refused in a stranger's, and how it is run again."""

import json
import os
from dataclasses import replace

import pytest
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch.cli import import_path, recorded_command
from launch.cli.recorded_command import RecordedCommand, config_flags, read_command, split_flags

GOOD = RecordedCommand("didactic", (), ("seed=1", "+objective.direction_options.a=1", "~loggers"), "/")


def test_a_command_is_read_from_a_record(tmp_path):
    record = {"package": "llm", "command": ["python", "-m", "llm", "--config-dir", "/c", "--config-name", "mine"]}
    flags = ("--config-dir", "/c", "--config-name", "mine")
    assert read_command(record) == RecordedCommand("llm", flags, ())  # of an earlier version, without cwd
    record |= {"command": [*record["command"], "seed=1"], "cwd": "/here"}
    assert read_command(record) == RecordedCommand("llm", flags, ("seed=1",), "/here")
    with pytest.raises(ConfigError, match="holds no command"):
        read_command({"package": "llm"})


def test_flags_come_before_overrides():
    assert split_flags(["--config-dir", "seed=1", "a=1"]) == (["--config-dir", "seed=1"], ["a=1"])
    assert split_flags(["a=1", "--config-dir", "x"]) == ([], ["a=1", "--config-dir", "x"])
    assert split_flags(["--config-name"]) == ([], ["--config-name"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"package": "cProfile"}, r"package: must be one of didactic, .*, got cProfile$"),
        ({"package": "launch.resume"}, r"package: must be one of didactic, "),
        ({"package": None}, "must consist of text"),
        ({"overrides": ("seed=1", 3)}, "must consist of text"),
        ({"overrides": ("seed=1\0",)}, "must consist of text"),
        (
            {"flags": ("--experimental-rerun", "job.pickle")},
            r"flags: must be --config-path, .*, got --experimental-rerun",
        ),
        ({"flags": ("--config-dir",)}, "flags: must be --config-path, "),
        ({"overrides": ("--experimental-rerun=job.pickle",)}, "cannot parse"),
        ({"overrides": ("--multirun",)}, "cannot parse"),
        ({"overrides": ("-m",)}, "cannot parse"),
        ({"overrides": ("+hydra.callbacks.a._target_=os.system",)}, "cannot set keys of Hydra"),
        ({"overrides": ("hydra.run.dir=/",)}, "cannot set keys of Hydra"),
        ({"overrides": ("hydra/launcher=local",)}, "cannot set keys of Hydra"),
        ({"overrides": ("~hydra.help",)}, "cannot set keys of Hydra"),
        ({"overrides": ("+experiment@hydra.callbacks=mine",)}, "cannot set keys of Hydra"),
        ({"flags": ("--config-dir", "FOLDER/conf")}, "outside the recorded folder"),
        ({"flags": ("--config-dir", "FOLDER")}, "outside the recorded folder"),
        ({"flags": ("--config-path", "LINK/conf")}, "outside the recorded folder"),
        ({"flags": ("--config-dir", "relative")}, "must be an absolute path"),
        ({"flags": ("--config-path", "pkg://stranger.conf")}, "must be an absolute path"),
    ],
)
def test_a_strangers_command_is_refused(tmp_path, changes, message):
    folder, link = tmp_path / "sweep", tmp_path / "link"
    (folder / "conf").mkdir(parents=True)
    link.symlink_to(folder)

    def fill(word):
        return word.replace("FOLDER", str(folder)).replace("LINK", str(link)) if isinstance(word, str) else word

    filled = {k: tuple(map(fill, v)) if isinstance(v, tuple) else fill(v) for k, v in changes.items()}
    with pytest.raises(ConfigError, match=message) as refusal:
        replace(GOOD, **filled).check(folder)
    assert "\n" not in str(refusal.value)
    GOOD.check(folder)  # control
    replace(GOOD, cwd=str(tmp_path), flags=("--config-dir", str(tmp_path), "--config-name", "a")).check(folder)


@pytest.mark.parametrize(
    ("sources", "name", "flags"),
    [
        ([("pkg", "conf.llm", "main")], "config", []),
        (
            [("pkg", "conf.llm", "main"), ("file", "mine${x}", "command-line")],
            "a",
            ["--config-name", "a", "--config-dir", "/mine${x}"],
        ),
        ([("file", "/own", "hydra.searchpath in command-line")], "config", ["--config-dir", "/own"]),
        ([("file", "/own", "hydra.searchpath in main")], "config", []),
        ([("file", "/own", "main")], "config.yaml", ["--config-path", "/own"]),
        ([("pkg", "own.conf", "main")], "config", ["--config-path", "pkg://own.conf"]),
    ],
)
def test_the_flags_of_a_configuration(monkeypatch, sources, name, flags):
    monkeypatch.chdir("/")
    sources = [dict(zip(("schema", "path", "provider"), source, strict=True)) for source in sources]
    hydra = {"runtime": {"config_sources": sources}, "job": {"config_name": name}}
    assert config_flags(OmegaConf.create({"hydra": hydra}), "llm") == flags


def test_one_folder_of_configuration_files_can_be_recorded():
    providers = ("command-line", "hydra.searchpath in command-line")
    sources = [{"schema": "file", "path": f"/{n}", "provider": provider} for n, provider in enumerate(providers)]
    config = OmegaConf.create({"hydra": {"runtime": {"config_sources": sources}, "job": {}}})
    with pytest.raises(ConfigError, match=r"^hydra\.searchpath: .* in one folder, .*, got /0, /1; use --config-dir"):
        config_flags(config, "llm")


def test_a_command_runs_in_its_folder_with_this_code(tmp_path, monkeypatch, capsys):
    """What is in the working folder hides no package of ours; the command itself adds the folder to its path."""
    cwd, home = tmp_path / "é $(touch x)", tmp_path / "home"
    for folder in (cwd, home):
        folder.mkdir()
        seen = "__file__, os.getcwd(), sys.argv[1:], sys.path, os.environ['MARA_MODULES']"
        seen = f"json.dump([{seen}], open(os.environ['SEEN'], 'w'))"
        (folder / "made_up.py").write_text(f"import json, os, sys; {seen}; sys.exit(3)")
    monkeypatch.setattr(import_path, "HOME", home)
    command = RecordedCommand("made_up", ("--config-name", "a"), ("seed=1",), str(cwd))
    assert command.run(tmp_path / "it's", tmp_path / "record", {"SEEN": str(tmp_path / "seen")}) == 3
    file, folder, arguments, path, modules = json.loads((tmp_path / "seen").read_text())
    assert (file, folder) == (str(home / "made_up.py"), str(cwd))
    assert arguments == ["--config-name", "a", "seed=1", f"hydra.run.dir='{tmp_path}/it\\'s'"]
    assert (path[0], str(cwd) in path, modules) == (str(home), False, str(cwd))
    assert command.run(tmp_path / "it's", cwd, {"SEEN": str(tmp_path / "seen")}) == 3
    _, folder, _, path, modules = json.loads((tmp_path / "seen").read_text())
    assert (folder, str(cwd) in path, modules) == (str(cwd), False, "")  # no module of a stranger's is imported
    missing = replace(command, cwd=str(tmp_path / "nowhere"))
    assert missing.working_folder() == os.getcwd()
    assert capsys.readouterr().err.startswith(f"the working folder {tmp_path / 'nowhere'} does not exist; using ")


def test_a_working_folder_whose_name_is_no_text(tmp_path, monkeypatch):
    folder = os.fsencode(tmp_path) + b"/\xff"
    monkeypatch.delenv("MARA_CWD", raising=False)
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system has no such names")
    monkeypatch.chdir(os.fsdecode(folder))
    assert recorded_command.recorded_cwd() == f"{tmp_path}/\ufffd"
