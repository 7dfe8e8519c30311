"""Configurations in the form of the examples of REINVENT 4 (staged learning) and Saturn."""

from typing import Any

STAGED_LEARNING = """
run_type = "staged_learning"
device = "cuda:0"
tb_logdir = "tb_logs"
json_out_config = "_staged_learning.json"
mystery = 3

[parameters]
summary_csv_prefix = "staged_learning"
use_checkpoint = false
purge_memories = false
prior_file = "reinvent.prior"
agent_file = "reinvent.prior"
batch_size = 16
unique_sequences = true
randomize_smiles = true
tb_isim = false

[learning_strategy]
type = "dap"
sigma = 128
rate = 0.0001

[diversity_filter]
type = "IdenticalMurckoScaffold"
bucket_size = 25
minscore = 0.4
minsimilarity = 0.4
penalty_multiplier = 0.5

[inception]
memory_size = 100
sample_size = 10

[[stage]]
chkpt_file = 'test1.chkpt'
termination = "simple"
max_score = 0.6
min_steps = 1
max_steps = 1

[stage.scoring]
type = "geometric_mean"

[[stage.scoring.component]]
[stage.scoring.component.custom_alerts]
[[stage.scoring.component.custom_alerts.endpoint]]
name = "Unwanted SMARTS"
weight = 0.79
params.smarts = ["[*;r{8-17}]", "[#8][#8]", "C#C", "C(("]

[[stage.scoring.component]]
[stage.scoring.component.MolecularWeight]
[[stage.scoring.component.MolecularWeight.endpoint]]
name = "Molecular weight"
weight = 0.342
transform.type = "double_sigmoid"
transform.high = 500.0
transform.low = 200.0
transform.coef_div = 500.0
transform.coef_si = 20.0
transform.coef_se = 20.0

[[stage]]
chkpt_file = 'test2.chkpt'
termination = "simple"
max_score = 0.7
min_steps = 10
max_steps = 1

[stage.scoring]
type = "geometric_mean"
filename = "stage2_scoring.toml"
filetype = "toml"
"""
STAGE_2 = """
[[component]]
[component.QED]
[[component.QED.endpoint]]
name = "QED"
weight = 0.6

[[component]]
[component.MatchingSubstructure]
[[component.MatchingSubstructure.endpoint]]
name = "ring"
params.smarts = "c1ccccc1"
params.use_chirality = false

[[component]]
[component.DockStream]
[[component.DockStream.endpoint]]
name = "Docking"
weight = 1
params.configuration_path = "conf.json"
transform.type = "reverse_sigmoid"
transform.high = -6
transform.low = -13.5
transform.k = 0.2

[[component]]
[component.SAScore]
[[component.SAScore.endpoint]]
name = "SA"
"""

NO_SHAPING = {"transformation_function": "no_transformation"}
SHAPING = {"transformation_function": "reverse_sigmoid", "parameters": {"low": -1, "high": 8, "k": 0.25}}
SATURN: dict[str, Any] = {
    "logging": {"logging_frequency": 1000, "logging_path": "run.log"},
    "oracle": {
        "budget": 1000,
        "allow_oracle_repeats": False,
        "aggregator": "product",
        "components": [
            {
                "name": "quickvina2_gpu",
                "weight": 1,
                "preliminary_check": False,
                "specific_parameters": {"receptor": "receptor.pdbqt"},
                "reward_shaping_function_parameters": SHAPING,
            },
            {
                "name": "sa_score",
                "weight": 2,
                "preliminary_check": False,
                "specific_parameters": {},
                "reward_shaping_function_parameters": SHAPING,
            },
            {"name": "qed", "weight": 1, "reward_shaping_function_parameters": NO_SHAPING},
        ],
    },
    "goal_directed_generation": {
        "reinforcement_learning": {
            "prior": "a.prior",
            "agent": "a.prior",
            "batch_size": 16,
            "learning_rate": 0.0001,
            "sigma": 100.0,
            "augmented_memory": True,
            "augmentation_rounds": 10,
            "selective_memory_purge": True,
        },
        "experience_replay": {"memory_size": 100, "sample_size": 10, "smiles": ["CCO"]},
        "diversity_filter": {"name": "IdenticalMurckoScaffold", "bucket_size": 10},
        "hallucinated_memory": {"execute_hallucinated_memory": True, "num_hallucinations": 100, "num_selected": 5},
        "beam_enumeration": {"execute_beam_enumeration": False, "beam_k": 2},
    },
    "distribution_learning": {"parameters": {"agent": "<unused>"}},
    "running_mode": "goal_directed_generation",
    "model_architecture": "mamba",
    "device": "cuda",
    "seed": 3,
    "novelty": 1,
}
