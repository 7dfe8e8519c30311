"""The model card: valid metadata, what it says of a run, and what must not be in it."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from launch.analysis.model_card import cleaned, model_card, number_text, private_text

from ..made_up import write_run

CONFIG = {
    "seed": 3,
    "steps": 7,
    "objective": {"beta": 0.05, "direction": "reverse", "level": "sequence", "placement": "reward"},
    "transform": {"name": "mara", "threshold": {"value": 0.8, "kind": "constant"}},
    "beta_schedule": {"name": "constant"},
    "advantage": "leave_one_out",
    "optimizer": {"lr": 1e-5},
    "model": {"name_or_path": "Qwen/Qwen3-1.7B"},
    "task": {"name": "creative"},
    "data": {
        "root": "/home/somebody/data",
        "train": {"path": "allenai/WildChat-1M"},
        "evaluation": {"path": "own.jsonl"},
    },
    "group_size": 8,
}
SUMMARY = {
    "correct": 0.9,
    "reward/mean": 1.25,
    "reward/se": 0.0625,
    "completions": 64,
    "sequences": {"a": 1.0},
    "base": {"correct": 0.5, "reward/mean": 1.0, "reward/se": 0.125},
    "data": {"train": {"origin": "allenai/WildChat-1M", "sha256": "abc", "records": 100}},
}
FACTS = {"origin": "Qwen/Qwen3-1.7B", "license": "apache-2.0", "device": "cpu"}


def card(
    folder, config=None, summary=None, package="llm", model=FACTS, title=None, license_name=None, repository=None
):
    write_run(folder, config or CONFIG, summary=summary or SUMMARY, package=package, model=model)
    text = model_card(folder, title, license_name, repository)
    return text, ModelCard(text).data.to_dict()


def test_the_metadata_can_be_read_and_says_what_is_known(tmp_path):
    _, data = card(tmp_path)
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "base_model": "Qwen/Qwen3-1.7B",
        "base_model_relation": "finetune",
        "datasets": ["allenai/WildChat-1M"],
        "tags": [
            "mara-rl",
            "reinforcement-learning",
            "kl-regularization",
            "mode-anchored-reward-augmentation",
        ],
    }
    local, others = CONFIG | {"model": {"name_or_path": "/srv/own"}}, {"origin": "own"}
    _, data = card(tmp_path / "local", config=local, model=others)
    assert not {"base_model", "license"} & set(data)  # a folder is no name on the Hub; the control
    _, data = card(tmp_path / "licensed", config=local, model=others, license_name="mit")
    assert data["license"] == "mit"


def test_the_card_says_method_data_results_base_and_how_to_load(tmp_path):
    text, _ = card(tmp_path, repository="me/policy")
    assert "# Qwen/Qwen3-1.7B, post-trained with MARA" in text
    assert "| beta | 0.05, schedule constant |" in text
    assert "| train | allenai/WildChat-1M | 100 | abc |" in text
    assert "| result | base | this model |" in text
    assert "| reward | 1.000 ± 0.125 | 1.250 ± 0.062 |" in text
    assert "| correct | 0.5 | 0.9 |" in text
    assert "completions |" not in text
    assert "- license: apache-2.0" in text
    assert 'from_pretrained("me/policy")' in text
    assert "@inproceedings" in text
    assert "title: mine" not in text
    assert "# Mine\n" in card(tmp_path / "titled", title="Mine")[0]


def test_a_card_of_molecules_names_its_own_library(tmp_path):
    config = {key: CONFIG[key] for key in ("seed", "steps", "objective", "transform", "beta_schedule", "optimizer")}
    config |= {"prior": "shipped", "batch_size": 64, "oracle": {"components": [{"name": "qed"}]}}
    facts = {"origin": "the prior of mara, trained on ZINC250k", "license": "apache-2.0"}
    text, data = card(tmp_path, config=config, package="chem", model=facts, summary={"0.8/yield": 12, "best": []})
    assert data["library_name"] == "mara-rl"
    assert {"chemistry", "smiles"} <= set(data["tags"])
    assert "pipeline_tag" not in data
    assert "Reward: the oracle of `qed`." in text
    assert "| 0.8/yield | 12 |" in text
    assert "python -m chem.sample prior=policy" in text


def test_the_results_of_an_evaluation_are_added(tmp_path):
    write_run(tmp_path, CONFIG, summary=SUMMARY, package="llm", model=FACTS)
    (tmp_path / "evaluation").mkdir()
    results = {"distinct/mean": 4.5, "distinct/se": 0.5, "utility/mean": None, "prompts": 100}
    (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(results))
    text = model_card(tmp_path, None, None, None)
    assert "| distinct | 4.500 ± 0.500 |" in text
    assert "utility" not in text.partition("From `llm.evaluate`")[2].partition("##")[0]


def test_an_average_and_a_prior_have_cards_too(tmp_path):
    config = {"seed": 0, "policy": "runs/a", "reference": "tiny", "weight": 0.25}
    text, _ = card(tmp_path / "e", config=config, package="llm.ensemble", model={}, summary={"rms_distance": 0.5})
    assert "its weight is 0.25" in text
    data = {"file": "zinc.smi.gz", "sha256": "f0", "kept": 99, "lines": 100}
    summary = {"validation/molecule": 23.4, "data": data}
    text, metadata = card(
        tmp_path / "p", config={"seed": 0, "data": "zinc.smi.gz"}, package="chem.pretrain", model={}, summary=summary
    )
    assert "| training | zinc.smi.gz | 99 | f0 |" in text
    assert "datasets" not in metadata


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/somebody/models/mine", "mine"),
        ("prefix /data/x/receptor.pdbqt suffix", "prefix receptor.pdbqt suffix"),
        ("~/models/mine", "mine"),
        ("C:\\Users\\somebody\\mine.csv", "mine.csv"),
        ("../../somebody/mine", "mine"),
        ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B"),
        ("data/own.jsonl", "data/own.jsonl"),
        ("https://arxiv.org/abs/2510.20817", "https://arxiv.org/abs/2510.20817"),
        ("C/C=C/C(=O)O", "C/C=C/C(=O)O"),  # a molecule
        ("hf_abcdefghijklmnopqrstuvwx", "(removed)"),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_folders_and_secrets_are_taken_out(value, expected):
    assert cleaned({"a": [value]}) == {"a": [expected]}


def test_a_secret_is_taken_out_by_its_key():
    assert cleaned({"api_key": "x", "tokens": "y"}) == {"api_key": "(removed)", "tokens": "y"}


def test_no_folder_of_the_configuration_is_in_the_card(tmp_path):
    text, _ = card(tmp_path)
    assert "somebody" not in text
    assert "root: data" in text  # the last part of its path
    assert private_text(text, ["/home/somebody"]) == ""


def test_what_is_private_is_named():
    assert private_text(f"a {Path.home()}/x") == f"the folder {Path.home()}"
    assert private_text("a /srv/work/x", ["/srv/work"]) == "the folder /srv/work"
    assert private_text("ghp_0123456789abcdefghij") == "what looks like an access token"
    assert private_text("a text", ["", "/"]) == ""


def test_numbers_have_their_errors():
    assert number_text({"x/mean": 1.5, "x/se": 0.25}, "x/mean") == "1.500 ± 0.250"
    assert number_text({"x": 12345}, "x") == "12,345"
    assert number_text({"x": 0.123456, "x/se": None}, "x") == "0.1235"
    assert number_text({}, "x") == "-"
