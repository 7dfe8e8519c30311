"""`python -m llm.diagnose FILE... [KEY=VALUE...]`: what is wrong with a run that some trainer has made.

FILE is a file of rollouts, or the folder in which a trainer writes them:

  TRL        output_dir, with log_completions=True: completions/*.parquet, and trainer_state.json
  verl       trainer.rollout_data_dir: STEP.jsonl
  OpenRLHF   the table train/generated_samples of Weights & Biases (*.table.json), or TensorBoard's events
  mara       a run folder: samples.jsonl
  others     JSON Lines, JSON, CSV, TSV or Parquet with a completion in each row, and what is there of prompt, reward,
             step, and log-probabilities of the sequence (or a list, of its tokens) under policy and reference

It answers: which answers there are and how their shares moved; distinct answers, entropy and pass@k over training;
when a collapse began, with its error; the optimum of the run's own objective beside where the run is, and what is
drift; which beta ties which answers; whether the KL has the gradient that its name says; what to change, the most
effective first, as the trainer's own settings; and what the files do not tell.

Columns, where they have other names than prompt, completion, reward, step, policy_logp, ref_logp (and usual ones such
as input, output, score, response, old_log_probs, ref_log_prob):
  prompt=, completion=, step=, policy_logp=, ref_logp=   the name of the column
  reward=COLUMN[,COLUMN]   several are added
  answer=COLUMN            an extracted answer, such as verl's pred: completions with the same one are equivalent
  split=TEXT               what stands before the completion, where prompt and completion are one text

The run:
  trainer=trl|verl|openrlhf   whose settings follow; found by the files of these three
  beta=NUMBER                 coefficient of the KL, reward units per nat
  threshold=NUMBER            lowest good reward (default: the highest, or a quantile of the first steps)
  config=FILE                 the trainer's configuration (.hydra/config.yaml of verl, config.yaml of W&B)
  KL settings                 beta, use_bias_correction_kl, loss_type ... of TRL; use_kl_loss, kl_loss_type,
                              use_kl_in_reward ... of verl; algo.kl.estimator ... of OpenRLHF (docs/kl.md)
  from_reference=false        the first steps are not those of the reference

Answers and the reference:
  equivalence=exact|embedding, embedder=MODEL, embedding_threshold=NUMBER   when two completions are the same
  reference=MODEL             folder or hub name of the model before training: computes its log-probabilities
  device=auto|cpu|cuda        for it

Files in out=FOLDER (default: diagnosis): diagnosis.html, which works offline, and its figures as PNG and SVG.

Examples:
  python -m llm.diagnose policy beta=.04 use_bias_correction_kl=false
  python -m llm.diagnose rollouts config=outputs/.hydra/config.yaml answer=pred
  python -m llm.diagnose samples.jsonl completion=response reward=score reference=Qwen/Qwen3-1.7B
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cli.key_values import number_of, run_on_files
from launch.runs.closing import command
from launch.runs.progress import working
from launch.runs.streams import run_command

if TYPE_CHECKING:
    from core.diagnosis.samples import Sample
    from llm.diagnosis.columns import Rollout
    from llm.diagnosis.request import Request
    from llm.diagnosis.rollout_files import Reading


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and return the exit status."""
    return run_on_files(
        "llm.diagnose",
        __doc__,
        diagnose_files,
        arguments,
        words="files, folders",
        needed="a file or a folder of rollouts",
    )


def diagnose_files(paths: Sequence[Path], values: dict[str, str]) -> Path:
    """Read, diagnose and show; returns the page.

    Raises:
        ConfigError: a key or a file is wrong; the message is one line.
    """
    with working("loading the libraries"):
        from core.diagnosis.analysis import diagnose
        from core.diagnosis.curves import make_panels
        from core.diagnosis.report import make_report
        from launch.analysis.diagnosis_page import show_diagnosis
        from llm.diagnosis.request import known_run, read_request
        from llm.diagnosis.rollout_files import read_files

    request = read_request(values)
    with working("reading the rollouts"):
        reading = read_files(paths, request.options)
    samples, classes = to_samples(reading, request)
    with working("diagnosing"):
        run = known_run(request, reading, classes)
        diagnosis = diagnose(samples, run, reading.logged)
        report = make_report(diagnosis)
    title = ", ".join(path.name or str(path) for path in paths[:3])
    return show_diagnosis(
        report,
        make_panels(diagnosis),
        request.out,
        title=title,
        notes=reading.notes,
        commands=after_diagnosis(paths, values, diagnosis.counts["ref_logp"]),
    )


