"""The page and the print of a diagnosis: everything is shown, escaped, and loads nothing."""

import re
from dataclasses import dataclass, field

from launch.analysis.diagnosis_page import PAGE, fitted, print_report, show_diagnosis, write_page
from launch.runs import console as consoles

HOSTILE = "<script>alert(1)</script>"


@dataclass
class Table:
    title: str = "a table"
    columns: tuple = (("answer", "label"), ("note", "text"), ("share", "number"))
    rows: tuple = ((HOSTILE, "why", "50%"), ("b", "so", "5%"))
    legend: str = "the legend"


@dataclass
class Section:
    name: str = "course"
    title: str = "Over training"
    paragraphs: tuple = ("A paragraph: python -m llm.plan.", "It collapses.")
    tables: tuple = (Table(),)


@dataclass
class Change:
    what: str = "Do this"
    why: str = "because"
    settings: str = "beta=1"


@dataclass
class Report:
    finding: str = "It collapses."
    sections: tuple = (Section(), Section("kl", "The KL term", ("Text.",), ()))
    advice: tuple = (Change(), Change("Do that"))
    unknown: tuple = ("Nobody knows.",)


@dataclass
class Curve:
    label: str = "x" * 99
    x: tuple = (1, 2, 3)
    y: tuple = (0.1, 0.2, 0.3)
    error: tuple = ()
    dashed: bool = False


@dataclass
class Panel:
    title: str = "$title$"
    curves: list = field(default_factory=lambda: [Curve(), Curve("dashed", dashed=True)])
    onset: tuple | None = (2.0, 0.5)


def test_everything_is_shown_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MARA_STARTED_AS", "mara")
    page = show_diagnosis(
        Report(),
        {"course": [Panel()], "kl": []},
        tmp_path / "out",
        title="rollouts",
        notes=[f"read {HOSTILE}"],
        commands=["python -m llm.plan"],
    )
    printed = capsys.readouterr().out
    assert page == tmp_path / "out" / PAGE
    for text in (
        "It collapses.",
        "Over training",
        "mara llm plan",
        "1. Do this: because.",
        "2. Do that",
        "Nobody knows.",
    ):
        assert text in printed
    assert printed.count("It collapses.") == 1  # the finding is not repeated
    assert "picture: " in printed
    assert "page: " in printed
    assert "next: mara llm plan" in printed
    text = page.read_text("utf-8")
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;") == 2
    assert "A paragraph: mara llm plan." in text
    assert not re.search(r'(src|href)="(?!data:|#|")', text)
    assert text.count("<img") == 1
    assert [line for line in re.findall(r'href="#([\w-]+)"', text)] == ["change", "course", "kl", "unknown", "read"]
    assert all(f'id="{name}"' in text for name in ("change", "course", "kl", "unknown", "read"))
    assert "<script" not in text


def test_a_report_without_advice_says_so(capsys, tmp_path):
    report = Report(advice=(), unknown=())
    print_report(report)
    assert "Nothing that these files show." in capsys.readouterr().out
    assert "What cannot be known" not in write_page(tmp_path / PAGE, report, {}, "x").read_text("utf-8")


def test_a_table_fits_the_terminal():
    with consoles.console.capture() as captured:
        consoles.console.print(fitted(Table()))
    assert "the legend" in captured.get()
