"""The picture of the shipped prior: what is read from its card, and how its samples are compared with its report."""

import json

import pytest

from chem.models.prior import SHIPPED
from chem.models.prior_report import draw_report, measure_molecules
from tools.prior_picture import differences, held_out_losses

CARD = (SHIPPED / "MODEL_CARD.md").read_text("utf-8")
REPORT = json.loads((SHIPPED / "report.json").read_text("utf-8"))
REPORT.pop("data")  # not numbers


def test_the_losses_of_the_card_end_with_that_of_the_report():
    rows = held_out_losses(CARD)
    assert rows[0] == {"step": 999, "validation/molecule": 25.26}
    assert rows[-1]["step"] == 15_279
    assert rows[-1]["validation/molecule"] == pytest.approx(REPORT["validation/molecule"], abs=0.005)
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    with pytest.raises(ValueError, match="not enough values"):
        held_out_losses(CARD.replace("Held-out loss in nats", "Loss"))


def test_a_figure_that_differs_is_named():
    assert differences(REPORT, REPORT) == []
    assert differences({"validity": REPORT["validity"] + 1e-5}, REPORT) == []
    other = {"validity": 0.9, "property/qed": {**REPORT["property/qed"], "std": 0.2}}
    assert differences(other, REPORT) == [
        f"property/qed/std 0.2, report.json {REPORT['property/qed']['std']}",
        f"validity 0.9, report.json {REPORT['validity']}",
    ]


def test_a_report_is_drawn_without_the_losses_of_single_updates(tmp_path):
    sides = measure_molecules(["CCO", "Cc1ccccc1"]), measure_molecules(["CCN", "c1ccncc1"])
    draw_report(held_out_losses(CARD), *sides, tmp_path / "prior.png")
    assert (tmp_path / "prior.png").stat().st_size > 10_000
