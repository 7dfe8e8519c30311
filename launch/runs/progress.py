"""The progress of a training loop: a bar on a terminal, otherwise one line for each quarter of the steps."""

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from launch.runs.console import console


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
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=7)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[values]}", markup=False),  # names of metrics may hold brackets
        )
        self.bar = Progress(*columns, console=console, disable=not self.with_bar)
        self.task = self.bar.add_task("train", total=total, completed=done, values="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Show that `done` steps are completed, with the metrics that were logged last."""
        shown = ((label, metrics.get(key)) for label, key in self.show.items())
        values = "  ".join(f"{label} {value:.3f}" for label, value in shown if value is not None)
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
