"""The part of a page between two marks, which a command writes, and what stands around it."""

from pathlib import Path

from conf.schema.base import ConfigError
from launch.runs.run_folder import write_text

TABLE = ("<!-- table -->\n\n", "\n<!-- end of the table -->")  # the marks of a page with one table


def around(page: Path, begin: str, end: str) -> tuple[str, str]:
    """What stands before and after the marked part of a page, both with their mark.

    Args:
        page: the page.
        begin: the text after which the part begins.
        end: the text before which it ends.

    Raises:
        ConfigError: the page cannot be read, or has no such part.
    """
    before, _, after = _split(page, begin, end)
    return before + begin, end + after


def read_marked(page: Path, begin: str, end: str) -> str:
    """The marked part of a page. Arguments and errors are those of `around`."""
    return _split(page, begin, end)[1]


def write_marked(page: Path, begin: str, end: str, text: str) -> None:
    """Replace the marked part of a page; the rest stays. Arguments and errors are those of `around`."""
    before, after = around(page, begin, end)
    write_text(page, before + text + after)


def _split(page: Path, begin: str, end: str) -> tuple[str, str, str]:
    try:
        text = page.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{page}: cannot be read: {reason}") from None
    before, has_begin, rest = text.partition(begin)
    part, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise ConfigError(f"{page}: must have the lines {begin.strip()!r} and {end.strip()!r} around what is written")
    return before, part, after
