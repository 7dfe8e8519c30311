"""The facts about trainers' KL settings, against the measured table of docs/kl.md, row by row."""

import re
from itertools import product
from pathlib import Path

import pytest

from core.diagnosis.trainer_kl import (
    DEFAULTS,
    MEASURED,
    OPENRLHF,
    RLOO_BETA,
    SAME_OPTIMUM,
    TITLES,
    TRL,
    VERL,
    kl_fact,
)

PAGE = Path(__file__).parents[3] / "docs" / "kl.md"
NAMES = {title: trainer for trainer, title in TITLES.items()}
SUMS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm")


def page_rows():
    """(label, setting, gradient on policy, off policy, verdict) of each row of the page's first table."""
    rows = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and re.fullmatch(r"(TRL|verl|OpenRLHF) \d+", cells[0]):
            rows.append((cells[0], cells[1], cells[3], cells[4], cells[6]))
    return rows


ROWS = page_rows()


def names_after(text, key):
    """The values listed after `key` in a setting of the page."""
    found = re.search(rf"`{re.escape(key)}` ([^;(`]*)", text)
    return [name for name in re.split(r"[, ]+", found[1].strip()) if name] if found else []


def trl_settings(text):
    for algorithm in ("RLOO", "GMPO", "A2PO"):
        if text.startswith(algorithm):
            return [{"algorithm": algorithm.lower(), "beta": "0.1"}]
    correction = "True" if "use_bias_correction_kl=True" in text else "False"
    level = re.search(r"importance_sampling_level=(\w+)", text)
    levels = [level[1]] if level else ["token", "sequence"]
    return [
        {"beta": "0.1", "use_bias_correction_kl": correction, "importance_sampling_level": each, "loss_type": loss}
        for each, loss in product(levels, names_after(text, "loss_type"))
    ]


def verl_settings(text):
    modes = ["seq-mean-token-mean"] if "`loss_agg_mode` seq-mean-token-mean" in text else SUMS
    where = "use_kl_loss" if "`use_kl_loss`" in text else "use_kl_in_reward"
    kinds = {"use_kl_loss": "kl_loss_type", "use_kl_in_reward": "kl_penalty"}[where]
    estimators = re.findall(r"`adv_estimator` (\w+)", text) or ["grpo"]
    return [
        {where: "True", kinds: kind, "loss_agg_mode": mode, "adv_estimator": estimator}
        for kind, mode, estimator in product(names_after(text, kinds), modes, estimators)
    ]


def openrlhf_settings(text):
    shared = {"algo.kl.use_loss": str("use_loss" in text), "algo.kl.unbiased_gradient": str("unbiased" in text)}
    estimators = names_after(text, "--algo.advantage.estimator") or ["rloo"]
    return [
        {**shared, "algo.kl.estimator": kind, "algo.advantage.estimator": estimator}
        for kind, estimator in product(names_after(text, "--algo.kl.estimator"), estimators)
    ]


SETTINGS = {TRL: trl_settings, VERL: verl_settings, OPENRLHF: openrlhf_settings}


def test_the_page_and_the_facts_have_the_same_rows():
    assert len(ROWS) == 39
    labels = [f"{TITLES[trainer]} {n}" for trainer, rows in MEASURED.items() for n in range(1, len(rows) + 1)]
    assert [row[0] for row in ROWS] == labels


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_combination_of_a_row_is_that_row(row):
    label, text, on_policy, off_policy, verdict = row
    trainer = NAMES[label.split()[0]]
    combinations = SETTINGS[trainer](text)
    assert combinations
    for settings in combinations:
        fact = kl_fact(trainer, settings)
        assert (fact.row, fact.gradient, fact.off_policy) == (label, on_policy, off_policy), settings
        assert fact.as_named == (verdict.startswith("yes") or "its optimum is that of the reverse KL" in verdict)
        assert fact.beta > 0


def test_a_combination_that_was_not_measured_is_not_guessed():
    for trainer, settings in [
        (TRL, {"beta": "0.1", "loss_type": "new"}),
        (VERL, {"use_kl_in_reward": "true"}),  # with the default adv_estimator=gae
        (VERL, {"use_kl_in_reward": "true", "use_kl_loss": "true"}),
        (OPENRLHF, {"algo.advantage.estimator": "gae"}),
    ]:
        fact = kl_fact(trainer, settings)
        assert not fact.measured
        assert fact.beta > 0
        assert not fact.as_named
    assert kl_fact(OPENRLHF, {"algo.advantage.estimator": "rloo"}).measured  # control
    with pytest.raises(KeyError):
        kl_fact(TRL, {"betta": "0.1"})


def test_without_a_kl_term_beta_is_zero():
    assert [kl_fact(trainer, {}).beta for trainer in (TRL, VERL, OPENRLHF)] == [0.0, 0.0, 0.01]
    assert kl_fact(TRL, {"algorithm": "rloo"}).beta == float(RLOO_BETA)
    assert {row for row in SAME_OPTIMUM} == {row[0] for row in ROWS if "but its optimum" in row[4]}


@pytest.mark.slow
def test_the_defaults_are_those_of_trl():
    trl = pytest.importorskip("trl", reason="needs the extra trl")
    config, own = trl.GRPOConfig, dict(DEFAULTS[TRL])
    assert own.pop("algorithm") == "grpo"
    fields = config.__dataclass_fields__
    assert {name: str(fields[name].default).lower() for name in own} == own
    assert str(trl.RLOOConfig.__dataclass_fields__["beta"].default) == RLOO_BETA
