import json

import pytest

from llm.testbed.names import known_config, model_facts, quick_tokenizer, resolve_model
from llm.testbed.smollm2 import ORIGIN


def test_only_names_of_recipes_are_built(tiny_folder, monkeypatch):
    monkeypatch.setattr("llm.testbed.tiny_models._build", lambda *_: pytest.fail("built again"))
    assert resolve_model("tiny") == str(tiny_folder)
    assert resolve_model("tiny", {}) == "tiny"  # a hub name
    assert resolve_model("some/model") == "some/model"


def test_configuration_and_tokenizer_of_a_model_made_here_are_known_without_it(tiny_folder, tmp_path, monkeypatch):
    from transformers import AutoConfig, AutoTokenizer

    monkeypatch.setattr("llm.testbed.tiny_models._build", lambda *_: pytest.fail("built"))
    known, built = known_config("tiny").to_dict(), AutoConfig.from_pretrained(tiny_folder).to_dict()
    saved = {"architectures", "dtype", "_name_or_path", "transformers_version"}
    assert {key: known[key] for key in known if key not in saved} == {
        key: built[key] for key in known if key not in saved
    }
    assert known_config("tiny_reward").num_labels == 1
    text = "<|im_start|>user\nä?<|im_end|>"
    quick = quick_tokenizer("tiny")
    assert callable(quick)
    assert quick(text).input_ids == AutoTokenizer.from_pretrained(tiny_folder)(text).input_ids
    assert known_config("some/model") is None
    assert quick_tokenizer("some/model") == "some/model"
    monkeypatch.setenv("MARA_CACHE", str(tmp_path))
    monkeypatch.setattr("llm.testbed.smollm2.try_to_load_from_cache", lambda *_: None)
    assert quick_tokenizer("smollm2") is None  # it would have to be downloaded or converted


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
