import json

import pytest

from llm.testbed.names import model_facts, resolve_model
from llm.testbed.smollm2 import ORIGIN


def test_only_names_of_recipes_are_built(tiny_folder, monkeypatch):
    monkeypatch.setattr("llm.testbed.tiny_models._build", lambda *_: pytest.fail("built again"))
    assert resolve_model("tiny") == str(tiny_folder)
    assert resolve_model("tiny", {}) == "tiny"  # a hub name
    assert resolve_model("some/model") == "some/model"


def test_the_facts_of_a_model_have_no_path(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert model_facts(str(folder), str(folder)) == {"origin": "my-model"}
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    assert model_facts(str(folder), str(folder)) == {"origin": "my-model", "license": "mit"}
    (folder / "README.md").write_text("# A model without metadata\n")
    assert model_facts(str(folder), str(folder)) == {"origin": "my-model"}
    (folder / ORIGIN).write_text(json.dumps({"origin": "a package", "sha256": "0", "license": "apache-2.0"}))
    assert model_facts("smollm2", str(folder))["origin"] == "a package"
    assert model_facts("tiny", "anything") == {"origin": "trained here: tiny"}
    assert model_facts("some/model", "some/model") == {"origin": "some/model"}
