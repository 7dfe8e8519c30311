"""Configurations of REINVENT 4."""

import tomllib

import pytest
import yaml
from omegaconf import OmegaConf

from chem.foreign.ledger import Ledger, Section
from chem.foreign.reinvent import convert_reinvent
from conf.schema.base import ConfigError
from launch.cli.compose import compose

from .configurations import STAGE_2, STAGED_LEARNING


def convert(text, folder):
    values = tomllib.loads(text)
    ledger = Ledger()
    source = Section(ledger, values, "", "REINVENT 4")
    ledger.add(source)
    conversion = convert_reinvent(source, folder)
    rows = {row.key: row for row in ledger.table()}
    assert [key for key, _ in source.leaves() if key not in rows] == []  # no key is lost
    return conversion, rows


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "stage2_scoring.toml").write_text(STAGE_2)
    return tmp_path


def test_staged_learning(folder):
    conversion, rows = convert(STAGED_LEARNING, folder)
    conversion.write(folder / "out", folder / "staged.toml")
    config = OmegaConf.create(dict(compose("chem", ["experiment=staged"], ["--config-dir", str(folder / "out")])))
    assert (config.loss, config.objective.beta, config.advantage) == ("reinvent", 1 / 128, "no_baseline")
    assert (config.prior, config.agent, config.budget) == ("reinvent.prior", None, None)
    assert (config.batch_size, config.optimizer.lr, config.duplicates) == (16, 1e-4, "zero")
    assert (config.replay.size, config.replay.sample) == (100, 10)
    bucket = config.diversity_filter
    assert (bucket.name, bucket.penalty, bucket.bucket_size, bucket.min_score) == (
        "identical_murcko",
        "step",
        25,
        0.4,
    )
    assert [(stage.steps, stage.max_score, stage.min_steps, stage.keep_buckets) for stage in config.stages] == [
        (1, 0.6, 1, True),
        (1, 0.7, 10, True),
    ]
    assert (config.steps, config.stop.window, config.stop.min_validity) == (2, 1, None)
    first, second = (stage.oracle for stage in config.stages)
    assert [(part.name, part.penalty) for part in first.components] == [("alerts", True), ("weight", False)]
    assert first.components[1].weight == 0.342
    assert [part.label for part in second.components] == ["QED", "ring"]
    assert second == config.oracle
    assert "unknown key" in rows["mystery"].text
    assert rows["mystery"].status == rows["device"].status == rows["stage.0.chkpt_file"].status == "none"
    assert "left out of the score" in rows["stage.1.scoring.component.2.DockStream.endpoint.0.name"].text
    assert "no transform" in rows["stage.1.scoring.component.3.SAScore.endpoint.0.name"].text
    assert any("max_steps" in note for note in conversion.notes)


def test_one_stage_with_defaults(folder):
    conversion, rows = convert(
        """
run_type = "staged_learning"
seed = 4
[parameters]
prior_file = "a.prior"
agent_file = "b.chkpt"
[diversity_filter]
type = "PenalizeSameSmiles"
[inception]
smiles_file = "actives.smi"
[[stage]]
max_steps = 70
termination = "plateau"
[stage.scoring]
type = "custom_sum"
parallel = 4
[[stage.scoring.component]]
[stage.scoring.component.RDKitDescriptors]
params.descriptor = "balabanj"
[[stage.scoring.component.RDKitDescriptors.endpoint]]
transform = {type = "sigmoid", low = 1, high = 3, k = 0.5, slope = 2}
[[stage.scoring.component.RDKitDescriptors.endpoint]]
weight = 0
params.descriptor = "MolMR"
transform = {type = "sigmoid", low = 1, high = 3, k = 0.5}
""",
        folder,
    )
    experiment = conversion.experiment
    assert (experiment["batch_size"], experiment["optimizer"]["lr"]) == (100, 1e-4)
    assert experiment["objective"]["beta"] == 1 / 128
    assert experiment["replay"] == {"size": 50, "sample": 10, "seeds": "actives.smi"}
    assert (experiment["agent"], experiment["steps"]) == ("b.chkpt", 70)
    assert experiment["diversity_filter"] == {"name": "none"}
    assert experiment["stop"] == {"window": 1, "min_validity": None, "max_score": None, "min_steps": 50}
    assert "stages" not in experiment
    assert conversion.oracle == {
        "aggregation": "arithmetic",
        "components": [
            {
                "name": "descriptor",
                "label": "RDKitDescriptors",
                "parameters": {"name": "BalabanJ"},
                "transform": {"name": "sigmoid", "low": 1.0, "high": 3.0, "k": 0.5},
                "weight": 1.0,
            }
        ],
        "workers": 4,
    }
    assert rows["parameters.batch_size"].value == "100 (the default of REINVENT 4)"
    assert rows["diversity_filter.type"].status == rows["stage.0.termination"].status == "none"
    endpoint = "stage.0.scoring.component.0.RDKitDescriptors.endpoint"
    assert "weight of 0" in rows[f"{endpoint}.1.weight"].text
    assert "unknown key" in rows[f"{endpoint}.0.transform.slope"].text
    assert conversion.arguments == ["seed=4"]


