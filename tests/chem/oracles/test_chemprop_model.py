"""Models of Chemprop against Chemprop's own predictions, and files that hold something else."""

import sys
from pathlib import Path

import pytest
import torch
from rdkit import Chem

from chem.oracles.base import Molecule
from chem.oracles.chemprop_model import ChempropModel, allowed_global
from conf.schema.base import ConfigError

SMILES = ["CCO", "c1ccccc1", "C", "CC(=O)Nc1ccc(O)cc1"]
MOLECULES = [Molecule(Chem.MolFromSmiles(smiles)) for smiles in SMILES]


@pytest.mark.parametrize("kind", ["regression", "classification", "tasks"])
def test_predictions_are_those_of_chemprop(kind, tmp_path):
    pytest.importorskip("chemprop", reason="needs chemprop")
    from chemprop import data, featurizers, models, nn

    torch.manual_seed(0)
    scaled = nn.UnscaleTransform([1.0], [2.0])
    predictor = {
        "regression": lambda: nn.RegressionFFN(output_transform=scaled, criterion=nn.metrics.MSE()),
        "classification": nn.BinaryClassificationFFN,
        "tasks": lambda: nn.RegressionFFN(n_tasks=3),
    }[kind]()
    metrics = [nn.metrics.RMSE(), nn.metrics.MAE()] if kind == "regression" else None
    network = models.MPNN(nn.BondMessagePassing(), nn.MeanAggregation(), predictor, batch_norm=True, metrics=metrics)
    path = tmp_path / "model.pt"
    models.save_model(path, network)
    featurizer = featurizers.SimpleMoleculeMolGraphFeaturizer()
    network.eval()
    with torch.inference_mode():
        expected = network(data.BatchMolGraph([featurizer(molecule.mol) for molecule in MOLECULES]))
    column = 2 if kind == "tasks" else None
    model = ChempropModel(str(path), column=column)
    assert model.score_batch(MOLECULES) == pytest.approx(expected[:, column or 0].tolist(), rel=1e-5)
    assert expected[:, 0].std() > 1e-4  # control: the molecules differ
    if kind == "tasks":
        with pytest.raises(ConfigError, match=r"^column: must be from 0 to 2, as model\.pt predicts, got null$"):
            ChempropModel(str(path))


def test_other_classes_are_not_made(tmp_path):
    assert allowed_global(Path("model.pt"), "torch.nn.modules.activation.ReLU") is torch.nn.ReLU
    for name in ("os.system", "builtins.eval", "torch.nn.modules.activation.warnings", "chemprop.cli.main.main"):
        with pytest.raises(ConfigError, match=rf"^model: model\.pt names {name}, which no model of Chemprop does"):
            allowed_global(Path("model.pt"), name)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    path.touch()
    for module in ("chemprop", "chemprop.data"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"^model: models of Chemprop need .*: pip install 'chemprop>=2\.1' \("):
        ChempropModel(str(path))
