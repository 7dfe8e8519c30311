"""python -m chem.diagnose on a run of REINVENT whose policy is known."""

import math
import re

import pytest

pytest.importorskip("rdkit", reason="needs the extra chem")

from chem.diagnose import check_values, main
from conf.schema.base import ConfigError

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
