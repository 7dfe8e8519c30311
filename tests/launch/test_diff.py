"""`launch.diff`: overrides that turn one configuration into another, with none that can be left out; its output."""

import json
import math
import random
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch import diff
from launch.cli.compose import compose
from launch.cli.groups import CONF
from launch.diff import Side, config_changes, merge_overrides, minimal_overrides, overrides_between, read_side


def experiments(package):
    home = CONF / package / "experiment"
    return sorted(str(path.relative_to(home).with_suffix("")) for path in home.rglob("*.yaml"))


def turns(package, a, overrides, b):
    try:
        return not config_changes(compose(package, merge_overrides(a, overrides)), compose(package, b))
    except ConfigError:
        return False


@pytest.mark.parametrize("package", ["didactic", "llm", "chem"])
def test_every_pair_of_shipped_experiments(package):
    names = experiments(package)
    assert len(names) > 1
    for a, b in permutations(names, 2):
        typed_a, typed_b = [f"experiment={a}"], [f"experiment={b}"]
        sides = [Side("", package, dict(compose(package, typed)), typed) for typed in (typed_a, typed_b)]
        overrides = overrides_between(*sides)
        assert turns(package, typed_a, overrides, typed_b), (a, b, overrides)
        for left_out in overrides:
            rest = [override for override in overrides if override != left_out]
            assert not turns(package, typed_a, rest, typed_b), (a, b, overrides, left_out)


PLACES = {
    "llm": [
        ["transform=mara", "transform.algorithm=2", "objective.direction=forward"],
        ["beta_schedule=adaptive", "beta_schedule.kl_target=.5", "optimizer.lr=1e-05", "loggers=[wandb]"],
        ["threads=null", "+model.chat_template={a:'x, y',b:null}", "transform.threshold.floor=null"],
    ],
    "didactic": [["experiment=figure2"], [], ["experiment=ablation", "seed=1"]],
}


@pytest.mark.parametrize("package", ["didactic", pytest.param("llm", marks=pytest.mark.long)])
@pytest.mark.parametrize("known", [pytest.param(True, marks=pytest.mark.long), False])
def test_values_alone_are_enough(package, known):
    """B given by its values only, as a config file is; A by its command line or by its values."""
    places = PLACES[package]
    for a, b in zip(places, [*places[1:], places[0]], strict=True):
        config_a, config_b = (dict(compose(package, typed)) for typed in (a, b))
        base = a
        if not known:
            base = minimal_overrides(package, [], [], config_a, None)
            assert not config_changes(compose(package, base), config_a)
        overrides = minimal_overrides(package, [], base, config_b, None)
        assert not config_changes(compose(package, merge_overrides(base, overrides)), config_b), (a, b, overrides)
        for left_out in overrides:
            rest = [override for override in overrides if override != left_out]
            try:
                assert config_changes(compose(package, merge_overrides(base, rest)), config_b), (a, b, left_out)
            except ConfigError:
                continue


def parse_value(text):
    return OverridesParser.create().parse_overrides([f"key={text}"])[0].value()


