"""A configuration of REINVENT 4 in the form of its example of staged learning."""

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
