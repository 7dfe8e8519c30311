"""Diffs of configurations: overrides that turn one into the other, and not one too many."""

import json
import math
import random
from itertools import permutations
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch import diff
from launch.cli.compose import compose
from launch.cli.groups import CONF
from launch.diff import Side, applied, config_changes, minimal_overrides, overrides_between, read_side


def experiments(package):
    home = CONF / package / "experiment"
    return sorted(str(path.relative_to(home).with_suffix("")) for path in home.rglob("*.yaml"))


def turns(package, a, found, b):
    try:
        return not config_changes(compose(package, applied(a, found)), compose(package, b))
    except ConfigError:
        return False


@pytest.mark.parametrize("package", ["didactic", "llm", "chem"])
def test_every_pair_of_shipped_experiments(package):
    names = experiments(package)
    assert len(names) > 1
    for a, b in permutations(names, 2):
        one, other = [f"experiment={a}"], [f"experiment={b}"]
        sides = [Side("", package, dict(compose(package, some)), some) for some in (one, other)]
        found = overrides_between(*sides)
        assert turns(package, one, found, other), (a, b, found)
        for left_out in found:
            rest = [override for override in found if override != left_out]
            assert not turns(package, one, rest, other), (a, b, found, left_out)


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
        one, other = (dict(compose(package, some)) for some in (a, b))
        base = a
        if not known:
            base = minimal_overrides(package, [], [], one, None)
            assert not config_changes(compose(package, base), one)
        found = minimal_overrides(package, [], base, other, None)
        assert not config_changes(compose(package, applied(base, found)), other), (a, b, found)
        for left_out in found:
            rest = [override for override in found if override != left_out]
            try:
                assert config_changes(compose(package, applied(base, rest)), other), (a, b, found, left_out)
            except ConfigError:
                continue


def hydra_reads(text):
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
        read = plain(hydra_reads(diff.hydra_value(value)))
        assert read == value and type(read) is type(value), (value, diff.hydra_value(value))


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
        ("nowhere", "llm:", "nowhere: must be a run folder, a .yaml file or PACKAGE:KEY=VALUE"),
        ("llm:sed=1", "llm:", "sed: no such key"),
        ("llm:", "didactic:", "B: must be of A's package llm, got didactic"),
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
        record = {"state": "finished", "package": "llm", "command": ["python", "-m", "llm"], "traceback": None}
        record |= {"code": {"commit": name}, "versions": {"torch": "2"}, "hardware": {}}
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "metrics.jsonl").touch()
    assert diff.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    out = capsys.readouterr().out
    assert "code.commit: a -> b" in out
    assert "torch" not in out
    assert "0.5 ± 0.3" in out
    assert "0.25 ± 0.42" in out
    assert read_side(str(tmp_path / "a")).results["correct"][0] == 0.5
    assert Path(read_side(str(tmp_path / "a")).name) == tmp_path / "a"
