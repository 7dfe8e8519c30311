"""One line for each exception. tests/e2e/test_errors.py reads the lines of whole commands."""

import errno

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from conf.schema.base import ConfigError
from launch.cli.compose import compose
from launch.cli.errors import error_message, invalid_override_message, one_line, unknown_key_message
from launch.runs.run_folder import FolderLocked


def chained(outer, inner):
    """`outer`, raised from `inner` as Hydra does."""
    try:
        raise outer from inner
    except type(outer) as error:
        return error


def test_text_is_joined_to_one_line():
    assert one_line("  a\n\n\tb  \nc") == "a; b; c"
    assert one_line("") == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("seed: wrong"), "seed: wrong"),
        (chained(HydraException("in the way"), ConfigError("seed: wrong")), "seed: wrong"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/nowhere/run"),
            "hydra.run.dir (hydra.sweep.dir with -m): cannot write a run to /nowhere/run: No such file or directory; "
            "choose another folder",
        ),
        (
            FolderLocked(errno.EBUSY, "another process is using it", "/run"),
            "hydra.run.dir (hydra.sweep.dir with -m): cannot write a run to /run: another process is using it; "
            "choose another folder",
        ),
        (
            HydraException("Ambiguous value for argument 'seed=1,2'\n1. To use it as a list, use key=[...]"),
            "seed: expected one value, got 1,2; add -m to sweep over several values",
        ),
        (HydraException("First.\nSee https://hydra.cc\nLast."), "First.; Last."),
        (RuntimeError("a bug"), "RuntimeError: a bug"),
    ],
)
def test_an_exception_is_one_line(error, message):
    assert error_message(error, "llm") == message


def typed(text):
    """The message for a configuration of llm that is composed with these overrides."""
    with pytest.raises(ConfigError) as error:
        compose("llm", text.split())
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("objective.beta=x", "objective.beta: must be a number, got x"),
        ("objective.max_log_weight=x", "objective.max_log_weight: must be auto, a number or null, got x"),
        ("objective.direction=side", "objective.direction: must be one of reverse, forward"),
        ("seed=1.5", "seed: must be a whole number, got 1.5"),
        ("objective=3", "objective: must be a mapping of beta, direction"),
        ("beta_schedule=adaptive", "beta_schedule.kl_target: no value given; must be a number"),
        ("~transform", "transform: no option chosen; use one of "),
        ("~seed", "seed: required, cannot be removed with ~seed"),
        ("~transform.threshold", "transform.threshold: required, cannot be removed with ~transform.threshold"),
        ("beta=1", "beta: no such key (did you mean objective.beta?); allowed: seed, "),
        ("objective.mask_tied=true", "objective.mask_tied: was renamed to objective.skip_tied_groups"),
        ("experiment=figure5", "experiment: must be one of "),
        ("x", "x: cannot parse 'x'; write KEY=VALUE, and quote a value that contains special characters"),
    ],
)
def test_a_wrong_override(overrides, message):
    assert typed(overrides).startswith(message)


def test_the_option_of_another_package_is_named():
    assert typed("experiment=figure5").endswith("got figure5, which belongs to python -m didactic")


def test_the_file_of_a_mistake_is_named(tmp_path):
    (tmp_path / "experiment").mkdir()
    texts = {
        "misspelt": "# @package _global_\n# A.\nobjective: {bta: 1}\n",
        "no_package": "# A.\nsteps: 3\n",
        "syntax": "# @package _global_\nsteps: [1, 2\nseed: 3\n",
    }
    for name, text in texts.items():
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text)
    messages = {}
    for name in texts:
        with pytest.raises(ConfigError) as error:
            compose("llm", [f"experiment={name}"], ["--config-dir", str(tmp_path)])
        messages[name] = str(error.value)
    assert messages["misspelt"].startswith("objective.bta: no such key (did you mean objective.beta?)")
    assert messages["misspelt"].endswith(" (in experiment/misspelt.yaml)")
    assert (
        "the first line of the file must be '# @package _global_' (in experiment/no_package.yaml)"
        in (messages["no_package"])
    )
    assert f"{tmp_path}/experiment/syntax.yaml, line 3: invalid YAML: expected ',' or ']'" in messages["syntax"]


def test_an_unknown_key_of_a_plain_mapping_can_be_added():
    node = OmegaConf.create({"mine": {"first": 1}})
    assert unknown_key_message("mine.frist", node.mine, "llm") == (
        "mine.frist: no such key (did you mean mine.first?); to add it, write +mine.frist=VALUE"
    )


@pytest.mark.parametrize(("text", "key"), [("a.b=${x", "a.b"), ("=1", "command line"), ("", "command line")])
def test_an_argument_that_is_no_override_is_quoted(text, key):
    assert invalid_override_message(text) == (
        f"{key}: cannot parse {text!r}; write KEY=VALUE, and quote a value that contains special characters"
    )
