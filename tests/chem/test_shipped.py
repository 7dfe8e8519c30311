"""The shipped prior: its file, its card, and that it draws what the card says."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from chem.models.network import sample, token_logp
from chem.models.prior import SHIPPED, load_prior
from chem.models.prior_report import draw
from chem.scoring import canonical_forms
from launch.runs.rng import rollout_uniforms
from launch.runs.run_folder import read_jsonl

ROOT = Path(__file__).parents[2]


def test_the_card_is_of_this_file():
    weights = SHIPPED / "model.safetensors"
    assert weights.stat().st_size < 8e6
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (SHIPPED / "MODEL_CARD.md").read_text()


def test_it_draws_what_its_report_says():
    report = json.loads((SHIPPED / "report.json").read_text())
    count = 400
    molecules = [one for one in canonical_forms(draw(load_prior(SHIPPED), count, seed=5)) if one is not None]
    validity = report["validity"]
    assert abs(len(molecules) / count - validity) < 4 * (validity * (1 - validity) / count) ** 0.5
    assert len(set(molecules)) / len(molecules) > 0.99


def test_likelihoods_in_buckets_are_those_of_the_padded_batch():
    prior = load_prior(SHIPPED)
    rollout = sample(prior.network, rollout_uniforms(0, 0, [0] * 160, list(range(160)), prior.max_tokens))
    bucketed = token_logp(prior.network, rollout.tokens, rollout.mask).sum(-1)
    alone = [
        token_logp(prior.network, rollout.tokens[row : row + 1], rollout.mask[row : row + 1]).sum()
        for row in range(20)
    ]
    for row, one in enumerate(alone):
        assert abs(float((one - bucketed[row]).detach())) < 1e-6 * abs(float(one.detach()))


def test_the_default_command_designs_molecules(tmp_path):
    command = [sys.executable, "-m", "chem", "steps=2", "batch_size=16", "oracle.workers=1", "cache=null"]
    done = subprocess.run([*command, f"hydra.run.dir={tmp_path}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Best molecules" in done.stdout
    assert (tmp_path / "molecules.png").stat().st_size > 5000
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert len(read_jsonl(tmp_path / "samples.jsonl")) > 16
