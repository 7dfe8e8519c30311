"""Hooks of mkdocs: pages that are made from the code, and links that hold both in the repository and on the site."""

import json
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME))  # mkdocs is a program of its own

from tools import configuration_pages  # noqa: E402

OUTSIDE = {  # pages of the repository that are not in docs, by their place on the site
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "results.md": "benchmarks/RESULTS.md",
    "reporting.md": "SECURITY.md",
    "prior.md": "chem/prior/MODEL_CARD.md",
    "notebook.md": "notebooks/quickstart.ipynb",
}
FENCE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the parts of the navigation that list generated pages, and those of a folder."""
    filled: dict[str, Any] = {
        "CONFIGURATION": list(configuration_texts()),
        "CORE": [f"core/{path.stem}.md" for path in core_modules()],
        "DECISIONS": [f"decisions/{path.name}" for path in sorted((HOME / "docs/decisions").glob("*.md"))],
    }
    config.nav = [_fill(item, filled) for item in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs."""
    texts = {**configuration_texts(), **{f"core/{path.stem}.md": core_page(path) for path in core_modules()}}
    texts |= {place: page_text((HOME / name).read_text("utf-8"), name) for place, name in OUTSIDE.items()}
    for place, text in texts.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page."""
    place = page.file.src_uri
    return relink(markdown, OUTSIDE.get(place, f"docs/{place}"), place)


@cache
def configuration_texts() -> dict[str, str]:
    """The pages of configuration keys, which take seconds to compose, by path."""
    return configuration_pages.pages()


def core_modules() -> list[Path]:
    """The modules of core that have a page."""
    return [path for path in sorted((HOME / "core").glob("*.py")) if path.stem != "__init__"]


def core_page(path: Path) -> str:
    """The page of a module of core."""
    return f"# core.{path.stem}\n\n::: core.{path.stem}\n"


def page_text(text: str, name: str) -> str:
    """The Markdown of a file: that of a notebook has its code, what it printed and its pictures."""
    if not name.endswith(".ipynb"):
        return text
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![what the cell draws](data:image/png;base64,{''.join(data['image/png']).strip()})")
            else:
                printed = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
                parts.append(f"```text\n{printed}\n```")
    return "\n\n".join(parts) + "\n"


def relink(text: str, source: str, place: str) -> str:
    """Make a page's relative links lead to pages of the site; a link to another file becomes its text.

    Args:
        text: Markdown.
        source: the page's file, relative to the repository.
        place: the page's path on the site.
    """

    def rewrite(match: re.Match[str]) -> str:
        image, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        if re.match(r"[a-z]+:", target):
            return match[0]
        name = os.path.normpath(os.path.join(os.path.dirname(source), target))
        page = next((page for page, file in OUTSIDE.items() if file == name), None)
        if page is None and name.startswith("docs/"):
            page = name.removeprefix("docs/")
        if page is None or (HOME / name).is_dir():
            return label
        return f"{image}[{label}]({os.path.relpath(page, os.path.dirname(place) or '.')}{anchor})"

    parts = FENCE.split(text)
    return "".join(part if FENCE.fullmatch(part) else LINK.sub(rewrite, part) for part in parts)


def _fill(item: Any, filled: dict[str, Any]) -> Any:
    if isinstance(item, dict):
        return {title: _fill(content, filled) for title, content in item.items()}
    if isinstance(item, list):
        return [_fill(content, filled) for content in item]
    return filled.get(item, item)
