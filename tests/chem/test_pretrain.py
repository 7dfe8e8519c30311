"""`python -m chem.pretrain`: resuming, mistakes, continuing from a prior."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rdkit import Chem

from chem.models.corpus import filter_smiles
from chem.models.network import token_logp
from chem.models.prior import Prior, load_prior, make_network, save_prior
from chem.models.tokenizer import Tokenizer
from conf.schema.chem import MoleculeFilterConfig, RecurrentConfig

ROOT = Path(__file__).parents[2]
SMILES = [f"{'C' * n}{end}" for n in range(1, 9) for end in ("O", "N", "c1ccccc1", "C(=O)O", "C#N", "1CCCO1", "Cl")]
TINY = [
    "network.layers=1",
    "network.hidden=16",
    "network.embedding=8",
    "batch_size=8",
    "epochs=8",
    "report_samples=30",
    "filter.min_token_count=1",
    "filter.min_heavy_atoms=2",
    "checkpoint.every_steps=7",
    "threads=1",
]


def pretrain(folder, *overrides):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "chem.pretrain", f"hydra.run.dir={folder}", *overrides]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    data = tmp_path / "a.smi"
    data.write_text("\n".join(SMILES))
    whole = pretrain(tmp_path / "whole", f"data={data}", *TINY, "spelling=randomised")
    killed = pretrain(tmp_path / "killed", f"data={data}", *TINY, "spelling=randomised")
    lines = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and lines.read_bytes().count(b"\n") > 20) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "summary.json").exists()
    resumed = pretrain(tmp_path / "killed", f"data={data}", *TINY, "spelling=randomised")
    resumed_log, whole_log = resumed.communicate()[0], whole.communicate()[0]
    assert whole.returncode == resumed.returncode == 0, whole_log + resumed_log
    assert "resuming from step" in resumed_log
    assert "validity" in resumed_log
    for name in ("metrics.jsonl", "summary.json", "prior/model.safetensors", "prior/vocabulary.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    metrics = [json.loads(line) for line in lines.read_text().splitlines()]
    assert metrics[-1]["validation/molecule"] < metrics[6]["validation/molecule"]
    assert load_prior(tmp_path / "whole" / "prior").max_tokens == 128
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["data"]["kept"] == len({Chem.CanonSmiles(smiles) for smiles in SMILES if len(smiles) > 1})
    assert (tmp_path / "whole" / "figure.png").stat().st_size > 1000 or not summary["validity"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=no_such.smi", "chem.pretrain: data: there is no file no_such.smi, neither here nor in"),
        ("network.dropout=1", "chem.pretrain: network.dropout: must be finite and >= 0 and < 1"),
        ("network=rnn", "chem.pretrain: network: must be one of gru, lstm, transformer, got rnn"),
        ("max_tokens=50", "chem.pretrain: max_tokens: must be >= 100 (filter.max_tokens), got 50"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, override, message):
    data = [] if override.startswith("data") else ["data=a.smi"]
    process = pretrain(tmp_path / "run", override, *data)
    printed = process.communicate()[0]
    assert process.returncode == 1
    assert printed.startswith(message)
    assert printed.count("\n") == 1


def test_a_table_in_the_form_of_chembl(tmp_path):
    """Gzipped, with a byte order mark, quotes and a header, the id first."""
    rows = [f'CHEMBL{n}\t"{smiles}"\tInChI=1S/{n}\tKEY-{n}' for n, smiles in enumerate([*SMILES, "C(", "CCCO", ""])]
    header = "chembl_id\tcanonical_smiles\tstandard_inchi\tstandard_inchi_key"
    text = "\ufeff" + "\r\n".join([header, *rows]) + "\r\n"
    (tmp_path / "chembl.txt.gz").write_bytes(gzip.compress(text.encode()))
    tiny = [override for override in TINY if not override.startswith("epochs")]
    process = pretrain(tmp_path / "run", f"data={tmp_path / 'chembl.txt.gz'}", *tiny, "epochs=1")
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    counts = json.loads((tmp_path / "run" / "summary.json").read_text())["data"]
    expected = filter_smiles(SMILES, MoleculeFilterConfig(["C", "N", "O", "Cl"], 2, 60, 100, 1, True))[1]
    assert counts["kept"] == expected["kept"] > 50
    assert counts["lines"] == len(SMILES) + 3
    new = {reason: counts[reason] - expected.get(reason, 0) for reason in ("not a molecule", "empty", "duplicate")}
    assert new == {"not a molecule": 1, "empty": 1, "duplicate": 1}
    assert "chembl.txt.gz" in (tmp_path / "run" / "corpus.json").read_text()


def test_training_continues_from_a_prior_with_its_vocabulary(tmp_path):
    config = RecurrentConfig("lstm", layers=1, hidden=16, embedding=8, dropout=0.0)
    tokenizer = Tokenizer.from_tokens(["C", "N", "O"])
    save_prior(tmp_path / "start", Prior(make_network(len(tokenizer), config), tokenizer, config, 128))
    (tmp_path / "a.smi").write_text("\n".join(f"{'C' * n}{end}" for n in range(1, 9) for end in "NOF"))
    process = pretrain(tmp_path / "run", f"data={tmp_path / 'a.smi'}", f"init={tmp_path / 'start'}", *TINY)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    assert "kept 16, unknown token 8" in printed
    start, trained = load_prior(tmp_path / "start"), load_prior(tmp_path / "run" / "prior")
    assert trained.tokenizer.tokens == start.tokenizer.tokens
    tokens, mask = tokenizer.encode_batch(["CCCCO", "CCN"])
    before, after = (token_logp(prior.network, tokens, mask).sum() for prior in (start, trained))
    assert float(after.detach()) > float(before.detach())
    other = pretrain(tmp_path / "other", f"data={tmp_path / 'a.smi'}", f"init={tmp_path / 'start'}")
    assert "chem.pretrain: network: must be the network of init=" in other.communicate()[0]
    assert other.returncode == 1
