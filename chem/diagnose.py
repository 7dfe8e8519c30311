"""`python -m chem.diagnose FILE... [KEY=VALUE...]`: what is wrong with a run of REINVENT 4, Saturn or this project.

FILE is the CSV file of REINVENT 4 (Agent, Prior, Score, SMILES, step), the oracle history of Saturn (oracle_calls,
smiles, reward), a run folder of python -m chem, whose configuration tells beta, threshold and KL, or any table with
the columns smiles and score.

It answers: which scaffolds or molecules there are and how their shares moved; distinct ones and entropy over
training; when a collapse began, with its error; the optimum of the run's own objective beside where the run is, and
what is drift; which beta ties which; what to change, the most effective first; and what the files do not tell.

  sigma=NUMBER                 of REINVENT: beta is 1 / sigma
  beta=NUMBER                  coefficient of the KL, reward units per nat
  threshold=NUMBER             lowest good score (default: the highest, or a quantile of the first steps)
  classes=scaffold|molecule    which molecules count as the same (default: those with the same Murcko scaffold)
  from_prior=false             the first steps are not those of the prior
  out=FOLDER                   default: diagnosis; gets diagnosis.html, which works offline, and its figures

Examples:
  python -m chem.diagnose staged_learning_1.csv sigma=128 threshold=.8
  python -m chem.diagnose oracle_history.csv threshold=.8
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.schema.base import ConfigError
from launch.cli.key_values import check_keys, number_of, run_on_files, truth_of
from launch.runs.progress import working
from launch.runs.run_folder import flatten, user_path
from launch.runs.streams import run_command

if TYPE_CHECKING:
    from chem.diagnosis_files import Molecules
    from core.diagnosis.analysis import Run

KEYS = ("sigma", "beta", "threshold", "classes", "from_prior", "out")
CLASSES = {"scaffold": "the same Murcko scaffold", "molecule": "the same canonical SMILES"}
SCORING = "The CSV of REINVENT 4 has them, as Agent and Prior."


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    return run_on_files(
        "chem.diagnose",
        __doc__,
        diagnose_files,
        arguments,
        words="files, run folders",
        needed="a CSV file or a run folder",
    )


def diagnose_files(paths: Sequence[Path], values: dict[str, str]) -> Path:
    """Read, diagnose and show; returns the page.

    Raises:
        ConfigError: a key or a file is wrong; the message is one line.
    """
    beta, classes = check_values(values)
    with working("loading the libraries"):
        from chem.diagnosis_files import SATURN, read_molecules, with_classes
        from core.diagnosis.analysis import diagnose
        from core.diagnosis.curves import make_panels
        from core.diagnosis.report import make_report
        from launch.analysis.diagnosis_page import show_diagnosis

    molecules = read_molecules(paths)
    with working("diagnosing"):
        samples = with_classes(molecules.samples, classes)
        if not samples:
            raise ConfigError(f"{paths[0]}: no row is a molecule that RDKit can read")
        run, notes = known_run(molecules, beta, values, classes)
        diagnosis = diagnose(samples, run)
        report = make_report(diagnosis)
    left_out = len(molecules.samples) - len(samples)
    if left_out:
        notes.append(f"{left_out:,} rows are no molecules and were left out.")
    title = ", ".join(path.name or str(path) for path in paths[:3])
    x_label = "oracle calls" if molecules.origin == SATURN else "step"
    out = user_path(values.get("out", "diagnosis"))
    return show_diagnosis(
        report, make_panels(diagnosis), out, title=title, notes=[*molecules.notes, *notes], x_label=x_label
    )


def known_run(
    molecules: "Molecules", beta: float | None, values: dict[str, str], classes: str
) -> "tuple[Run, list[str]]":
    """What is known of the run, from the keys and the run folder, and notes on what its optimum leaves out."""
    from chem.diagnosis_files import LISTED_ONCE, repeats
    from core.diagnosis.advice import CHEM, REINVENT
    from core.diagnosis.analysis import Run
    from core.diagnosis.own_run import own_run

    threshold = number_of(values, "threshold")
    words: dict[str, Any] = {
        "from_reference": truth_of(values, "from_prior", True),
        "classes": CLASSES[classes],
        "noun": "molecule",
        "answer_noun": classes,
        "lists_once": molecules.origin in LISTED_ONCE,
        "repeats": repeats(molecules.metrics),
        "how_to_score": SCORING,
    }
    if molecules.config:
        run, notes = own_run(flatten(dict(molecules.config)), beta, threshold, trainer=CHEM, **words)
        screen = min(molecules.config.get("screens") or [math.inf])
        if run.threshold is None and any((sample.reward or 0.0) >= screen for sample in molecules.samples):
            return replace(run, threshold=screen), [*notes, f"The threshold is the lowest of screens, {screen:g}."]
        return run, notes
    return Run(beta=beta, threshold=threshold, trainer=REINVENT, **words), []


def check_values(values: dict[str, str]) -> tuple[float | None, str]:
    """The coefficient of the KL, None if it is not known, and the classes.

    Raises:
        ConfigError: a key is unknown or has a value that it cannot have.
    """
    check_keys(values, KEYS)
    beta, sigma, classes = (
        number_of(values, "beta", 0.0),
        number_of(values, "sigma", 0.0),
        values.get("classes", "scaffold"),
    )
    if beta is not None and sigma is not None:
        raise ConfigError("sigma: cannot be combined with beta=, which is 1 / sigma")
    if sigma == 0:
        raise ConfigError("sigma: must be > 0, got 0")
    if classes not in CLASSES:
        raise ConfigError(f"classes: must be scaffold or molecule, got {classes}")
    return beta if sigma is None else 1 / sigma, classes


if __name__ == "__main__":
    run_command("chem.diagnose", main)
