"""Configurations of Saturn."""

import copy

import pytest

from chem.foreign.ledger import Ledger, Section
from chem.foreign.saturn import convert_saturn
from conf.schema.base import ConfigError
from launch.cli.compose import compose

from .configurations import SATURN


def convert(changes=None):
    values = copy.deepcopy(SATURN)
    for path, value in (changes or {}).items():
        table = values
        *names, last = path.split(".")
        for name in names:
            table = table[name]
        table[last] = value
    ledger = Ledger()
    source = Section(ledger, values, "", "Saturn")
    ledger.add(source)
    conversion = convert_saturn(source)
    assert [row.key for row in ledger.table()][: len(ledger.order)] == [key for key, _ in source.leaves()]
    return conversion, {row.key: row for row in ledger.table()}


def test_a_configuration(tmp_path):
    conversion, rows = convert()
    assert conversion.seeds == ["CCO"]
    experiment = conversion.experiment
    assert experiment["objective"] == {"beta": 0.01, "direction": "reverse"}
    assert experiment["replay"] == {
        "size": 100,
        "sample": 10,
        "augmentations": 10,
        "purge": True,
        "genetic": {"offspring": 5, "mutation": 0.1},
    }
    assert experiment["diversity_filter"]["bucket_size"] == 11  # penalised after more than 10 others
    assert (experiment["prior"], experiment["budget"], experiment["seed"]) == ("shipped", 1000, 3)
    components = conversion.oracle["components"]
    assert [(component["name"], component["weight"]) for component in components] == [("sa_score", 2), ("qed", 1)]
    assert conversion.oracle["aggregation"] == "geometric"
    assert "left out of the score" in rows["oracle.components.0.name"].text
    assert "unknown key" in rows["novelty"].text
    assert rows["distribution_learning.parameters.agent"].status == "same"
    conversion.write(tmp_path, tmp_path / "saturn.json")
    config = compose("chem", ["experiment=saturn"], ["--config-dir", str(tmp_path)])
    assert (config["loss"], config["replay"]["genetic"]["offspring"], config["batch_size"]) == ("reinvent", 5, 16)


def test_parts_that_are_off():
    learning = "goal_directed_generation.reinforcement_learning"
    conversion, rows = convert(
        {
            f"{learning}.augmented_memory": False,
            "goal_directed_generation.hallucinated_memory.execute_hallucinated_memory": False,
            "goal_directed_generation.diversity_filter.name": "NoFilter",
            "model_architecture": "rnn",
            "oracle.aggregator": "sum",
        }
    )
    replay = conversion.experiment["replay"]
    assert (replay["augmentations"], replay["purge"], "genetic" in replay) == (0, False, False)
    assert conversion.experiment["diversity_filter"] == {"name": "none"}
    assert (conversion.experiment["prior"], conversion.oracle["aggregation"]) == ("a.prior", "arithmetic")
    assert rows["goal_directed_generation.diversity_filter.name"].status == "none"


def test_mistakes():
    with pytest.raises(ConfigError, match=r"^oracle\.aggregator: must be product or sum, got max"):
        convert({"oracle.aggregator": "max"})
    with pytest.raises(ConfigError, match=r"^oracle\.budget: cannot be converted into budget, got many"):
        convert({"oracle.budget": "many"})