def to_samples(reading: "Reading", request: "Request") -> "tuple[list[Sample], str]":
    """The rollouts as samples with their answers, scored under the reference if asked for, and what an answer is."""
    from core.diagnosis.samples import Sample

    rollouts = reading.rollouts
    if "reference" in request.values:
        rollouts = _scored(rollouts, request.values, reading)
    if any(rollout.step is None for rollout in rollouts):
        reading.note("No column with steps: the order of the rows stands for time.")
    answers, classes = name_answers(rollouts, request.values)
    samples = [
        Sample(
            number if rollout.step is None else rollout.step,
            rollout.prompt_name,
            answer,
            rollout.completion,
            rollout.reward,
            rollout.policy_logp,
            rollout.ref_logp,
        )
        for number, (rollout, answer) in enumerate(zip(rollouts, answers, strict=True))
    ]
    if not any(sample.prompt for sample in samples):
        reading.note("No column with prompts: all completions count as those of one prompt.")
    return samples, classes


def _scored(rollouts: "Sequence[Rollout]", values: dict[str, str], reading: "Reading") -> "list[Rollout]":
    from llm.diagnosis.reference_scores import Reference, score_rollouts

    with working("loading the reference"):
        reference = Reference(values["reference"], values.get("device", "auto"))
    reading.note(
        f"Log-probabilities under the reference were computed with {values['reference']} from the texts: each is "
        "tokenised anew, and taken to be complete."
    )
    return score_rollouts(rollouts, reference)


def name_answers(rollouts: "Sequence[Rollout]", values: dict[str, str]) -> tuple[list[str], str]:
    """The name of each rollout's class, and in words what equal answers have in common."""
    from llm.evaluation.equivalence import Embedder, embedding_partition, normalise_text

    texts = [normalise_text(r.completion if r.answer is None else r.answer) for r in rollouts]
    if values.get("equivalence", "exact") == "exact":
        what = "answer" if any(rollout.answer is not None for rollout in rollouts) else "text"
        return texts, f"the same {what}, but for case and white space"
    from llm.diagnosis.request import EMBEDDER, EMBEDDING_THRESHOLD
    from llm.models import resolve_device

    name, threshold = values.get("embedder", EMBEDDER), number_of(values, "embedding_threshold")
    threshold = EMBEDDING_THRESHOLD if threshold is None else threshold
    embed = Embedder(name, resolve_device(values.get("device", "auto"), "device"))
    by_prompt: dict[str, dict[str, str]] = defaultdict(dict)
    for rollout, text in zip(rollouts, texts, strict=True):
        by_prompt[rollout.prompt_name][text] = text
    for classes in by_prompt.values():
        distinct = list(classes)
        partition = embedding_partition(embed(distinct), threshold)
        first = [distinct[partition.index(number)] for number in partition]
        classes |= dict(zip(distinct, first, strict=True))
    names = [by_prompt[rollout.prompt_name][text] for rollout, text in zip(rollouts, texts, strict=True)]
    return names, f"embeddings with a cosine similarity of at least {threshold:g} by {name}"


def after_diagnosis(paths: Sequence[Path], values: dict[str, str], scored: int) -> list[str]:
    """The command that can follow: with log-probabilities under the reference, if there are none."""
    if scored or "reference" in values:
        return []
    words = [f"{key}={value}" for key, value in values.items()]
    return [command("llm.diagnose", *paths, *words, "reference=FOLDER")]


if __name__ == "__main__":
    run_command("llm.diagnose", main)
