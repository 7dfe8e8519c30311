"""python -m chem.diagnose on a run of REINVENT whose policy is known."""

import math
import re

import pytest

pytest.importorskip("rdkit", reason="needs the extra chem")

from chem.diagnose import check_values, known_run, main
from chem.diagnosis_files import OURS, Molecules
from conf.schema.base import ConfigError
from core.diagnosis.samples import Sample
from launch.runs.run_folder import read_jsonl
from tests.commands import run_module

PRIOR = {"Cc1ccccc1": 0.5, "C1CCCCC1C": 0.02, "CCO": 0.48}  # two good scaffolds, 25 to 1
GOOD = ("Cc1ccccc1", "C1CCCCC1C")


def write_run(path, agent):
    """Each molecule as often as the agent has it, 100 in a step."""
    lines = ["Agent,Prior,Target,Score,SMILES,step"]
    for step in range(1, 61):
        for smiles, probability in agent(step).items():
            agent_nll, prior_nll, score = -math.log(probability), -math.log(PRIOR[smiles]), float(smiles in GOOD)
            row = f"{agent_nll:.4f},{prior_nll:.4f},0,{score:.7f},{smiles},{step}"
            lines += [row] * round(100 * probability)
    path.write_text("\n".join(lines) + "\n")
    return path


def moved(step):
    share = min(max((step - 20) / 20, 0), 1)
    first = round(0.5 + 0.3 * share, 2)
    return {"Cc1ccccc1": first, "C1CCCCC1C": 0.02, "CCO": round(0.98 - first, 2)}


def test_the_optimum_is_that_of_sigma(tmp_path, capsys):
    path = write_run(tmp_path / "run_1.csv", moved)
    assert main([str(path), "sigma=128", f"out={tmp_path / 'out'}"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "Two equally good scaffolds, 'c1ccccc1' and 'C1CCCCC1', are 3.2 nats apart under the reference" in text
    assert "the optimum keeps 25 to 1. The run is at 40 to 1" in text
    assert "MARA at the same beta gives 1 to 1" in text
    assert "mara chem convert" in text or "python -m chem.convert" in text
    assert (tmp_path / "out" / "diagnosis.html").is_file()


def test_keys_are_checked():
    assert check_values({"sigma": "128"}) == (1 / 128, "scaffold")
    assert check_values({"beta": "0.1", "classes": "molecule"}) == (0.1, "molecule")
    for values, message in [
        ({"sigma": "1", "beta": "1"}, "sigma: cannot be combined"),
        ({"sigma": "0"}, "sigma: must be > 0"),
        ({"classes": "atom"}, "classes: must be scaffold or molecule"),
        ({"sgima": "1"}, "did you mean sigma"),
    ]:
        with pytest.raises(ConfigError, match=message):
            check_values(values)


@pytest.mark.parametrize(("screens", "threshold"), [([0.8, 0.7], 0.7), ([1.0], None), ([], None)])
def test_without_a_threshold_the_lowest_screen_of_a_run_is_one_if_it_is_reached(screens, threshold):
    config = {"objective": {"beta": 0.01}, "transform": {"name": "identity"}, "screens": screens}
    molecules = Molecules([Sample(0, "", "C", "C", 0.75), Sample(0, "", "N", "N", None)], OURS, config)
    run, notes = known_run(molecules, None, {}, "molecule")
    assert (run.threshold, run.beta, run.lists_once, len(notes)) == (
        threshold,
        0.01,
        True,
        int(threshold is not None),
    )
    assert known_run(molecules, 0.5, {"threshold": "0.2"}, "molecule")[0].threshold == 0.2


@pytest.mark.slow
def test_a_run_folder_of_ours_says_everything(tmp_path, capsys):
    """A run as a user starts it: beta, threshold and log-probabilities are its own, and the optimum is computed."""
    run = tmp_path / "run"
    settings = [
        "experiment=qed",
        "steps=8",
        "batch_size=32",
        "threads=1",
        "cache=null",
        "transform.threshold.value=0.7",
    ]
    assert run_module("chem", *settings, "objective.beta=0.02", f"hydra.run.dir={run}").returncode == 0
    assert main([str(run), "classes=molecule", f"out={tmp_path / 'out'}"]) == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "objective.beta=0.02" in text
    assert "the threshold: given, 0.7" in text
    assert "shares are from log-probabilities of the molecules under the reference" in text
    assert "What cannot be known" not in text
    assert "trainer=" not in text
    rows = [row for row in read_jsonl(run / "samples.jsonl") if row["score"] is not None]
    good = [row for row in rows if row["score"] >= 0.7]
    (cells,) = re.findall(r"all molecules │ ([\d,]+) │ ([\d.]+) │ ([\d.]+) │ ([\d.]+)", text)
    seen, reference, optimum, mara = (float(cell.replace(",", "")) for cell in cells)
    assert seen == len(good) > 10
    assert reference == pytest.approx(effective([row["ref_seq_logp"] for row in good]), rel=0.01)
    assert optimum == pytest.approx(effective([row["ref_seq_logp"] + row["score"] / 0.02 for row in good]), rel=0.01)
    assert mara == pytest.approx(len(good), rel=0.01)
    assert optimum < reference < mara


def effective(log_weights):
    """exp(entropy) of weights, from their logs."""
    top = max(log_weights)
    total = sum(math.exp(value - top) for value in log_weights)
    return math.exp(-sum(math.exp(v - top) / total * (v - top - math.log(total)) for v in log_weights))