def test_filters_of_stages_are_one_here(folder):
    stage = "[[stage]]\nmax_steps = 60\n[stage.diversity_filter]\ntype = 'ScaffoldSimilarity'\nbucket_size = {}\n"
    stage += "[stage.scoring]\n[[stage.scoring.component]]\nQED.endpoint = [{{}}]\n"
    head = "run_type = 'staged_learning'\nparameters = {prior_file = 'a', agent_file = 'a'}\n"
    conversion, rows = convert(head + stage.format(5) + stage.format(7), folder)
    assert conversion.experiment["diversity_filter"]["bucket_size"] == 5
    assert rows["stage.1.diversity_filter.bucket_size"].status == "none"
    whole_run = "diversity_filter = {type = 'IdenticalTopologicalScaffold'}\n"
    conversion, rows = convert(head + whole_run + stage.format(5) + stage.format(7), folder)
    assert conversion.experiment["diversity_filter"]["name"] == "topological"
    assert rows["stage.1.diversity_filter.bucket_size"].status == "same"


@pytest.mark.parametrize(
    ("text", "module", "arguments"),
    [
        (
            "run_type = 'scoring'\nparameters = {smiles_file = 'a.smi', output_csv = 'b.csv'}\n"
            "[[scoring.component]]\nQED.endpoint = [{weight = 1}]",
            "chem.score",
            ["file=a.smi"],
        ),
        (
            "run_type = 'transfer_learning'\n[parameters]\nnum_epochs = 3\nsmiles_file = 'a.smi'\nnum_refs = 1\n"
            "input_model_file = 'a.prior'\noutput_model_file = 'b.model'\nbatch_size = 8",
            "chem.pretrain",
            [
                "data=a.smi",
                "init=a.prior",
                "epochs=3",
                "batch_size=8",
                "filter.min_token_count=1",
                "optimizer.lr=0.0001",
                "optimizer.max_grad_norm=1.0",
            ],
        ),
        (
            "run_type = 'sampling'\n[parameters]\nmodel_file = 'a.prior'\nnum_smiles = 9\nunique_molecules = false\n"
            "temperature = 0.7",
            "chem.sample",
            ["prior=a.prior", "count=9", "unique=false"],
        ),
    ],
)
def test_other_run_types_become_commands(folder, text, module, arguments):
    conversion, _ = convert(text, folder)
    assert (conversion.module, conversion.arguments, conversion.experiment) == (module, arguments, None)
    command = conversion.write(folder / "out", folder / "a.toml")
    overrides = [word for word in command[3:] if "=" in word]
    compose(module, overrides, ["--config-dir", str(folder / "out")] if conversion.oracle else [])
    if conversion.oracle:
        assert yaml.safe_load((folder / "out/oracle/a.yaml").read_text()) == conversion.oracle


def test_mistakes(folder):
    no_stage = STAGED_LEARNING.partition("[[stage]]")[0]
    with pytest.raises(ConfigError, match="stage: must hold at least one stage"):
        convert(no_stage, folder)
    for old, new, message in (
        ("sigma = 128", "sigma = 0", r"learning_strategy\.sigma: cannot be converted into objective\.beta, got 0"),
        ("batch_size = 16", "batch_size = 1.5", r"parameters\.batch_size: cannot be converted"),
        ('type = "geometric_mean"', 'type = "median"', r"stage\.0\.scoring\.type: must be one of geometric_mean"),
        ("stage2_scoring.toml", "none.toml", r"none\.toml: cannot be read"),
    ):
        assert old in STAGED_LEARNING
        with pytest.raises(ConfigError, match=message):
            convert(STAGED_LEARNING.replace(old, new), folder)
