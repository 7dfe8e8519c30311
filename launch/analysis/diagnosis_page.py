"""Print a diagnosis of a training run, and write it as diagnosis.html: one file that loads nothing.

`core.diagnosis` computes it, and `llm.diagnose` and `chem.diagnose` read the files. The classes here describe what
is shown, so that this package needs to import none of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from jinja2 import Environment, PackageLoader

from launch.analysis.diagnosis_figures import Panel, draw_panels
from launch.analysis.html import embedded_picture
from launch.cli.command_table import as_typed
from launch.runs.atomic import make_folder
from launch.runs.closing import show_next, show_pictures, shown_path
from launch.runs.console import console
from launch.runs.fitted_table import FittedTable
from launch.runs.run_folder import write_text

PAGE = "diagnosis.html"


class Table(Protocol):
    """A table: title, (header, kind) of each column, rows of texts, legend."""

    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def columns(self) -> Sequence[tuple[str, Literal["label", "text", "number"]]]: ...  # noqa: D102
    @property
    def rows(self) -> Sequence[Sequence[str]]: ...  # noqa: D102
    @property
    def legend(self) -> str: ...  # noqa: D102


class Section(Protocol):
    """A part of the report. Its name is that of its anchor and figure."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def title(self) -> str: ...  # noqa: D102
    @property
    def paragraphs(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def tables(self) -> Sequence[Table]: ...  # noqa: D102


class Advice(Protocol):
    """A change: what, why, and the trainer's settings."""

    @property
    def what(self) -> str: ...  # noqa: D102
    @property
    def why(self) -> str: ...  # noqa: D102
    @property
    def settings(self) -> str: ...  # noqa: D102


class Report(Protocol):
    """A diagnosis in words: the finding, sections, what to change, and what cannot be known."""

    @property
    def finding(self) -> str: ...  # noqa: D102
    @property
    def sections(self) -> Sequence[Section]: ...  # noqa: D102
    @property
    def advice(self) -> Sequence[Advice]: ...  # noqa: D102
    @property
    def unknown(self) -> Sequence[str]: ...  # noqa: D102


def show_diagnosis(
    report: Report,
    panels: Mapping[str, Sequence[Panel]],
    out: Path,
    *,
    title: str,
    notes: Sequence[str] = (),
    x_label: str = "step",
    commands: Sequence[str] = (),
) -> Path:
    """Print a report, write its figures and its page, and print where they are and what can follow.

    Args:
        report: the diagnosis in words.
        panels: those of the figure of each section, by its name.
        out: the folder to write to.
        title: what was diagnosed.
        notes: what was read, and how.
        x_label: of the figures.
        commands: that can follow.

    Returns:
        The page.
    """
    print_report(report, notes)
    make_folder(out)
    drawn = {name: content for name, content in panels.items() if content}
    pictures = {name: draw_panels(content, out / f"{name}.png", x_label) for name, content in drawn.items()}
    page = write_page(out / PAGE, report, pictures, title, notes)
    show_pictures(pictures.values())
    console.print(f"page: {shown_path(page)}", soft_wrap=True)
    show_next(commands)
    return page


def print_report(report: Report, notes: Sequence[str] = ()) -> None:
    """Print a report: the finding first, then the sections, what to change and what cannot be known."""
    for note in notes:
        console.print(as_typed(note), style="dim")
    console.print(report.finding, style="bold")
    for section in report.sections:
        console.print(f"\n{section.title}", style="bold underline")
        for text in section.paragraphs:
            if text not in report.finding:
                console.print(as_typed(text))
        for table in section.tables:
            console.print(fitted(table))
    console.print("\nWhat to change", style="bold underline")
    for number, change in enumerate(report.advice, 1):
        console.print(f"{number}. {change.what}: {change.why}.")
        console.print(f"   {as_typed(change.settings)}", style="bold")
    if not report.advice:
        console.print("Nothing that these files show.")
    if report.unknown:
        console.print("\nWhat cannot be known from these files", style="bold underline")
        for text in report.unknown:
            console.print(f"- {as_typed(text)}")
    console.print()


def fitted(table: Table) -> FittedTable:
    """A table for the terminal."""
    result = FittedTable(table.title, table.legend)
    for header, kind in table.columns:
        result.add_column(header, kind)
    for row in table.rows:
        result.add_row(*row)
    return result


def write_page(
    path: Path, report: Report, pictures: Mapping[str, Path], title: str, notes: Sequence[str] = ()
) -> Path:
    """Write a report with its pictures as one HTML file, in which all text of the files is escaped."""
    environment = Environment(loader=PackageLoader("launch.analysis", "."), autoescape=True)
    environment.filters["typed"] = as_typed
    page = environment.get_template("diagnosis.html.j2").render(
        report=report,
        title=title,
        notes=notes,
        pictures={name: embedded_picture(picture) for name, picture in pictures.items()},
    )
    write_text(path, f"{page}\n")
    return path
