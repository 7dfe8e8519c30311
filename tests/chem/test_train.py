"""Reinforcement learning from a prior: losses, stops, resuming, sweeps, mistakes."""

import csv
import html
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from chem.models.network import token_logp
from chem.models.prior import Prior, load_prior, make_network, save_prior
from chem.models.tokenizer import Tokenizer
from chem.train import BestPolicy, Reinvent, StopMonitor
from conf.schema.chem import RecurrentConfig, StopConfig
from conf.schema.run import OptimizerConfig
from core.objective import make_objective
from launch import collect
from launch.engines.torch import TorchEngine
from launch.runs.run_folder import read_jsonl

ROOT = Path(__file__).parents[2]
CONFIG = RecurrentConfig("gru", layers=1, hidden=12, embedding=8, dropout=0.0)
OPTIONS = {"direction": "reverse", "advantage": "no_baseline"}


def group(seed=0, rows=12, length=5):
    generator = torch.Generator().manual_seed(seed)
    policy = -torch.rand(1, rows, length, generator=generator, dtype=torch.float64)
    reference = -torch.rand(1, rows, length, generator=generator, dtype=torch.float64)
    reward = torch.rand(1, rows, generator=generator, dtype=torch.float64)
    mask = torch.arange(length) < torch.randint(1, length + 1, (1, rows, 1), generator=generator)
    return reward, policy.requires_grad_(), reference, mask


@pytest.mark.parametrize("transform", ["identity", "mara"])
@pytest.mark.parametrize("beta", [1 / 128, 0.5])
def test_reinvents_gradient_is_the_policy_gradients_by_sigma_is_one_over_beta(transform, beta):
    own = {"algorithm": "auto"} if transform == "mara" else {}
    threshold = {"kind": "constant", "value": 0.6, "floor": None}
    plain = make_objective(transform=transform, transform_options=own, threshold=threshold, **OPTIONS)
    reinvent = Reinvent(**vars(plain))
    reward, policy, reference, mask = group()
    valid = torch.arange(12).unsqueeze(0) != 3
    complete = torch.arange(12).unsqueeze(0) != 5
    gradients = []
    for objective in (plain, reinvent):
        loss, metrics = objective.loss(reward, policy, reference, mask, beta=beta, valid=valid, complete=complete)
        gradients.append(torch.autograd.grad(loss, policy)[0])
        assert "reward/augmented" in metrics
        assert "mara/good_share" in metrics
    torch.testing.assert_close(gradients[1], gradients[0] * 2 / beta)
    assert not gradients[1][~mask].any()
    assert not gradients[1][:, 3].any()
    loss, _ = reinvent.loss(reward, policy, reference, mask, beta=2 * beta, valid=valid, complete=complete)  # control
    assert not torch.allclose(torch.autograd.grad(loss, policy)[0], gradients[0] * 2 / beta)


def step_of(**shares):
    return {"reward/raw": 0.5, "valid": 1.0, "unique": 1.0, "scaffolds": 0.5, "repeats": 0.0, **shares}


@pytest.mark.parametrize(
    ("limits", "bad", "reason"),
    [
        ({"min_validity": 0.8}, {"valid": 0.7}, "validity 0.70"),
        ({"min_uniqueness": 0.5}, {"unique": 0.4}, "uniqueness 0.40"),
        ({"min_scaffolds": 0.2}, {"scaffolds": 0.1}, "scaffolds 0.10"),
        ({"max_repeats": 0.5}, {"repeats": 0.6}, "repeats 0.60"),
    ],
)
def test_a_run_stops_on_collapse_and_drift(limits, bad, reason):
    nothing = {"min_validity": None, "min_uniqueness": None, "min_scaffolds": None, "max_repeats": None}
    watch = StopMonitor(StopConfig(3, **nothing | limits))
    assert [watch.update(step_of()) for _ in range(4)] == [None] * 4
    again = StopMonitor(watch.config)
    again.load_state_dict(watch.state_dict())
    said = [watch.update(step_of(**bad)) for _ in range(3)]
    assert (said[-1].startswith(f"{reason} over the last 3 steps") and said[0] is None) or limits == {
        "max_repeats": 0.5
    }
    assert [again.update(step_of(**bad)) for _ in range(3)] == said
    calm = StopMonitor(StopConfig(3, **nothing))
    assert [calm.update(step_of(**bad)) for _ in range(9)] == [None] * 9  # control


