"""Old names of keys and options, on the command line and in recorded configurations."""

import copy

import pytest

from conf.schema.base import ConfigError
from conf.schema.renames import KEYS, OPTIONS, renamed_key, renamed_option, upgraded, upgraded_flat
from launch.cli.compose import compose as launch_compose
from launch.cli.groups import options
from launch.runs.run_folder import flatten


def test_what_was_renamed_is_named():
    for override, message in {
        "objective.mask_tied=true": r"^objective\.mask_tied: was renamed to objective\.skip_tied_groups",
        "+writers=[]": r"^writers: was renamed to loggers",
        "engine=none": r"^engine: none was renamed to engine=torch",
    }.items():
        with pytest.raises(ConfigError, match=message):
            launch_compose("llm", [override])


def test_a_configuration_of_before_the_renames_is_that_of_today():
    now = dict(launch_compose("llm", ["objective.skip_tied_groups=true", "loggers=[wandb]"]))
    before = {**now, "writers": now["loggers"], "objective": dict(now["objective"])}
    before["objective"]["mask_tied"] = before["objective"].pop("skip_tied_groups")
    del before["objective"]["direction_options"], before["loggers"], before["advantage_options"]
    del before["objective"]["reward_range"], before["objective"]["kl_samples"]
    before["objective"]["max_log_weight"] = None
    assert upgraded(before) == now != before
    assert upgraded_flat(flatten(before)) == flatten(now)
    assert upgraded(now) == now


def test_a_run_of_before_the_cap_continues_without_it():
    forward = {"beta": 0.1, "direction": "forward", "max_log_weight": None}
    old = {"objective": forward, "transform": {"name": "identity"}, "steps": 3}
    objective = upgraded(old)["objective"]
    assert (objective["max_log_weight"], objective["kl_samples"]) == (None, 0)
    assert upgraded_flat(flatten(old)) == flatten(upgraded(old))
    reverse = {**old, "objective": {**forward, "direction": "reverse"}}  # where neither has an effect
    assert (upgraded(reverse)["objective"]["max_log_weight"], upgraded(reverse)["objective"]["kl_samples"]) == (
        "auto",
        None,
    )
    exact = {**old, "problem": {"name": "plateaus"}, "gradient": "exact"}
    assert upgraded(exact)["objective"]["max_log_weight"] == "auto"
    now = dict(launch_compose("llm", ["objective.max_log_weight=null"]))  # a null of today stays
    assert upgraded(now) == now


def test_new_names_exist_and_old_ones_do_not():
    keys = flatten(dict(launch_compose("llm", [])))
    assert set(KEYS.values()) <= keys.keys()
    assert not set(KEYS) & keys.keys()
    for (group, old), new in OPTIONS.items():
        assert new in options("llm", group)
        assert old not in options("llm", group)


def test_other_names_stay_as_they_are():
    assert renamed_key("objective.mask_tied") == "objective.skip_tied_groups"
    assert renamed_key("objective.beta") == "objective.beta"
    assert renamed_option("engine", "none") == "torch"
    assert renamed_option("transform", "none") == "none"  # another group
    assert renamed_option("engine", "zero1") == "zero1"


def test_a_recorded_configuration_is_not_modified():
    before = {"objective": {"mask_tied": True, "beta": 0.1}, "steps": 3, "writers": []}
    record = copy.deepcopy(before)
    assert upgraded(record) == {
        "objective": {
            "skip_tied_groups": True,
            "beta": 0.1,
            "direction_options": {},
            "reward_range": 1.0,
            "token_mean": False,
            "kl_samples": 0,
        },
        "steps": 3,
        "loggers": [],
        "advantage_options": {},
    }
    assert record == before


def test_only_runs_get_the_keys_of_runs():
    assert upgraded({"seed": 0, "file": "a.csv"}) == {"seed": 0, "file": "a.csv"}
    assert upgraded({"objective": 3, "steps": 3}) == {"objective": 3, "steps": 3, "advantage_options": {}}
    assert upgraded_flat({"seed": 0, "writers": []}) == {"seed": 0, "loggers": []}
    flat = upgraded_flat({"steps": 3, "objective.beta": 0.1, "objective.direction_options": {"a": 1}})
    assert flat["objective.direction_options"] == {"a": 1}  # a value that is there stays
    assert flat["advantage_options"] == {}


def test_runs_of_before_the_keys_of_stops_have_none():
    now = dict(launch_compose("llm", []))
    before = copy.deepcopy(now)
    del before["model"]["stop"]
    assert upgraded(before) == now != before
    assert upgraded_flat(flatten(before)) == flatten(now)
    evaluation = dict(launch_compose("llm.evaluate", ["generations=f.jsonl"]))
    before = {key: value for key, value in evaluation.items() if key != "stop"}
    assert upgraded(before) == evaluation != before
    assert upgraded_flat(flatten(before)) == flatten(evaluation)
    given = copy.deepcopy(now)
    given["model"]["stop"]["tokens"] = ["x"]
    assert upgraded(given) == given
    assert "model" not in upgraded(dict(launch_compose("didactic", [])))
    pretraining = dict(launch_compose("chem.pretrain", ["data=a.smi"]))
    assert upgraded(pretraining) == pretraining
    assert upgraded_flat(flatten(pretraining)) == flatten(pretraining)


def test_a_list_of_components_gets_its_new_keys():
    """A run of before the new keys of components resumes: its configuration equals that of the same command today."""
    now = dict(launch_compose("chem", []))
    before = copy.deepcopy(now)
    for component in before["oracle"]["components"]:
        del component["penalty"], component["transform"]["mapping"]
    assert upgraded(before) == now != before
    assert upgraded_flat(flatten(before)) == flatten(now)
    assert upgraded(now) == now
    assert upgraded({"oracle": {"components": [{"name": "qed"}]}})["oracle"]["components"][0]["penalty"] is False


NEWEST = {  # keys that runs of version 0.1.0 do not have, by package
    "didactic": ["objective.token_mean"],
    "llm": ["objective.token_mean", "update.loss", "update.redraw", "update.covariance", "update.match"],
    "chem": ["objective.token_mean", "stop.min_steps"],
}


@pytest.mark.parametrize("package", NEWEST)
def test_a_run_of_before_a_key_gets_what_leaves_it_as_it_was(package):
    config = dict(launch_compose(package, []))
    old = upgraded(config)
    for key in NEWEST[package]:
        section, _, name = key.rpartition(".")
        del old[section][name]
    assert old != config
    assert upgraded(old) == config
