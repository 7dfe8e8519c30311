"""The closing table and pictures of a sweep, which the package of its runs makes."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def report_sweep(package: str, folders: Sequence[Path], sweep: Path) -> None:
    """Call `PACKAGE.report.report_sweep(folders, sweep)`. Does nothing for one run, or if the package has none.

    Args:
        package: the import name of a package, or PACKAGE.COMMAND, which has no report of its own.
        folders: run folders of the finished runs.
        sweep: the folder to write to.
    """
    if len(folders) < 2 or "." in package or find_spec(f"{package}.report") is None:
        return
    report = getattr(import_module(f"{package}.report"), "report_sweep", None)
    if report is not None:
        report(folders, sweep)
