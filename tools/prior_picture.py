"""Draw docs/images/prior.png: the shipped prior beside its training set, and the held-out losses of its card.

    MARA_DATA=FOLDER python -m tools.prior_picture

The folder holds zinc250k.smi.gz. The samples are those of `chem/prior/report.json`, drawn again; if their figures
differ, the command ends with an error. The losses of single updates are not kept with the prior, so the curve has
those that the card lists. It takes two minutes.
"""

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from chem.models.corpus import read_corpus
from chem.models.prior import SHIPPED, load_prior
from chem.models.prior_report import compare_with_training, draw_report, sample_smiles
from chem.models.prior_training import TrainingData
from conf.schema.chem import PretrainConfig
from launch.cli.validation import register

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "prior.png"


def held_out_losses(card: str) -> list[dict[str, Any]]:
    """The held-out losses that a card lists, as lines of metrics.jsonl."""
    (text,) = re.findall(r"^Held-out loss in nats per molecule, by update: (.*)\.$", card, re.MULTILINE)
    pairs = (entry.split(": ") for entry in text.split(", "))
    return [{"step": int(update.replace(",", "")) - 1, "validation/molecule": float(loss)} for update, loss in pairs]


def pretrain_config() -> PretrainConfig:
    """The defaults of chem.pretrain, with the data of the shipped prior."""
    register("chem.pretrain")
    with initialize_config_module("conf.chem.pretrain", version_base="1.3"):
        config = compose("config", overrides=["data=zinc250k.smi.gz"])
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def differences(figures: dict[str, Any], report: dict[str, Any], tolerance: float = 1e-3) -> list[str]:
    """The names of figures that differ from those of a report by more than a relative tolerance."""

    def flat(tree: dict[str, Any]) -> dict[str, float]:
        nested = {
            f"{name}/{part}": value
            for name, parts in tree.items()
            if isinstance(parts, dict)
            for part, value in parts.items()
        }
        return nested | {name: value for name, value in tree.items() if not isinstance(value, dict)}

    expected = flat(report)
    return [
        f"{name} {value:.6g}, report.json {expected.get(name)}"
        for name, value in flat(figures).items()
        if name not in expected or abs(value - expected[name]) > tolerance * max(abs(expected[name]), 1e-12)
    ]


def main(picture: Path = PICTURE) -> None:
    """Sample, compare with the report, and draw."""
    config, prior = pretrain_config(), load_prior(SHIPPED)
    report = json.loads((SHIPPED / "report.json").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        corpus = read_corpus(config.data, config.filter, Path(folder))
    training = TrainingData(corpus, config, prior.tokenizer).smiles
    sampled = sample_smiles(prior, report["samples"], config.seed)
    figures, molecules, reference = compare_with_training(sampled, training, config.seed)
    if changed := differences(figures, report):
        sys.exit(f"tools.prior_picture: the samples are not those of {SHIPPED / 'report.json'}: {'; '.join(changed)}")
    losses = held_out_losses((SHIPPED / "MODEL_CARD.md").read_text("utf-8"))
    with tempfile.TemporaryDirectory() as folder:  # the SVG beside it is not kept
        drawn = draw_report(losses, molecules, reference, Path(folder) / picture.name)
        shutil.copyfile(drawn, picture)
    print(f"picture: {picture}")


if __name__ == "__main__":
    main()
