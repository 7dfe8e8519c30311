"""Which program a configuration is of."""

import json

import pytest
import yaml

from chem.foreign.convert_file import convert_configuration
from conf.schema.base import ConfigError

SAMPLING = {"run_type": "sampling", "parameters": {"model_file": "a.prior", "num_smiles": 5}}


def test_the_forms_of_a_file_give_the_same(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(SAMPLING))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(SAMPLING))
    (tmp_path / "a.toml").write_text('run_type = "sampling"\nparameters = {model_file = "a.prior", num_smiles = 5}\n')
    for suffix in ("json", "yaml", "toml"):
        conversion = convert_configuration(tmp_path / f"a.{suffix}")
        assert (conversion.module, conversion.arguments) == (
            "chem.sample",
            ["prior=a.prior", "count=5", "unique=true"],
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{}", "must have the key run_type"),
        ("a.json", "[1]", "must hold a table"),
        ("a.toml", "a = ", "cannot be read"),
        ("a.yaml", "run_type: create_model", "a.yaml: run_type: must be one of staged_learning"),
        ("a.json", '{"run_type": "sampling"}', "parameters.model_file: cannot be converted into prior, got null"),
        ("a.json", '{"goal_directed_generation": {}, "running_mode": "x"}', "running_mode: must be goal_directed"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message) as error:
        convert_configuration(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        convert_configuration(tmp_path / "none.toml")
