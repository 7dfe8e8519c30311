"""The documentation as a site: links between pages, and a build that needs no network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")

from tools.site_hooks import page_text, relink

HOME = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("source", "place", "link", "expected"),
    [
        ("docs/mara.md", "mara.md", "[a](methods.md#b)", "[a](methods.md#b)"),
        ("docs/mara.md", "mara.md", "![a](images/demo.png)", "![a](images/demo.png)"),
        ("docs/mara.md", "mara.md", "[a](../benchmarks/RESULTS.md#b)", "[a](results.md#b)"),
        ("docs/mara.md", "mara.md", "[a](https://x.y/z.md)", "[a](https://x.y/z.md)"),
        ("docs/mara.md", "mara.md", "[the code](../core/mara.py)", "the code"),
        ("docs/decisions/0001.md", "decisions/0001.md", "[a](../speed.md)", "[a](../speed.md)"),
        ("README.md", "index.md", "![a](docs/images/demo.png)", "![a](images/demo.png)"),
        ("README.md", "index.md", "[a](docs/mara.md) [b](CHANGELOG.md)", "[a](mara.md) [b](changelog.md)"),
        ("README.md", "index.md", "[a](docs/decisions) `[a](docs/mara.md)`", "a `[a](docs/mara.md)`"),
    ],
)
def test_links_hold_on_the_site(source, place, link, expected):
    assert relink(link, source, place) == expected


def build(config, folder):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", config]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [*command, "--site-dir", folder], cwd=HOME, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(HOME / "mkdocs.yml", folder)  # without --quiet, which hides warnings from --strict
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.long  # `make docs` builds it as well
def test_the_site_is_built_without_a_warning_and_asks_no_other_server(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]+?(?:src|href)=\"?(https?://[^\"\s>]+)")
    for page in pages:
        found = [url for url in loaded.findall(page.read_text("utf-8")) if "rel=canonical" not in url]
        assert found == [], page


@pytest.mark.long
def test_generated_pages_are_on_the_site(site):
    assert "objective.gamma" in (site / "configuration" / "llm.html").read_text("utf-8")
    mara = (site / "core" / "mara.html").read_text("utf-8")
    assert "augment_reward" in mara
    assert "Mode-anchored reward augmentation" in mara
    assert "Three doors" in (site / "index.html").read_text("utf-8")


def test_a_notebook_is_a_page_with_its_outputs():
    name = "notebooks/quickstart.ipynb"
    page = page_text((HOME / name).read_text("utf-8"), name)
    assert page.startswith("# Collapse and cure")
    assert page.count("```python") == 6
    assert "without MARA  1: 0.878 2: 0.122" in page
    assert page.count("](data:image/png;base64,") == 1
    assert "[explorer](explorer.html)" in relink(page, name, "notebook.md")
    assert page_text("{}", "README.md") == "{}"  # control: other files are Markdown already


@pytest.mark.slow
def test_control_a_broken_link_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](nowhere.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: a\ndocs_dir: docs\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert "nowhere.md" in done.stderr
