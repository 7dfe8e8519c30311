"""The words and tables of a report say the numbers of the diagnosis."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from core.diagnosis.analysis import Run, diagnose
from core.diagnosis.report import make_report, now_text
from core.diagnosis.samples import Sample
from core.diagnosis.trainer_kl import kl_fact

from .tabular import tabular_run
from .test_analysis import REF, REWARD, collapsing, lost


def report_of(samples, **options):
    return make_report(diagnose(samples, Run(**options)))


def section(report, name):
    return next(part for part in report.sections if part.name == name)


def test_the_finding_is_the_sentence_of_a_pair():
    finding = report_of(tabular_run(collapsing, 100, REWARD, REF), beta=0.05, threshold=1.0).finding
    assert "Two equally good answers, 'a0' and 'a1', are 3.2 nats apart under the reference" in finding
    assert "at any beta the optimum keeps 25 to 1. The run is at 40 to 1 after step 99" in finding
    assert "the excess over the optimum, +0.5 ± 0.2 nats, is drift. MARA at the same beta gives 1 to 1." in finding


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (lambda step: (0.5, 0.02, 0.08, 0.4), "that is the optimum within the error"),
        (lambda step: (0.5, 0.3, 0.1, 0.1), "it has not reached the optimum"),
        (lambda step: (0.9, 0.0, 0.1, 0.0), "none of the second, where the optimum would have about"),
    ],
)
def test_a_run_at_before_and_beyond_its_optimum(path, text):
    run = tabular_run(lambda step: (0.5, 0.02, 0.08, 0.4) if step == 0 else path(step), 60, REWARD, REF)
    assert text in report_of(run, beta=0.05, threshold=1.0).finding


def test_the_table_of_answers_has_the_shares():
    table = section(report_of(tabular_run(collapsing, 100, REWARD, REF), beta=0.05, threshold=1.0), "answers").tables[
        0
    ]
    assert [name for name, _ in table.columns] == [
        *("answer", "reward", "reference", "first steps", "last steps", "optimum", "texts"),
    ]
    row = table.rows[0]
    assert row[:5] == ["'a0'", "1", "50.0%", "50.0%", "80.0%"]
    assert all(len(row) == len(table.columns) for row in table.rows)


def test_the_kl_section_says_what_the_settings_are():
    run = tabular_run(collapsing, 100, REWARD, REF)
    for settings, text in [
        ({"use_kl_loss": "true", "kl_loss_type": "k1"}, "it does nothing (verl 1 in docs/kl.md)"),
        ({"use_kl_loss": "true"}, "is not that of KL(policy, reference): forward KL of tokens (verl 7"),
        ({"use_kl_in_reward": "true", "adv_estimator": "rloo"}, "reverse KL of sequences, as its name says (verl 11"),
        ({"use_kl_in_reward": "true"}, "has not been measured"),
        ({}, "There is no KL term"),
    ]:
        kl = kl_fact("verl", settings)
        report = report_of(run, beta=kl.beta, threshold=1.0, trainer="verl", kl=kl)
        assert text in " ".join(section(report, "kl").paragraphs), settings
    no_kl = report_of(run, beta=0.0, threshold=1.0, trainer="verl", kl=kl_fact("verl", {}))
    assert "without a KL term nothing decides between them" in no_kl.finding
    assert "drift." not in no_kl.finding


def test_what_is_missing_is_said():
    samples = tabular_run(lost, 80, (1.0, 1.0, 1.0, 0.0))
    unknown = " ".join(report_of(samples, how_to_score="Say reference=FOLDER.").unknown)
    assert "No log-probabilities under the reference" in unknown
    assert "Say reference=FOLDER." in unknown
    assert "beta is not known" in unknown
    assert "No rewards" not in unknown
    bare = [Sample(s.step, s.prompt, s.answer, s.text) for s in samples]
    report = report_of(bare)
    assert "No rewards" in " ".join(report.unknown)
    assert "collapse from step" in report.finding
    assert "Without rewards the objective is not known" in " ".join(section(report, "optimum").paragraphs)
    full = report_of(tabular_run(collapsing, 100, REWARD, REF), beta=0.05)
    assert full.unknown == []  # control


def test_a_null_run_is_not_called_a_collapse():
    report = report_of(tabular_run(lambda step: (0.5, 0.5), 80, (1.0, 1.0), (0.5, 0.5)), beta=0.05)
    assert report.finding.startswith("No collapse during these steps")
    assert report.advice == []
    assert report_of([Sample(0, "p", "a", "a", 1.0)]).finding.startswith("No prompt has two good completions")


@pytest.mark.parametrize(
    ("error", "words"), [(0.0, "the excess is drift"), (0.8, "too few to tell it from the optimum")]
)
def test_an_answer_that_is_gone_is_drift_only_beyond_the_error_of_the_reference(error, words):
    pair: Any = SimpleNamespace(now=math.inf, counts=(23, 0), optimum=math.log(7), ref_error=error)
    diagnosis: Any = SimpleNamespace(bins=[SimpleNamespace(last=120)], run=SimpleNamespace(beta=0.01))
    assert words in now_text(pair, diagnosis)  # 3.3 of the second are expected, or at two errors 0.7


def test_files_that_list_each_completion_once_do_not_say_where_the_run_is():
    """Control: without that mark the same samples do."""
    samples = tabular_run(lost, 40, REWARD, REF, scored=True)
    for lists_once in (False, True):
        report = report_of(samples, beta=0.05, lists_once=lists_once)
        text = " ".join(paragraph for section in report.sections for paragraph in section.paragraphs)
        assert ("How often the run samples each now is not in the files." in text) == lists_once
        assert ("the run has" in text or "The run is at" in text) != lists_once
        (table,) = [table for section in report.sections for table in section.tables if "Effective" in table.title]
        assert ("The files list each completion once" in report.finding) == lists_once
        assert ("last steps" in [name for name, _ in table.columns]) != lists_once
        assert all(len(row) == len(table.columns) for row in table.rows)


def test_repeats_are_told_where_each_completion_is_listed_once():
    samples = tabular_run(lambda step: (0.5, 0.02, 0.08, 0.4), 40, REWARD, REF, scored=True)
    finding = report_of(samples, beta=0.05, lists_once=True, repeats=(0.1, 0.95)).finding
    assert "in the first tenth of the steps 10.0% of the samples had been met before, in the last 95.0%." in finding
    assert "No collapse" not in finding
    assert "No collapse" in report_of(samples, beta=0.05).finding  # control
