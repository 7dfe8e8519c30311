"""What shows that a command is busy: a bar or a line that moves on a terminal, otherwise lines at times."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from launch.runs.console import console

SPINNER, FRAMES = "line", r"-\|/"  # of ASCII characters, which every terminal has
Item = TypeVar("Item")
LOG_SECONDS = 5.0  # a log says what a command is doing if that takes longer


@dataclass
class Part:
    """A part of a command that is going on.

    reminder: prints the text after LOG_SECONDS, where there is no terminal.
    """

    text: str
    start: float = field(default_factory=time.monotonic)
    reminder: threading.Timer | None = None


_parts: list[Part] = []  # the innermost last
_live: Live | None = None  # the line that shows it, if there is one at present


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show that a part of a command is going on, which takes seconds without an output.

    On a terminal a line shows the part and its seconds, and disappears at the end. Otherwise the text is printed once
    if the part takes longer than LOG_SECONDS. Inside of another part, this one is shown until it ends.

    Args:
        text: what the command does, such as "loading the model".
    """
    global _live
    part = Part(text)
    _cancel_reminders()
    _parts.append(part)
    shown = _live is None and _on_terminal()
    if shown:
        _live = _start_live()
    elif not _on_terminal():
        part.reminder = threading.Timer(LOG_SECONDS, info, (f"{text} ...",))
        part.reminder.daemon = True
        part.reminder.start()
    try:
        yield
    finally:
        _cancel_reminders()
        if shown and _live is not None:
            live, _live = _live, None
            live.stop()
        _parts.remove(part)


@contextmanager
def paused() -> Iterator[None]:
    """Hide the line of `working` while something else shows the progress."""
    global _live
    _cancel_reminders()
    live, _live = _live, None
    if live is not None:
        live.stop()
    try:
        yield
    finally:
        if live is not None:
            _live = _start_live()


def _cancel_reminders() -> None:
    for part in _parts:
        if part.reminder is not None:
            part.reminder.cancel()


def tracked(items: Iterable[Item], text: str) -> Iterator[Item]:
    """Iterate over items, with a bar on a terminal that disappears at the end."""
    if not _on_terminal():
        with working(text):
            yield from items
        return
    columns = (
        SpinnerColumn(SPINNER),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with paused(), Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=text)


def info(message: str) -> None:
    """Print a line."""
    console.print(message, soft_wrap=True)


def _on_terminal() -> bool:
    return console.is_terminal and not console.quiet


def _start_live() -> Live:
    def line() -> Text:
        now, part = time.monotonic(), _parts[-1]
        text = f" {part.text} ... {now - part.start:.0f} s"
        return Text(FRAMES[int(8 * now) % len(FRAMES)] + text, overflow="ellipsis", no_wrap=True)

    live = Live(
        get_renderable=line,
        console=console,
        refresh_per_second=4,
        transient=True,
        redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
    )
    live.start(refresh=True)
    return live


class StepProgress:
    """Shows the number of completed steps and the latest values of some metrics.

    Args:
        total: number of steps.
        done: number of steps that are already completed.
        show: the keys of the metrics to show, or a mapping from label to key.
        info: prints a line.
        visible: whether this process shows a bar.
        budget: a metric and its limit, where the run also ends once the metric has reached the limit. What is shown
            is the progress in the steps or in the budget, whichever is further.
    """

    def __init__(
        self,
        total: int,
        done: int,
        show: Mapping[str, str] | Iterable[str],
        info: Callable[[str], None],
        visible: bool,
        budget: tuple[str, int] | None = None,
    ) -> None:
        self.total, self.info, self.budget = total, info, budget
        self.quarter = 4 * done // max(total, 1)
        self.show = dict(show) if isinstance(show, Mapping) else {key: key for key in show}
        self.with_bar = console.is_terminal and visible
        largest = max(total, 0 if budget is None else budget[1])
        columns = (
            SpinnerColumn(SPINNER),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=max(7, 2 * len(str(largest)) + 1))),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[values]}", markup=False),  # names of metrics may hold brackets
        )
        self.bar = Progress(*columns, console=console, disable=not self.with_bar)
        self.task = self.bar.add_task("train", total=total, completed=done, values="")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(paused())
            stack.enter_context(self.bar)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def advance(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Show that `done` steps are completed, with the metrics that were logged last."""
        shown = ((label, metrics.get(key)) for label, key in self.show.items())
        values = "  ".join(f"{label} {shown_value(value)}" for label, value in shown if value is not None)
        completed, total, budget = self._position(done, metrics)
        self.bar.update(self.task, total=total, completed=completed, values=values)
        quarter, self.quarter = self.quarter, 4 * completed // total
        if self.quarter > quarter and not self.with_bar:
            self.info(f"step {done}/{self.total}{budget}  {values}")

    def _position(self, done: int, metrics: Mapping[str, Any]) -> tuple[int, int, str]:
        """What is completed, of how much, and the budget in words: steps, or what is spent if that is further."""
        if self.budget is None:
            return done, self.total, ""
        key, limit = self.budget
        spent = min(int(metrics.get(key) or 0), limit)
        words = f", {spent:,}/{limit:,} of the budget"
        return (spent, limit, words) if spent * self.total > done * limit else (done, self.total, words)


def shown_value(value: float) -> str:
    """A metric with three decimals, or a count without any."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
