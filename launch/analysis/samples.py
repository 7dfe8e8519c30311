"""Samples of the first and last step of a run, for reading: completions, or molecules with drawings."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema.base import ConfigError
from launch.analysis.artifacts import MAX_ITEMS
from launch.runs.run_folder import iterate_jsonl

MAX_PROMPTS = 2  # of a step
MAX_COMPLETIONS = 5  # distinct ones, of a prompt
MAX_MOLECULES = MAX_ITEMS // 2  # of a step
MAX_CHARACTERS = 1500  # of a completion
MAX_SMILES = 400  # characters; a longer one is not drawn


@dataclass(frozen=True)
class Sample:
    """A completion or a molecule.

    Attributes:
        text: the completion or SMILES.
        reward: None if it has none.
        count: how often it was sampled.
        svg: the drawing of a molecule, else empty.
    """

    text: str
    reward: float | None
    count: int = 1
    svg: str = ""


@dataclass(frozen=True)
class PromptSamples:
    """Samples of one prompt of a step.

    Attributes:
        title: empty if the step has one prompt.
        samples: that are shown.
        others: how many more there are.
    """

    title: str
    samples: list[Sample]
    others: int

    @property
    def repeats(self) -> bool:
        """Whether a sample was drawn several times."""
        return any(sample.count > 1 for sample in self.samples)


@dataclass(frozen=True)
class StepSamples:
    """Samples of a step, which is counted from 1."""

    step: int
    prompts: list[PromptSamples]


def read_samples(folder: Path) -> list[StepSamples]:
    """Samples of the first and of the last step that a run logged; of one step only if there is no other.

    Raises:
        ConfigError: samples.jsonl cannot be read or holds something else.
    """
    path = folder / "samples.jsonl"
    if not path.exists():
        return []
    try:
        first, last = first_and_last(iterate_jsonl(path))
        return [step_samples(rows) for rows in (first, last) if rows]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: holds something else than a run writes: {error!r}") from None


def first_and_last(rows: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The lines of the first step and those of the last one, which are empty if there is only one step."""
    first: list[Mapping[str, Any]] = []
    last: list[Mapping[str, Any]] = []
    for row in rows:
        if not first or row["step"] == first[0]["step"]:
            first.append(row)
        else:
            if last and row["step"] != last[0]["step"]:
                last = []
            last.append(row)
    return first, last


def step_samples(rows: Sequence[Mapping[str, Any]]) -> StepSamples:
    """The samples of a step that are shown."""
    step = int(rows[0]["step"]) + 1
    if "smiles" in rows[0]:
        shown = [Sample(str(row["smiles"]), reward_of(row["score"])) for row in rows[:MAX_MOLECULES]]
        drawn = [Sample(sample.text, sample.reward, svg=molecule_drawing(sample.text)) for sample in shown]
        return StepSamples(step, [PromptSamples("", drawn, len(rows) - len(drawn))])
    prompts: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        prompts.setdefault(int(row.get("prompt", 0)), []).append(row)
    shown_prompts = list(prompts.items())[:MAX_PROMPTS]
    titles = [f"prompt {number + 1} of the step" if len(prompts) > 1 else "" for number, _ in shown_prompts]
    return StepSamples(
        step, [prompt_samples(title, of_prompt) for title, (_, of_prompt) in zip(titles, shown_prompts, strict=True)]
    )


def prompt_samples(title: str, rows: Sequence[Mapping[str, Any]]) -> PromptSamples:
    """The distinct completions of a prompt with their numbers, the most frequent first."""
    counts = Counter((str(row["completion"]), reward_of(row["reward"])) for row in rows)
    common = counts.most_common(MAX_COMPLETIONS)
    samples = [Sample(shortened(text), reward, count) for (text, reward), count in common]
    return PromptSamples(title, samples, len(rows) - sum(sample.count for sample in samples))


def reward_of(value: Any) -> float | None:
    """A reward as a number; None if there is none."""
    return None if value is None else float(value)


def shortened(text: str) -> str:
    """A text of at most MAX_CHARACTERS characters, which says how many were left out."""
    left_out = len(text) - MAX_CHARACTERS
    return text if left_out <= 0 else f"{text[:MAX_CHARACTERS]} [and {left_out:,} more characters]"


def molecule_drawing(smiles: str) -> str:
    """The drawing of a molecule as SVG; empty if RDKit is not installed or cannot read it."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError:
        return ""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if len(smiles) <= MAX_SMILES else None
        if molecule is None or molecule.GetNumAtoms() == 0:
            return ""
        canvas = rdMolDraw2D.MolDraw2DSVG(220, 150)
        canvas.DrawMolecule(molecule)
        canvas.FinishDrawing()
        return str(canvas.GetDrawingText())