def test_the_best_policy_comes_back_with_its_optimiser():
    module = nn.Linear(2, 1)
    engine = TorchEngine(module, OptimizerConfig(0.1, 0.0, 0.9, 0.999, 0, "constant", None), 10)
    best = BestPolicy(engine)
    assert "no earlier policy" in best.restore()

    def move():
        engine.backward(module(torch.ones(1, 2)).sum())
        engine.step()
        return module.weight.detach().clone()

    move()
    best.update(0.5, False)  # not eligible
    kept = move()
    best.update(0.4, True)
    after = [move(), move()]
    best.update(0.3, True)
    again = BestPolicy(engine)
    again.load_state_dict(best.state_dict())
    assert "0.400" in again.restore()
    assert torch.equal(module.weight, kept)
    assert [torch.equal(move(), weight) for weight in after] == [True, True]  # Adam's moments came back, too


def write_prior(folder, config):
    """A network that has learnt nothing but short chains: most of what it draws is a molecule."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.of(["C", "N", "O", "F"])
    network = make_network(len(tokenizer), config)
    with torch.no_grad():
        network.head.bias[:2] = torch.tensor([1.0, -20.0])
    save_prior(folder, Prior(network.eval(), tokenizer, config, 16))
    return folder


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return write_prior(tmp_path_factory.mktemp("prior"), CONFIG)


SMALL = ["steps=12", "oracle.workers=1", "checkpoint.every_steps=3"]
ALL_PARTS = [
    "transform=mara",
    "transform.threshold.value=0.4",
    "duplicates=zero",
    "replay.size=10",
    "replay.sample=4",
    "replay.augmentations=1",
    "replay.purge=true",
    "diversity_filter.name=identical_murcko",
    "diversity_filter.min_score=0.3",
    "diversity_filter.bucket_size=3",
    "loss=reinvent",
]


def chem(prior, folder, *overrides, cache="null", rows=16, threads=1):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    where = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
    command = [
        sys.executable,
        "-m",
        "chem",
        f"prior={prior}",
        f"{where}={folder}",
        f"cache={cache}",
        f"batch_size={rows}",
        f"threads={threads}",
        *SMALL,
        *overrides,
    ]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path):
    """A share of its batch is drawn in another process."""
    prior = write_prior(tmp_path / "prior", replace(CONFIG, name="lstm"))
    whole, killed = (chem(prior, tmp_path / name, *ALL_PARTS, rows=64, threads=2) for name in ("whole", "killed"))
    lines = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (lines.exists() and lines.read_bytes().count(b"\n") > 4) and time.monotonic() < deadline:
        time.sleep(0.005)
    helpers = [child for child in psutil.Process(killed.pid).children() if "chem.parallel.sampler" in child.cmdline()]
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(helpers) == 1
    assert not psutil.wait_procs(helpers, timeout=20)[1]
    assert not (tmp_path / "killed" / "summary.json").exists()
    resumed = chem(prior, tmp_path / "killed", *ALL_PARTS, rows=64, threads=2)
    printed, said = resumed.communicate()[0], whole.communicate()[0]
    assert whole.returncode == resumed.returncode == 0, said + printed
    assert "resuming from step" in printed
    assert "off-policy: replayed molecules" in said
    assert "Best molecules" in said
    for name in ("metrics.jsonl", "samples.jsonl", "summary.json", "molecules.csv", "policy/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name

    metrics = read_jsonl(tmp_path / "whole" / "metrics.jsonl")
    samples = read_jsonl(tmp_path / "whole" / "samples.jsonl")
    assert metrics[-1]["oracle/calls"] == len(samples) == len({row["smiles"] for row in samples})
    assert max(row["filtered"] for row in metrics) > 0
    trained, start = load_prior(tmp_path / "whole" / "policy"), load_prior(prior)
    tokens, mask = start.tokenizer.encode_batch(["CCO"])
    before, after = (token_logp(p.network, tokens, mask).sum() for p in (start, trained))
    assert abs(float(before.detach() - after.detach())) > 1e-3


PROGRAM = "echo $$ >> {log}; sleep 0.01; wc -c < {{smi}}"
VINA = {
    "receptor": "clpp_7uvu_receptor.pdbqt",
    "ligand": "clpp_7uvu_ligand.pdb",
    "ligand_smiles": "N#Cc1cccc(CN2CCc3ncn(Cc4ccc(Cl)cc4)c(=O)c3C2)c1",
}


def docking(kind, log):
    """Overrides: a program for each molecule, or Vina itself."""
    if kind == "program":
        parameters = f"{{command: [sh, '-c', '{PROGRAM.format(log=log)}'], pattern: '(\\d+)'}}"
        transform = "{name: interval, low: 4, high: 8, margin: 4}"
        part = f"{{name: external_program, parameters: {parameters}, transform: {transform}}}"
    else:
        parameters = ", ".join(f"{key}: '{value}'" for key, value in VINA.items())
        shape = "{name: reverse_sigmoid, low: -16, high: 0, k: 0.15}"
        part = f"{{name: docking, parameters: {{{parameters}, exhaustiveness: 1}}, transform: {shape}}}"
    return [f"oracle.components=[{part}]"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["program", pytest.param("vina", marks=pytest.mark.long)])
def test_killed_while_a_molecule_is_docked(prior, tmp_path, kind):
    """Nothing goes on, and the run that is taken up again ends as one that was not disturbed."""
    if kind == "vina" and not (Path(os.environ.get("MARA_DATA", "")) / VINA["receptor"]).is_file():
        pytest.skip("needs MARA_DATA with clpp_7uvu_receptor.pdbqt and clpp_7uvu_ligand.pdb")
    log = tmp_path / "log"
    options = docking(kind, log)
    killed = chem(prior, tmp_path / "killed", *options)
    lines = tmp_path / "killed" / "metrics.jsonl"
    wait_until(lambda: lines.exists() and lines.read_bytes().count(b"\n") > 4, killed)
    asked = log.stat().st_size if kind == "program" else 0
    wait_until(lambda: kind == "vina" or log.stat().st_size > asked, killed)
    workers = psutil.Process(killed.pid).children(recursive=True)
    assert any("worker" in " ".join(process.cmdline()) for process in workers)
    killed.kill()
    killed.communicate()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    if kind == "program":
        assert not any(psutil.pid_exists(int(pid)) for pid in log.read_text().split())
    assert not (tmp_path / "killed" / "summary.json").exists()
    for name in ("killed", "whole"):
        process = chem(prior, tmp_path / name, *options)
        printed = process.communicate()[0]
        assert process.returncode == 0, printed
        assert ("resuming from step" in printed) == (name == "killed")
    for name in ("metrics.jsonl", "samples.jsonl", "summary.json", "molecules.csv", "policy/model.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def wait_until(ready, process):
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def test_a_sweep_shares_the_cache_and_the_budget_ends_a_run(prior, tmp_path):
    sweep = [
        "-m",
        "objective.direction=reverse,forward",
        "objective.beta=0.02,0.1",
        "budget=20",
        "screens=[0.4,0.45]",
    ]
    process = chem(prior, tmp_path / "sweep", *sweep, cache=tmp_path / "cache.sqlite")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    summaries = json.loads((tmp_path / "sweep" / "summaries.json").read_text())
    assert len(summaries) == 4
    assert {row["stopped_by"] for row in summaries.values()} == {"budget"}
    assert {row["calls"] for row in summaries.values()} == {20}  # the first batch is the same: cached answers count
    assert said.count("oracle: 20 distinct molecules") == 4
    assert "20 distinct molecules, 0 answers" in said
    assert said.count("20 distinct molecules, 0 answers") == 1
    assert (tmp_path / "sweep" / "figure.png").stat().st_size > 1000
    check_report(tmp_path / "sweep", summaries)


def check_report(sweep, summaries):
    """What collect shows of molecules: its figures are those of molecules.csv, counted here."""
    assert collect.main([str(sweep), "--metrics", "0.4/yield,0.4/OB1"]) == 0
    page = (sweep / "collected" / "report.html").read_text()
    drawn = page.split("<h2>Best distinct molecules</h2>")[1].split("<h2>")[0]
    assert drawn.count("data:image/svg+xml;base64,") == 4 * 12
    assert "<h2>Yield</h2>" in page
    assert (sweep / "collected" / "yield.png").stat().st_size > 1000
    for number, row in enumerate(summaries.values()):
        with (sweep / str(number) / "molecules.csv").open() as file:
            scores = [float(line["score"]) for line in csv.DictReader(file)]
        assert [row["0.4/yield"], row["0.45/yield"]] == [sum(s >= screen for s in scores) for screen in (0.4, 0.45)]
        assert row["0.4/OB1"] == 1 + [score >= 0.4 for score in scores].index(True)
        assert row["0.4/OB100"] is None
        assert scores[0] != max(scores)
        assert html.escape(row["best"][0]["smiles"]) in drawn
        assert len(scores) == 20


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=reinvent", "objective.direction=forward"], "objective.direction: must be reverse with loss=reinvent"),
        (
            ["loss=reinvent", "objective.beta=0"],
            "objective.beta: must be > 0 with loss=reinvent, got 0.0: its sigma is 1 / beta",
        ),
        (["replay.sample=3"], "replay.sample: must be <= 0 (replay.size), got 3"),
        (["prior=no_such"], "no_such: must be a prior's folder with config.json"),
        (["diversity_filter.name=murcko"], "diversity_filter.name: must be one of none, identical_murcko"),
    ],
)
def test_a_mistake_is_one_line(prior, tmp_path, overrides, message):
    kept = [one for one in overrides if one.startswith("prior=")]
    process = chem(kept[0][6:] if kept else prior, tmp_path / "run", *(set(overrides) - set(kept)))
    printed = process.communicate()[0]
    assert process.returncode == 1 and f"chem: {message}" in printed and printed.count("\n") == 1, printed