def plain(value):
    """Hydra's own types of quoted text as text."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(name): plain(item) for name, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float) else getattr(value, "text", value)


def test_values_survive_hydras_grammar():
    generator = random.Random(0)
    alphabet = [
        "a",
        "B",
        "1",
        " ",
        ",",
        "'",
        '"',
        "\\",
        "=",
        "{",
        "}",
        "[",
        "]",
        ":",
        "#",
        "é",
        "/",
        ".",
        "-",
        "(",
        "%",
    ]
    texts = ["".join(generator.choices(alphabet, k=generator.randrange(0, 8))) for _ in range(2000)]
    texts += [
        "null",
        "True",
        "nan",
        "1",
        "1e-05",
        "0x1",
        "",
        " ",
        "a b",
        "\\'",
        "\\",
        "it's",
        "x,y",
        "~a",
        "+a",
        "-1",
    ]
    values = [
        *texts,
        None,
        True,
        False,
        0,
        -3,
        1e-05,
        0.1,
        1e300,
        -0.0,
        math.inf,
        [],
        {},
        [1, "a b", None],
        {"a": {"b": [1]}},
    ]
    values += [[text] for text in texts[:200]]
    for value in values:
        read = plain(parse_value(diff.hydra_value(value)))
        assert read == value, diff.hydra_value(value)
        assert type(read) is type(value), diff.hydra_value(value)


def test_what_the_command_prints(tmp_path, capsys):
    assert diff.main(["llm:seed=1", "llm:seed=1"]) == 0
    assert "equal" in capsys.readouterr().out
    assert diff.main(["llm:transform=identity", "llm:transform=mara seed=4"]) == 1
    out = capsys.readouterr().out
    assert "seed: 0 -> 4" in out
    assert "transform.name: identity -> mara" in out
    assert "+ transform.algorithm: auto" in out
    assert diff.main(["--overrides", "llm:seed=3", "llm:transform=mara seed=4"]) == 1
    assert capsys.readouterr().out.split() == ["transform=mara", "seed=4"]
    assert diff.main(["--json", "llm:seed=3", "llm:seed=4"]) == 1
    assert json.loads(capsys.readouterr().out)["config"] == {"seed": {"a": 3, "b": 4}}
    file = tmp_path / "b.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(dict(compose("llm", ["optimizer.lr=1e-05"])))))
    assert diff.main(["--overrides", "llm:seed=3", str(file)]) == 1
    assert sorted(capsys.readouterr().out.split()) == ["optimizer.lr=1e-05", "seed=0"]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("nowhere", "llm:", "nowhere: not a run folder, a .yaml file or PACKAGE:KEY=VALUE, where PACKAGE is one of"),
        ("llm:sed=1", "llm:", "sed: no such key"),
        ("llm:", "didactic:", "A and B: must belong to the same package, got llm and didactic"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys, a, b, message):
    assert diff.main(["--overrides", a, b]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_results_stand_side_by_side(tmp_path, capsys):
    for name, value in (("a", 0.5), ("b", 0.75)):
        folder = tmp_path / name
        folder.mkdir()
        config = dict(compose("llm", [f"seed={1 if name == 'a' else 2}"]))
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        (folder / "summary.json").write_text(
            json.dumps({"correct": value, "entropy_nats": value, "entropy_nats/se": 0.3})
        )
        record: dict[str, Any] = {"state": "finished", "package": "llm", "command": ["python", "-m", "llm"]}
        record |= {"traceback": None, "code": {"commit": name}, "versions": {"torch": "2"}, "hardware": {}}
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "metrics.jsonl").touch()
    assert diff.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    out = capsys.readouterr().out
    assert "code.commit: a -> b" in out
    assert "torch" not in out
    assert "0.50 ± 0.30" in out
    assert "0.25 ± 0.42" in out
    assert read_side(str(tmp_path / "a")).results["correct"][0] == 0.5
    assert Path(read_side(str(tmp_path / "a")).name) == tmp_path / "a"


@pytest.mark.parametrize(
    ("base", "more", "merged"),
    [
        (["seed=1", "steps=2"], ["steps=3"], ["seed=1", "steps=3"]),
        (["+a.b=1"], ["a.b=2"], ["a.b=2"]),
        (["seed=1", "+a.b=1"], ["~a.b"], ["seed=1"]),
        (["seed=1"], ["~steps"], ["seed=1", "~steps"]),  # there is nothing to cancel, so it removes the key
        ([], ["seed=1"], ["seed=1"]),
    ],
)
def test_the_second_command_line_counts(base, more, merged):
    assert merge_overrides(base, more) == merged


def test_changes_tell_values_from_keys_that_are_missing():
    a = {"same": 1, "value": 1, "kind": True, "gone": {"x": None}, "list": [1, {"y": 2}]}
    b = {"same": 1, "value": 2, "kind": 1, "new": {}, "list": [1, {"y": 2}]}
    assert config_changes(a, b) == {
        "value": (1, 2),
        "kind": (True, 1),
        "gone.x": (None, diff.ABSENT),
        "new": (diff.ABSENT, {}),
    }


@pytest.mark.parametrize(
    ("old", "new", "override", "line"),
    [
        (1, 0.5, "a.b=0.5", "  a.b: 1 -> 0.5"),
        (diff.ABSENT, [1], "+a.b=[1]", "+ a.b: [1]"),
        (None, diff.ABSENT, "~a.b", "- a.b: null"),
        ("x", "y z", "a.b='y z'", "  a.b: x -> y z"),
    ],
)
def test_a_change_as_an_override_and_as_a_line(old, new, override, line):
    assert diff.format_override("a.b", old, new) == override
    assert diff.format_change("a.b", old, new) == line


def test_a_configuration_that_no_override_makes_is_an_error():
    package = "llm.evaluate"
    config = compose(package, [], checked=False)
    with pytest.raises(ConfigError, match=r"^llm\.evaluate: no combination of overrides reproduces this config"):
        minimal_overrides(package, [], [], {**config, "seed": "not a number"}, None)
    good = compose("llm", [])
    assert minimal_overrides("llm", [], ["seed=3"], good, None) == ["seed=0"]  # control


def test_two_files_have_no_package(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("seed: 1\n")
    assert diff.main(["--overrides", str(tmp_path / "a.yaml"), str(tmp_path / "a.yaml")]) == 2
    error = capsys.readouterr().err
    assert error == (
        "launch.diff: A and B: both are .yaml files, so the package is unknown; use a run or PACKAGE:KEY=VALUE\n"
    )


def test_a_file_of_overrides_is_lines_or_a_list(tmp_path):
    (tmp_path / "lines").write_text("# what changes\nseed=1\n\n+a.b='x y'\n")
    (tmp_path / "list").write_text("- seed=1\n- +a.b='x y'\n")
    for name in ("lines", "list"):
        assert diff.read_overrides_file(tmp_path / name) == ["seed=1", "+a.b='x y'"]


def test_runs_of_several_configurations_are_no_side(sweep):
    with pytest.raises(ConfigError, match="must hold one run, or runs that differ only in the seed, got 2 config"):
        read_side(str(sweep))
    assert read_side(str(sweep / "0")).config["transform"] == {"name": "identity"}  # control
