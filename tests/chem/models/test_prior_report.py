"""Samples of a prior compared with its training set."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from chem.models.corpus import Corpus
from chem.models.prior import SHIPPED, load_prior
from chem.models.prior_report import (
    COMPARED_PROPERTIES,
    compare_with_training,
    measure_molecules,
    property_table,
    report_prior,
    sample_smiles,
    sample_table,
)
from chem.molecules import canonical_forms

TRAINING = ["c1ccccc1C", "CCO", "CCN", "c1ccncc1C", "C1CCCCC1"]


def test_the_shipped_prior_samples_what_its_report_says():
    report = json.loads((SHIPPED / "report.json").read_text())
    count = 400
    sampled = sample_smiles(load_prior(SHIPPED), count, seed=5)
    molecules = [molecule for molecule in canonical_forms(sampled) if molecule is not None]
    validity = report["validity"]
    assert abs(len(molecules) / count - validity) < 4 * (validity * (1 - validity) / count) ** 0.5
    assert len(set(molecules)) / len(molecules) > 0.99


def test_samples_depend_on_the_seed_and_not_on_the_batches(monkeypatch):
    prior = load_prior(SHIPPED)
    sampled = sample_smiles(prior, 7, seed=1)
    monkeypatch.setattr("chem.models.prior_report.SAMPLE_BATCH", 3)
    assert sample_smiles(prior, 7, seed=1) == sampled != sample_smiles(prior, 7, seed=2)


def test_properties_of_known_molecules():
    molecules = measure_molecules(["CCO", "Cc1ccccc1"])
    assert molecules.scaffolds == {"", "c1ccccc1"}
    assert set(molecules.properties) == set(COMPARED_PROPERTIES)
    known = {"weight": [46.07, 92.14], "tpsa": [20.23, 0.0], "donors": [1, 0], "acceptors": [1, 0], "rings": [0, 1]}
    for name, values in known.items():
        assert molecules.properties[name].tolist() == pytest.approx(values, abs=5e-3)


def test_figures_by_hand():
    sampled = ["OCC", "CCO", "C(", "", "Cc1ccccc1", "CCCl", "Oc1ccncc1", "CCCCCC"]
    figures, molecules, reference = compare_with_training(sampled, TRAINING, seed=0)
    assert molecules.smiles == ["CCO", "Cc1ccccc1", "CCCl", "Oc1ccncc1", "CCCCCC"]
    assert sorted(reference.smiles) == sorted(TRAINING)  # five of five
    assert (figures["samples"], figures["validity"], figures["uniqueness"]) == (8, 6 / 8, 5 / 6)
    assert figures["novelty"] == 4 / 5  # "c1ccccc1C" is no canonical form, so only CCO is known
    assert figures["scaffolds"] == 3
    assert figures["scaffolds/per_training_molecule"] == 4 / 5
    assert figures["scaffolds/new_share"] == 0
    weight = figures["property/weight"]
    ours, theirs = (np.sort(side.properties["weight"]) for side in (molecules, reference))
    assert weight["wasserstein_in_std"] == pytest.approx(np.abs(ours - theirs).mean() / theirs.std())
    assert (weight["mean"], weight["training_std"]) == (pytest.approx(ours.mean()), pytest.approx(theirs.std()))


def test_a_prior_without_a_valid_sample_has_figures():
    figures, molecules, _ = compare_with_training(["C(", ""], TRAINING, seed=0)
    assert molecules.smiles == []
    assert (figures["validity"], figures["uniqueness"], figures["novelty"], figures["scaffolds"]) == (0, 0, 0, 0)
    assert "property/weight" not in figures


def test_the_report(tmp_path, capsys):
    rows = [{"step": step, "nll/molecule": 30.0 - step} for step in range(6)]
    rows[-1]["validation/molecule"] = 24.5
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = SimpleNamespace(folder=tmp_path, finish=lambda summary: summaries.append(summary))
    summaries: list[dict] = []
    prior, corpus = load_prior(SHIPPED), Corpus(TRAINING, {"kept": 5}, {"name": "a.smi"})
    report_prior(run, prior, corpus, TRAINING, samples=40, seed=0, loss=24.5)
    (summary,) = summaries
    assert summary["data"] == {"kept": 5, "name": "a.smi"}
    assert (summary["vocabulary"], summary["parameters"]) == (49, 1_466_801)  # as on its card
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "40 samples" in printed
    assert "Distinct samples and as many training molecules" in printed
    assert list(sample_table(summary).columns[0].cells) == ["24.5"]
    assert list(property_table(summary).columns[0].cells) == list(COMPARED_PROPERTIES)
