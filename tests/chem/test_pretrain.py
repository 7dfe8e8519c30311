"""Priors from files of SMILES: filtering, batches, resuming, mistakes."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rdkit import Chem

from chem.models.corpus import epoch_batches, filter_smiles, read_corpus, respelled, split_rows
from chem.models.network import token_logp
from chem.models.prior import Prior, load_prior, make_network, save_prior
from chem.models.tokenizer import Tokenizer
from conf.schema.base import ConfigError
from conf.schema.chem import MoleculeFilterConfig, RecurrentConfig

ROOT = Path(__file__).parents[2]
SETTINGS = MoleculeFilterConfig(["C", "N", "O", "Cl"], 2, 12, 20, 1, True)
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


def test_molecules_are_filtered_and_reasons_counted():
    lines = [
        "OCC name",
        "CCO",
        "C(",
        "",
        "CCBr",
        "C",
        "CCCCCCCCCCCCCCO",
        "CC(=O)[O-].[Na+]",
        "C1CC1\tx",
        "CC(C)(C)OCC(N)=O",
        "COC",
    ]
    smiles, counts = filter_smiles(lines, SETTINGS)
    assert smiles == ["CCO", "CC(=O)[O-]", "C1CC1", "CC(C)(C)OCC(N)=O", "COC"]
    reasons = {"duplicate": 1, "not a molecule": 1, "empty": 1, "element": 1, "heavy atoms": 2}
    assert counts == {"lines": 11, "kept": 5, **reasons}
    strict = MoleculeFilterConfig(["C", "N", "O", "Cl"], 2, 15, 15, 2, False)
    smiles, counts = filter_smiles(lines, strict)
    assert counts["several fragments"] == 1
    assert counts["too long"] == 2
    assert counts["rare token"] == 1
    assert smiles == ["CCO", "COC"]
    assert sum(count for reason, count in counts.items() if reason != "lines") == 11


def test_a_file_is_read_plain_or_gzipped_and_once(tmp_path):
    (tmp_path / "a.smi").write_text("CCO\nCCN\n")
    (tmp_path / "a.smi.gz").write_bytes(gzip.compress(b"CCO\nCCN\n"))
    for name in ("a.smi", "a.smi.gz"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        assert read_corpus(str(tmp_path / name), SETTINGS, folder).smiles == ["CCO", "CCN"]
        kept = folder / "corpus.json"
        kept.write_text(kept.read_text().replace('"CCN"]', '"CCCl"]'))
        assert read_corpus(str(tmp_path / name), SETTINGS, folder).smiles == ["CCO", "CCCl"]  # it was not read again
    (tmp_path / "a.smi").write_text("CCO\nCCN\nCCC\n")  # another content
    assert len(read_corpus(str(tmp_path / "a.smi"), SETTINGS, tmp_path / "a_smi").smiles) == 3
    (tmp_path / "bad.smi.gz").write_bytes(gzip.compress(b"CCO\n")[:-9])
    for name, message in (
        ("bad.smi.gz", "plain or gzipped"),
        ("none.smi", "a file of SMILES"),
        ("one.smi", "at least 2"),
    ):
        (tmp_path / "one.smi").write_text("CCO\nC(\n")
        with pytest.raises(ConfigError, match=rf"^data: must .*{message}"):
            read_corpus(str(tmp_path / name), SETTINGS, tmp_path)


def test_an_epoch_has_every_molecule_once_and_little_padding():
    lengths = torch.randint(10, 70, (5000,), generator=torch.Generator().manual_seed(0))
    batches = epoch_batches(lengths, 64, 0, 3)
    assert sorted(torch.cat(batches).tolist()) == list(range(5000))
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded < 1.05 * int(lengths.sum())
    unsorted = torch.randperm(5000, generator=torch.Generator().manual_seed(1)).split(64)  # control
    assert sum(len(batch) * int(lengths[batch].max()) for batch in unsorted) > 1.5 * int(lengths.sum())
    assert not torch.equal(batches[0], epoch_batches(lengths, 64, 0, 4)[0])
    train, held = split_rows(100, 0.1, 0)
    assert len(held) == 10
    assert sorted(train + held) == list(range(100))


def test_another_spelling_is_the_same_molecule():
    smiles = "CC(=O)Nc1ccc(O)cc1"
    spelled = {respelled(smiles, 0, epoch) for epoch in range(10)}
    assert len(spelled) > 5
    assert {Chem.CanonSmiles(one) for one in spelled} == {Chem.CanonSmiles(smiles)}
    assert respelled(smiles, 0, 3) == respelled(smiles, 0, 3)


def pretrain(folder, *overrides):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "chem.pretrain", f"hydra.run.dir={folder}", *overrides]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
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
    printed = resumed.communicate()[0]
    said = whole.communicate()[0]
    assert whole.returncode == resumed.returncode == 0, said + printed
    assert "resuming from step" in printed
    assert "validity" in printed
    for name in ("metrics.jsonl", "summary.json", "prior/model.safetensors", "prior/vocabulary.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    metrics = [json.loads(line) for line in lines.read_text().splitlines()]
    assert metrics[-1]["validation/molecule"] < metrics[6]["validation/molecule"]
    assert load_prior(tmp_path / "whole" / "prior").max_tokens == 128
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["data"]["kept"] == len({Chem.CanonSmiles(one) for one in SMILES if len(one) > 1})
    assert (tmp_path / "whole" / "figure.png").stat().st_size > 1000 or not summary["validity"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=no_such.smi", "chem.pretrain: data: must be a file of SMILES, got no_such.smi"),
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


def test_training_goes_on_from_a_prior_and_its_vocabulary(tmp_path):
    config = RecurrentConfig("lstm", layers=1, hidden=16, embedding=8, dropout=0.0)
    tokenizer = Tokenizer.of(["C", "N", "O"])
    save_prior(tmp_path / "start", Prior(make_network(len(tokenizer), config), tokenizer, config, 128))
    (tmp_path / "a.smi").write_text("\n".join(f"{'C' * n}{end}" for n in range(1, 9) for end in "NOF"))
    run = pretrain(tmp_path / "run", f"data={tmp_path / 'a.smi'}", f"init={tmp_path / 'start'}", *TINY)
    printed = run.communicate()[0]
    assert run.returncode == 0 and "kept 16, unknown token 8" in printed, printed
    start, trained = load_prior(tmp_path / "start"), load_prior(tmp_path / "run" / "prior")
    assert trained.tokenizer.tokens == start.tokenizer.tokens
    tokens, mask = tokenizer.encode_batch(["CCCCO", "CCN"])
    before, after = (token_logp(prior.network, tokens, mask).sum() for prior in (start, trained))
    assert float(after.detach()) > float(before.detach())
    other = pretrain(tmp_path / "other", f"data={tmp_path / 'a.smi'}", f"init={tmp_path / 'start'}")
    assert "chem.pretrain: network: must be that of init" in other.communicate()[0]
    assert other.returncode == 1
