"""What the pages name exists: links, files, modules and their members."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from launch.cli.mara import CommandError, find_command
from launch.cli.shadowing import ROOMS

HOME = Path(__file__).resolve().parents[1]
PAGES = sorted([*HOME.glob("*.md"), *HOME.glob("docs/**/*.md"), *HOME.glob("benchmarks/*.md")])
TO_BE_MADE = {  # by the reader
    "llm/tasks/bare_digit.py",
    "conf/llm/experiment/bare_digit.yaml",
    "conf/llm/experiment/mine.yaml",
}
FOLDERS = (*ROOMS, "tests", "tools", "docs", "benchmarks", "hydra_plugins", ".github")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(text: str, page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        source = target.read_text("utf-8") if target.suffix == ".md" and target.is_file() else ""
        headings = re.findall(r"^#+ (.*)$", source, re.MULTILINE)
        if not target.exists() or (anchor and anchor not in map(slug, headings)):
            broken.append(link)
    return broken


def missing_files(text: str) -> list[str]:
    """Files in back ticks that do not exist."""
    names = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+\.\w+)`", text)
    placeholder = re.compile("NAME|ROOM|PACKAGE")
    return [name for name in names if not (placeholder.search(name) or name in TO_BE_MADE or (HOME / name).exists())]


def missing_names(text: str) -> list[str]:
    """Dotted names in back ticks, and modules after `python -m`, that cannot be imported."""
    dotted = re.findall(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)", text)
    dotted += re.findall(rf"python -m ((?:{'|'.join(ROOMS)})(?:\.\w+)*)", text)
    return [name for name in dict.fromkeys(dotted) if not resolves(name)]


def unknown_commands(text: str) -> list[str]:
    """The words after `mara`, in code, that name no command."""
    code = "\n".join(re.findall(r"^```.*?^```|^ {4}.*?$|`[^`\n]+`", text, re.MULTILINE | re.DOTALL))
    typed = re.compile(r"(?:^ *|`|[.]venv/bin/)mara ([a-z][\w.]*(?: [a-z][\w-]*(?=[\s`]|$))?)", re.MULTILINE)
    found = []
    for words in sorted(set(typed.findall(code))):
        try:
            find_command(words.split())
        except CommandError:
            found.append(words)
    return found


def resolves(name: str) -> bool:
    """Whether a module or a member of one is called so."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(HOME)))
def test_what_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":  # names what was removed
        text = text.partition("### Removed")[0]
    assert broken_links(text, page) == []
    assert missing_files(text) == []
    assert missing_names(text) == []
    assert unknown_commands(text) == []


def test_control_what_does_not_exist_is_found():
    page = HOME / "README.md"
    assert broken_links("[a](docs/no.md) [b](docs/mara.md#no-such) [c](docs/mara.md) [d](https://x.y)", page) == [
        "docs/no.md",
        "docs/mara.md#no-such",
    ]
    assert missing_files("`core/no.py` `core/mara.py` `NAME.py`") == ["core/no.py"]
    assert missing_names("`core.mara.no` `core.no.mara` `core.mara.augment_reward` python -m llm.no") == [
        "core.mara.no",
        "core.no.mara",
        "llm.no",
    ]
    text = "`mara llm plan` `mara llm seed=0`\n    mara colect A\n`mara llm pln x=1`\nmara runs on"
    assert unknown_commands(text) == ["colect", "llm pln"]
